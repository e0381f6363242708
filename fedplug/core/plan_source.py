"""A training plan as text: what travels, and how a node turns it into a class again.

What travels is a `PlanBundle`: the source of the class, its import lines, its name. The bundle's SHA-256 is
the plan's identity: the bytes that are hashed are the bytes that are executed. How the text of a class is
found is the business of `fedplug.core.class_source`.

Annotations are never evaluated in a bundle (it is compiled as under ``from __future__ import annotations``),
so names that only occur in annotations need not travel.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import inspect
import linecache
import sys
import threading
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from fedplug.core.class_source import class_attributes, class_source, free_names
from fedplug.core.errors import PlanError, PlanSourceError

if TYPE_CHECKING:
    from fedplug.core.training_plan import TrainingPlan

MAX_SOURCE = 4 * 1024 * 1024
"""Largest bundle that is accepted, in bytes."""

MAX_NAME = 256
"""Longest name of a plan's class, in characters."""

_FLAGS = __future__.annotations.compiler_flag
_LOCK = threading.RLock()  # several simulated nodes may load one plan at once


class PlanBundle(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """A training plan as it travels.

    Attributes:
        class_name: Name of the plan's class.
        source: Source text of the class.
        dependencies: Import statements that the source needs, one each.
        helpers: Source text of helper modules by module name; part of the identity like everything else.
            Reserved: bundles that carry any are refused so far.
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
        return bundle

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of `encode`: the identity of the plan."""
        if "_hash" not in self.__dict__:
            self.__dict__["_hash"] = hashlib.sha256(self.encode()).hexdigest()
        return str(self.__dict__["_hash"])

    @property
    def code(self) -> str:
        """The whole text as it is executed: import lines, two empty lines, the class."""
        return "\n".join(self.dependencies) + "\n\n\n" + self.source


def plan_file(bundle: PlanBundle) -> str:
    """The name under which tracebacks and `linecache` know the text of a bundle that was executed."""
    return f"<training plan {bundle.class_name} {bundle.hash[:12]}>"


def bundle_plan(plan_class: type[TrainingPlan]) -> PlanBundle:
    """The bundle of a plan class that is defined in a script, a module or a notebook cell.

    The bundle is executed once here, as a node would, so that a missing import or a name from outside the
    class is found before anything is sent.

    Raises:
        PlanSourceError: The source cannot be found, does not compile, or uses names that do not travel.
    """
    missing = sorted(getattr(plan_class, "__abstractmethods__", ()))
    if missing:
        raise PlanSourceError(
            f"Training plan {plan_class.__name__!r} lacks {', '.join(missing)}.",
            cure="Define the missing methods in the class.",
        )
    return checked_bundle(PlanBundle(plan_class.__name__, class_source(plan_class), tuple(_dependencies(plan_class))))


def checked_bundle(bundle: PlanBundle) -> PlanBundle:
    """The same bundle, after it was found to need nothing that does not travel, and to define its class.

    Raises:
        PlanSourceError: It uses names that do not travel, does not compile, or does not define its class.
    """
    _refuse_foreign_names(bundle)
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


def _refuse_foreign_names(bundle: PlanBundle) -> None:
    """Raise if the source refers to names that neither it nor its import lines define."""
    used = free_names(bundle.source, bundle.class_name)
    namespace: dict[str, Any] = {}
    if used:
        code = _compile("\n".join(bundle.dependencies), bundle)
        _run(code, namespace, bundle)
    missing = sorted(used - set(namespace))
    if not missing:
        return
    own = class_attributes(bundle.source)
    if missing[0] in own:
        cure = f"It is defined inside the class: write self.{missing[0]}."
    else:
        cure = (
            f"Return the import of {missing[0]!r} from init_dependencies (as a string, e.g. "
            '"import numpy as np"), or define it inside the class and write self.' + missing[0] + "."
        )
    raise PlanSourceError(
        f"Training plan {bundle.class_name!r} uses {', '.join(map(repr, missing))}, not defined inside the class. "
        "Only the class and its import lines travel to the nodes.",
        cure=cure,
    )


def _dependencies(plan_class: type[TrainingPlan]) -> Iterable[str]:
    lines = list(plan_class.default_dependencies())
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
            body = ast.parse(line.strip()).body
        except (SyntaxError, ValueError) as error:
            raise PlanSourceError(f"init_dependencies: {line!r} is not Python: {error}.") from None
        if not body or not all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
            raise PlanSourceError(
                f"init_dependencies: {line!r} is not an import statement.", cure='E.g. "import numpy as np".'
            )
        if any(isinstance(node, ast.ImportFrom) and node.level for node in body):
            raise PlanSourceError(
                f"init_dependencies: {line!r} is relative to a package that the nodes do not have.",
                cure="Import from an installed package by its full name.",
            )
        lines.append(line.strip())
    return dict.fromkeys(lines)


def _execute(bundle: PlanBundle) -> dict[str, Any]:
    """Run a bundle as a module of its own, which tracebacks and pickles can refer to; at most once."""
    if bundle.helpers:
        raise PlanSourceError(
            f"Training plan {bundle.class_name!r} carries helper modules, which this version cannot load.",
            cure="Define what the plan needs inside its class.",
        )
    name = f"fedplug_plan_{bundle.hash}"
    with _LOCK:
        _remember(bundle)
        if name in sys.modules:
            return vars(sys.modules[name])
        module = types.ModuleType(name)
        module.__file__ = plan_file(bundle)
        compiled = _compile(bundle.code, bundle)
        sys.modules[name] = module
        try:
            _run(compiled, vars(module), bundle)
        except BaseException:
            del sys.modules[name]
            raise
        return vars(module)


def _remember(bundle: PlanBundle) -> None:
    """Let tracebacks show the lines of a bundle."""
    file = plan_file(bundle)
    if file not in linecache.cache:
        text = bundle.code
        # Without a modification time, the entry is good until somebody clears the whole cache.
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)


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
        raise PlanSourceError(
            f"Training plan {bundle.class_name!r} cannot be set up: {type(error).__name__}: {error}.",
            cure="Import what it needs in init_dependencies; the packages must be installed on the nodes too.",
        ) from error
