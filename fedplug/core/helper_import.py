"""Helper modules of a plan on the machine that executes it: imported under private names, seen by that plan only.

The plan's module and its helpers run with builtins of their own, whose ``__import__`` looks among the helpers
first. So ``import my_layers`` means ``fedplug_plan_<hash>.my_layers`` there, and nowhere else: neither
``sys.modules["my_layers"]`` nor a helper of that name of another plan is touched. The rest is Python's own
machinery (one execution, circular imports, locks), fed by a finder that knows the private names.
"""

from __future__ import annotations

import builtins
import keyword
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

MAX_HELPERS = 1000
"""Most helper modules that a plan may carry."""

_MAX_NAME = 256

_plans: dict[str, PlanImports] = {}


class PlanImports:
    """The imports of one plan.

    Args:
        root: Private name of the plan's module.
        helpers: Text of each helper by its dotted name.
        files: The names by which tracebacks know these texts.
    """

    def __init__(self, root: str, helpers: Mapping[str, str], files: Mapping[str, str]) -> None:
        self.root = root
        self.helpers = helpers
        self.files = files
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._tops = {top_of(name) for name in helpers}

    def install(self) -> None:
        """Let the private names be found."""
        _plans[self.root] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.append(_FINDER)
        for name, text in self.helpers.items():
            remember(self.files[name], text)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level or top_of(name) not in self._tops:
            return __import__(name, globals, locals, fromlist or (), level)
        try:
            found = __import__(f"{self.root}.{name}", globals, locals, fromlist or (), 0)
        except ModuleNotFoundError as error:
            public = (error.name or "").removeprefix(f"{self.root}.")
            if public == error.name:
                raise
            raise ModuleNotFoundError(f"No module named {public!r} among the plan's helpers", name=public) from None
        return found if fromlist else sys.modules[f"{self.root}.{top_of(name)}"]


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, name = fullname.partition(".")
        plan = _plans.get(root)
        if plan is None or name not in plan.helpers:
            return None
        loader = _Loader(plan, name)
        return ModuleSpec(fullname, loader, origin=plan.files[name], is_package=is_package(name, plan.helpers))


class _Loader(Loader):
    def __init__(self, plan: PlanImports, name: str) -> None:
        self._plan = plan
        self._name = name

    def exec_module(self, module: types.ModuleType) -> None:
        file = self._plan.files[self._name]
        code = compile(self._plan.helpers[self._name], file, "exec", dont_inherit=True)
        module.__file__ = file
        vars(module)["__builtins__"] = self._plan.builtins
        exec(code, vars(module))  # noqa: S102 - part of the training plan, which was authorised as a whole


_FINDER = _Finder()


def forget(root: str) -> None:
    """Remove the modules of a plan that could not be set up."""
    for name in modules_of(root):
        sys.modules.pop(name, None)


def modules_of(root: str) -> list[str]:
    """Names of the modules of a plan that are loaded: its own, which is ``root``, and those of its helpers."""
    plan = _plans.get(root)  # not all that is loaded, which may be thousands
    names = [root, *(f"{root}.{name}" for name in (plan.helpers if plan else ()))]
    return [name for name in names if name in sys.modules]


def is_of_plan(name: str, root: str) -> bool:
    """Whether a module is that of a plan, whose name is ``root``, or one of its helpers."""
    return name == root or name.startswith(f"{root}.")


def remember(file: str, text: str) -> None:
    """Let tracebacks show the lines of a text that has no file."""
    if not is_remembered(file):
        # Without a modification time, the entry is good until somebody clears the whole cache.
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)


def is_remembered(file: str) -> bool:
    """Whether tracebacks know the lines of a text by this name."""
    return file in linecache.cache


def top_of(name: str) -> str:
    """The first part of a dotted name."""
    return name.partition(".")[0]


def is_package(name: str, helpers: Mapping[str, str]) -> bool:
    """Whether there are helpers below ``name``."""
    return any(other.startswith(f"{name}.") for other in helpers)


def name_problem(name: str, helpers: Mapping[str, str]) -> str:
    """Why a helper cannot have this name, as the end of a sentence; empty if it can."""
    parts = name.split(".")
    if len(name) > _MAX_NAME or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        return "is no name of a module"
    if parts[0] in sys.stdlib_module_names or parts[0] in sys.builtin_module_names:
        return f"shadows {parts[0]!r} of Python's standard library"
    if parts[0] == "fedplug" or parts[0].startswith("fedplug_"):
        return "shadows a package of FedPlug"
    parent = name.rpartition(".")[0]
    return f"comes without its package {parent!r}" if parent and parent not in helpers else ""
