"""Helper modules of a plan at the researcher: found by name, read as text, checked before anything is sent."""

from __future__ import annotations

import ast
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from importlib.util import decode_source, find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedplug.core.errors import FedplugWarning, PlanError, PlanSourceError
from fedplug.core.helper_import import MAX_HELPERS, is_package, name_problem, top_of
from fedplug.core.syntax import parse

if TYPE_CHECKING:
    from fedplug.core.training_plan import TrainingPlan

_ONLY_TEXT = "Only text travels: have it installed on the nodes, and import it in init_dependencies."
INSTALLED = {"site-packages", "dist-packages"}
"""Folders in whose path installed packages lie."""


def collect_helpers(plan_class: type[TrainingPlan]) -> dict[str, str]:
    """The text of the helper modules that ``init_helpers`` names, by dotted name; of a package, all its modules.

    They are read from their files as these are now, whatever was imported from them before.

    Raises:
        PlanSourceError: One cannot be found, is not Python, or cannot travel; it is named.
    """
    helpers: dict[str, str] = {}
    folders: set[Path] = set()
    needed = {top_of(name) for line in plan_class.default_dependencies() for _, name in imports_of(line)}
    for item in _named(plan_class):
        name = item if isinstance(item, str) else item.__name__
        top = top_of(name)
        if top in needed:
            raise _refused(top, "shadows a package that every plan of this framework needs", "Give it another name.")
        problem = name_problem(top, {})
        if problem:
            raise _refused(top, problem, "Give it another name.")
        if top not in helpers:
            file = _file_of(top, item if isinstance(item, types.ModuleType) else None, folder_of(plan_class))
            folders.add(file.parent.parent if file.name == "__init__.py" else file.parent)
            helpers |= _texts(top, file)
    if len(helpers) > MAX_HELPERS:
        raise PlanSourceError(f"A plan may have at most {MAX_HELPERS} helper modules, but this one has {len(helpers)}.")
    for name, text in helpers.items():
        _refuse_leading_out(name, text, helpers)
    for folder in sorted(folders):
        for name, text in helpers.items():
            warn_of_neighbours(f"Helper module {name!r}", text, folder, helpers)
    return helpers


def folder_of(plan_class: type) -> Path:
    """Where the file of a plan lies; the current folder if it has none, as in a notebook."""
    file = getattr(sys.modules.get(plan_class.__module__), "__file__", None)
    return Path(file).resolve().parent if file else Path.cwd()


class _Import(NamedTuple):
    line: int
    module: str
    level: int


