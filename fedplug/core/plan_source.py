"""A training plan as text: what travels, and how a node turns it into a class again.

What travels is a `PlanBundle`: the source of the class, its import lines, its name, its helper modules. The
bundle's SHA-256 is the plan's identity: the bytes that are hashed are the bytes that are executed. How the text of
a class is found is the business of `fedplug.core.class_source`; of helpers, of `fedplug.core.helper_source`.

Annotations are never evaluated in a bundle (it is compiled as under ``from __future__ import annotations``),
so names that only occur in annotations need not travel.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import inspect
import sys
import threading
import types
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from fedplug.core.class_source import class_attributes, class_source, free_names
from fedplug.core.errors import FedplugWarning, PlanError, PlanSourceError
from fedplug.core.foreign_names import cure_of
from fedplug.core.helper_import import MAX_HELPERS, PlanImports, forget, is_remembered, name_problem, remember, top_of
from fedplug.core.helper_source import collect_helpers, folder_of, warn_of_neighbours
from fedplug.core.line_ends import as_python_reads
from fedplug.core.plan_methods import check_methods
from fedplug.core.syntax import parse

if TYPE_CHECKING:
    from fedplug.core.training_plan import TrainingPlan

MAX_SOURCE = 4 * 1024 * 1024
"""Largest bundle that is accepted, in bytes."""

MAX_NAME = 256
"""Longest name of a plan's class, in characters."""

BUNDLE = "__fedplug_bundle__"
"""Name under which the module of an executed plan holds its bundle."""

_FLAGS = __future__.annotations.compiler_flag
_RESERVED = {
    "__init__": "which is reserved for the library: you do it at your own risk. Call super().__init__() without "
    "arguments, and use init_model and training_data instead where you can",
    "training_routine": "which is never called: the training loop is the library's, and hooks change what it does",
    "testing_routine": "which is never called: write testing_step",
}
_LOCK = threading.RLock()  # several simulated nodes may load one plan at once