@lru_cache(maxsize=64)  # each text is asked several times for each plan, and plans of one file have the same helpers
def _all_imports(text: str) -> tuple[_Import, ...]:
    found: list[_Import] = []
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Import):
            found += [_Import(node.lineno, alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(_Import(node.lineno, node.module or "", node.level))
    return tuple(found)


def imports_of(text: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module that a text imports absolutely."""
    return ((each.line, each.module) for each in _all_imports(text) if not each.level)


def warn_of_neighbours(who: str, text: str, folder: Path, helpers: Mapping[str, str]) -> None:
    """Warn if a text imports a file that lies beside it and does not travel."""
    for line, name in imports_of(text):
        top = top_of(name)
        beside = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
        if beside and top not in helpers and not name_problem(top, {}) and not _is_installed(top):
            warnings.warn(
                f"{who} imports {top!r} in line {line}, a module beside it that does not travel to the nodes. "
                f"Name it in init_helpers, unless it is installed there: return [{top!r}].",
                FedplugWarning,
                stacklevel=2,
            )


def _named(plan_class: type[TrainingPlan]) -> list[str | types.ModuleType]:
    try:
        found: object = plan_class().init_helpers()  # a user's: who knows what it returns
    except PlanError:
        raise
    except Exception as error:
        raise PlanSourceError(
            f"init_helpers of {plan_class.__name__!r} failed: {type(error).__name__}: {error}.",
            cure='It takes no argument and returns a list of modules or their names, e.g. ["my_layers"].',
        ) from error
    listed: list[Any] = [] if isinstance(found, str) or not isinstance(found, Iterable) else list(found)
    if not isinstance(found, list | tuple | set | frozenset) or not all(
        isinstance(item, str | types.ModuleType) for item in listed
    ):
        raise PlanSourceError(
            f"init_helpers of {plan_class.__name__!r} must return a list of modules or of their names.",
            cure='E.g. return ["my_layers"], for a file my_layers.py beside the plan.',
        )
    return sorted(listed, key=str) if isinstance(found, set | frozenset) else listed


def _file_of(top: str, module: types.ModuleType | None, folder: Path) -> Path:
    """The file of a module, or the ``__init__.py`` (which need not be there) of a package."""
    if module is not None and module.__name__ == top and module.__file__:
        origin: str | None = module.__file__
    elif (folder / top / "__init__.py").is_file():
        origin = str(folder / top / "__init__.py")
    elif (folder / f"{top}.py").is_file():
        origin = str(folder / f"{top}.py")
    else:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):  # it is being imported, or was made by hand
            spec = None
        places = list(spec.submodule_search_locations or ()) if spec else []
        if spec is None or not (spec.has_location or places):
            raise _refused(top, "cannot be found", f"Put {top}.py beside the plan, or on Python's path.")
        origin = spec.origin if spec.has_location else str(Path(places[0]) / "__init__.py")
    path = Path(str(origin)).resolve()
    if INSTALLED & set(path.parts) or _is_installed(top):
        raise _refused(
            top,
            "has the name of an installed package, and installed packages do not travel",
            f'Import it in init_dependencies ("import {top}"), and have it installed on the nodes too; or give '
            "your own file another name.",
        )
    if path.suffix != ".py":
        raise _refused(top, f"is no Python source but {path.name}", _ONLY_TEXT)
    return path


def _is_installed(top: str) -> bool:
    places = [place for place in sys.path if INSTALLED & set(Path(place).parts)]
    return PathFinder.find_spec(top, places) is not None


def _texts(top: str, file: Path) -> dict[str, str]:
    """The text of a module, or of all modules of a package."""
    if file.name != "__init__.py":
        return {top: _read(top, file)}
    helpers = {top: ""}
    for path in sorted(file.parent.rglob("*")):
        parts = path.relative_to(file.parent).with_suffix("").parts
        if any(path.name.endswith(suffix) for suffix in EXTENSION_SUFFIXES):
            raise _refused(top, f"has a compiled part, {path.name}", _ONLY_TEXT)
        if path.suffix != ".py" or parts[-1] == "__main__" or not all(part.isidentifier() for part in parts):
            continue
        name = ".".join((top, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        for depth in range(1, name.count(".") + 1):  # folders without an __init__.py are packages too
            helpers.setdefault(".".join(name.split(".")[:depth]), "")
        helpers[name] = _read(name, path)
    return helpers


def _read(name: str, file: Path) -> str:
    try:
        text = decode_source(file.read_bytes())
        _compile(text, str(file))
    except SyntaxError as error:
        raise _refused(name, f"has a syntax error in line {error.lineno} of {file}: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(name, f"cannot be read from {file}: {error}") from None
    return text


@lru_cache(maxsize=64)
def _compile(text: str, file: str) -> None:
    compile(text, file, "exec", dont_inherit=True)


def _refuse_leading_out(name: str, text: str, helpers: Mapping[str, str]) -> None:
    """Refuse relative imports but those from one module of a helper package to another."""
    package = name if is_package(name, helpers) else name.rpartition(".")[0]
    parts = package.split(".") if package else []
    for line, module, level in _all_imports(text):
        if not level:
            continue
        base = ".".join(parts[: len(parts) - level + 1])
        target = f"{base}.{module}" if module else base
        if len(parts) < level or target not in helpers:
            written = f"from {'.' * level}{module} import ..."
            raise _refused(
                name,
                f"imports relatively in line {line} ({written}), which leads out of what travels",
                "Name both modules in init_helpers and import by the full name, e.g. import other_helper.",
            )


def _refused(name: str, problem: str, cure: str = "") -> PlanSourceError:
    return PlanSourceError(f"Helper module {name!r} {problem}.", cure=cure)