class PlanBundle(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """A training plan as it travels.

    Attributes:
        class_name: Name of the plan's class.
        source: Source text of the class.
        dependencies: Import statements that the source needs, one each.
        helpers: Source text of helper modules by dotted name; part of the identity like everything else.
    """

    class_name: str
    source: str
    dependencies: tuple[str, ...] = ()
    helpers: dict[str, str] = {}

    def encode(self) -> bytes:
        """The canonical bytes: what is hashed, approved, sent and executed."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: Any) -> PlanBundle:
        """The bundle that ``data`` encodes.

        Raises:
            PlanSourceError: The bytes are not a bundle, or larger than `MAX_SOURCE`.
        """
        if memoryview(data).nbytes > MAX_SOURCE:
            raise PlanSourceError(f"A training plan may have at most {MAX_SOURCE:,} bytes of source.")
        try:
            bundle = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PlanSourceError(f"These bytes are not a training plan: {error}.") from None
        # It stands in logs, file names of tracebacks and messages, so it must be what it claims to be.
        if not bundle.class_name.isidentifier() or len(bundle.class_name) > MAX_NAME:
            raise PlanSourceError("These bytes are not a training plan: the name of its class cannot be one.")
        bundle._refuse_helpers()
        return bundle

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of `encode`: the identity of the plan."""
        if "_hash" not in self.__dict__:
            self.__dict__["_hash"] = hashlib.sha256(self.encode()).hexdigest()
        return str(self.__dict__["_hash"])

    @property
    def code(self) -> str:
        """The text of the plan's module as it is executed: import lines, two empty lines, the class."""
        return "\n".join(self.dependencies) + "\n\n\n" + self.source

    @property
    def text(self) -> str:
        """All that is executed, to be read by a person: `code`, then each helper module under its name.

        Lines end where Python ends them; see `as_python_reads`.
        """
        parts = [f"\n\n# helper module {name}\n\n{text}" for name, text in sorted(self.helpers.items())]
        return as_python_reads(self.code + "".join(parts))

    def _refuse_helpers(self) -> None:
        if len(self.helpers) > MAX_HELPERS:
            raise PlanSourceError(f"A training plan may have at most {MAX_HELPERS} helper modules.")
        for name in self.helpers:
            problem = name_problem(name, self.helpers)
            if problem:
                raise PlanSourceError(f"The name of a helper module, {name[:80]!r}, cannot be used: it {problem}.")


def plan_file(bundle: PlanBundle, helper: str = "") -> str:
    """The name under which tracebacks and `linecache` know a text of a bundle that was executed.

    Args:
        bundle: The bundle.
        helper: Name of a helper module; empty: the plan itself.
    """
    return f"<training plan {bundle.class_name} {bundle.hash[:12]}{helper and ' helper '}{helper}>"


def bundle_of(plan_class: type) -> PlanBundle | None:
    """The bundle that a plan class was loaded from; None if it was defined in another way."""
    module = sys.modules.get(plan_class.__module__)
    bundle = None if module is None else vars(module).get(BUNDLE)
    loaded = isinstance(bundle, PlanBundle) and vars(module).get(bundle.class_name) is plan_class
    return bundle if loaded else None


def bundle_plan(plan_class: type[TrainingPlan]) -> PlanBundle:
    """The bundle of a plan class that is defined in a script, a module or a notebook cell.

    The bundle is executed once here, as a node would, so that a missing import or a name from outside the
    class is found before anything is sent. A class that was loaded from a bundle gives that bundle again.

    Raises:
        PlanSourceError: The source or a helper module cannot be found, does not compile, or uses names that do
            not travel.
    """
    known = bundle_of(plan_class)
    if known is not None:
        return known
    missing = sorted(getattr(plan_class, "__abstractmethods__", ()))
    if missing:
        raise PlanSourceError(
            f"Training plan {plan_class.__name__!r} lacks {', '.join(missing)}.",
            cure="Define the missing methods in the class.",
        )
    for name, risk in _RESERVED.items():
        if name in vars(plan_class):
            text = f"Training plan {plan_class.__name__!r} overrides {name}, {risk}."
            warnings.warn(text, FedplugWarning, stacklevel=2)
    source = class_source(plan_class)
    _refuse_relative_imports(plan_class.__name__, source)
    check_methods(plan_class, source)
    helpers = collect_helpers(plan_class)
    lines = tuple(_dependencies(plan_class, helpers))
    bundle = PlanBundle(plan_class.__name__, source, lines, helpers)
    warn_of_neighbours("The plan", bundle.code, folder_of(plan_class), helpers)
    if len(bundle.encode()) > MAX_SOURCE:
        largest = max([("its class", source), *helpers.items()], key=lambda part: len(part[1]))
        raise PlanSourceError(
            f"Training plan {bundle.class_name!r} has {len(bundle.encode()):,} bytes of source; {MAX_SOURCE:,} are "
            f"allowed. Most of it, {len(largest[1]):,} characters, is {largest[0]}.",
            cure="Data does not belong into source: have it read from the data set, or name fewer modules in "
            "init_helpers.",
        )
    return checked_bundle(bundle, plan_class.__module__)


def checked_bundle(bundle: PlanBundle, home: str = "") -> PlanBundle:
    """The same bundle, after it was found to need nothing that does not travel, and to define its class.

    Args:
        bundle: The bundle.
        home: Name of the module that the class was defined in, for better advice.

    Raises:
        PlanSourceError: It uses names that do not travel, does not compile, or does not define its class.
    """
    _refuse_foreign_names(bundle, home)
    load_plan(bundle)
    return bundle


def load_plan(bundle: PlanBundle) -> type[TrainingPlan]:
    """Execute a bundle and return its class. The same bundle gives the same class.

    This runs the researcher's code: a node calls it only for a plan that it has authorised, and only in a
    worker process.

    Raises:
        PlanSourceError: It does not compile, an import fails, or it does not define the class.
    """
    from fedplug.core.training_plan import TrainingPlan

    found = _execute(bundle).get(bundle.class_name)
    if not (isinstance(found, type) and issubclass(found, TrainingPlan)):
        raise PlanSourceError(
            f"The source defines no training plan named {bundle.class_name!r}.",
            cure="The class must derive from a training plan base such as TorchTrainingPlan.",
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PlanSourceError(f"Training plan {bundle.class_name!r} lacks {missing}.")
    return found


def _refuse_foreign_names(bundle: PlanBundle, home: str) -> None:
    """Raise if the source refers to names that neither it nor its import lines define."""
    used = free_names(bundle.source, bundle.class_name)
    namespace: dict[str, Any] = {}
    if used:
        code = _compile("\n".join(bundle.dependencies), bundle)
        with _LOCK:
            namespace = dict(vars(_module(bundle))) if bundle.helpers else {}
            _run(code, namespace, bundle)
    missing = sorted(used - set(namespace))
    if not missing:
        return
    if missing[0] in class_attributes(bundle.source):
        cure = f"It is defined inside the class: write self.{missing[0]}."
    else:
        cure = cure_of(missing[0], home)
    raise PlanSourceError(
        f"Training plan {bundle.class_name!r} uses {', '.join(map(repr, missing))}, not defined inside the class. "
        "Only the class and its import lines travel to the nodes.",
        cure=cure,
    )


def _refuse_relative_imports(name: str, source: str) -> None:
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise PlanSourceError(
                f"Training plan {name!r} imports relatively ({ast.unparse(node)}), but is in no package at the nodes.",
                cure='Name the module in init_helpers, e.g. return ["my_layers"], and import it by its full name.',
            )


def _dependencies(plan_class: type[TrainingPlan], helpers: Iterable[str]) -> Iterable[str]:
    lines = list(plan_class.default_dependencies())
    lines += [f"import {top}" for top in dict.fromkeys(map(top_of, helpers))]
    try:
        method: Any = plan_class().init_dependencies  # a user's: who knows what it returns
        own = method()
    except PlanError:
        raise
    except Exception as error:
        raise PlanSourceError(
            f"init_dependencies of {plan_class.__name__!r} failed: {type(error).__name__}: {error}.",
            cure='It takes no argument and returns a list of import statements, e.g. ["import numpy as np"].',
        ) from error
    if isinstance(own, str) or not isinstance(own, Iterable) or not all(isinstance(line, str) for line in own):
        raise PlanSourceError(
            f"init_dependencies of {plan_class.__name__!r} must return a list of import statements.",
            cure='E.g. return ["import numpy as np"].',
        )
    for line in own:
        try:
            body = parse(line.strip()).body
        except (SyntaxError, ValueError) as error:
            raise PlanSourceError(f"init_dependencies: {line!r} is not Python: {error}.") from None
        if not body or not all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
            raise PlanSourceError(
                f"init_dependencies: {line!r} is not an import statement.", cure='E.g. "import numpy as np".'
            )
        if any(isinstance(node, ast.ImportFrom) and node.level for node in body):
            raise PlanSourceError(
                f"init_dependencies: {line!r} is relative to a package that the nodes do not have.",
                cure="Import by the full name: an installed package, or a module that init_helpers names.",
            )
        lines.append(line.strip())
    return dict.fromkeys(lines)


def _execute(bundle: PlanBundle) -> dict[str, Any]:
    """Run a bundle as a module of its own, which tracebacks and pickles can refer to; at most once."""
    with _LOCK:
        file = plan_file(bundle)
        if not is_remembered(file):
            remember(file, bundle.code)
        module = _module(bundle)
        if BUNDLE not in vars(module):
            try:
                _run(_compile(bundle.code, bundle), vars(module), bundle)
            except BaseException:
                forget(module.__name__)
                raise
            setattr(module, BUNDLE, bundle)
        return vars(module)


def _module(bundle: PlanBundle) -> types.ModuleType:
    """The module of a bundle, which may not have been executed yet; its helpers can be imported."""
    name = f"fedplug_plan_{bundle.hash}"
    module = sys.modules.get(name)
    if module is None:
        bundle._refuse_helpers()
        module = types.ModuleType(name)
        module.__file__ = plan_file(bundle)
        if bundle.helpers:
            imports = PlanImports(name, bundle.helpers, {each: plan_file(bundle, each) for each in bundle.helpers})
            imports.install()
            module.__path__ = []
            vars(module)["__builtins__"] = imports.builtins
        sys.modules[name] = module
    return module


def _compile(text: str, bundle: PlanBundle) -> types.CodeType:
    try:
        code: types.CodeType = compile(text, plan_file(bundle), "exec", flags=_FLAGS, dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise PlanSourceError(
            f"Training plan {bundle.class_name!r} has a syntax error in line {error.lineno}: {error.msg}: {line}"
        ) from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise PlanSourceError(f"Training plan {bundle.class_name!r} cannot be compiled: {error}.") from None
    return code


def _run(code: types.CodeType, namespace: dict[str, Any], bundle: PlanBundle) -> None:
    try:
        exec(code, namespace)  # noqa: S102 - this is what a training plan is for
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = str(error).replace(f"fedplug_plan_{bundle.hash}.", "")  # the private name of a helper
        raise PlanSourceError(
            f"Training plan {bundle.class_name!r} cannot be set up: {type(error).__name__}: {said}.",
            cure="Import what it needs in init_dependencies; the packages must be installed on the nodes too.",
        ) from error
