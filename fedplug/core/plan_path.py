"""A training plan class from a Python file: what stands behind ``training_plan_path``."""

from __future__ import annotations

import hashlib
import importlib
import linecache
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import decode_source
from pathlib import Path

import fedplug
from fedplug.core.errors import PlanSourceError, UnknownNameError, UsageError
from fedplug.core.helper_import import name_problem, top_of
from fedplug.core.helper_source import INSTALLED
from fedplug.core.training_plan import TrainingPlan

_LOCK = threading.RLock()  # the search path for modules is one for all threads


def load_plan_class(path: str | Path, class_name: str | None = None) -> type:
    """Execute a Python file and return a class that it defines.

    The file is executed anew each time, under a name of its own and with its folder first on Python's search path,
    so an edited file gives the new class, and two files of one name do not disturb each other.

    Args:
        path: The file.
        class_name: Name of the class; None: the only training plan that the file defines.

    Raises:
        UsageError: There is no such file, or its name does not end in ``.py``; or it defines several training plans (or
            none) and no name was given.
        UnknownNameError: It has no class of that name; the nearest is given.
        PlanSourceError: It is not Python, or raises when it is executed.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "is not there"
        raise UsageError(f"The file of a training plan, {file}, {kind}.", cure="Check training_plan_path.")
    if file.suffix != ".py":
        raise UsageError(
            f"{file} is no Python file: its name does not end in .py.",
            cure="training_plan_path names the .py file that defines the plan.",
        )
    module = _execute(file)
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    if class_name is not None:
        if class_name not in classes:
            own = [name for name, value in classes.items() if value.__module__ == module.__name__]
            raise UnknownNameError(f"class in {file}", class_name, own)
        return classes[class_name]
    plans = [v for v in classes.values() if v.__module__ == module.__name__ and issubclass(v, TrainingPlan)]
    plans = list(dict.fromkeys(plans))
    if len(plans) != 1:
        listed = ", ".join(plan.__name__ for plan in plans)
        raise UsageError(
            f"{file} defines {len(plans)} training plans: {listed}." if plans else f"{file} defines no training plan.",
            cure="Give the name of the class too."
            if plans
            else "Derive a class from TorchTrainingPlan, or name a model.",
        )
    return plans[0]


def _execute(file: Path) -> types.ModuleType:
    try:
        text = decode_source(file.read_bytes())
        code = compile(text, str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise PlanSourceError(f"{file} has a syntax error in line {error.lineno}: {error.msg}: {line}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise PlanSourceError(f"{file} cannot be read as Python: {error}.") from None
    digest = hashlib.sha256(f"{file}\0{text}".encode()).hexdigest()
    module = types.ModuleType(f"fedplug_plan_file_{digest[:24]}")
    module.__file__ = str(file)
    status = file.stat()
    # The text that was executed, for those who look up the source of the class; `linecache` itself looks at times only.
    linecache.cache[str(file)] = (status.st_size, status.st_mtime, text.splitlines(keepends=True), str(file))
    with _LOCK, _neighbours_first(file.parent):
        sys.modules[module.__name__] = module
        try:
            exec(code, vars(module))  # noqa: S102 - the user's own file, as if imported
        except Exception as error:
            del sys.modules[module.__name__]
            frames = traceback.walk_tb(error.__traceback__)
            lines = [line for frame, line in frames if frame.f_code.co_filename == str(file)]
            where = f" in line {lines[-1]}" if lines else ""
            cure = _import_cure(error.name or "") if isinstance(error, NameError) else ""
            raise PlanSourceError(f"{file} failed{where}: {type(error).__name__}: {error}.", cure=cure) from error
    return module


_HOMES = {
    "TorchTrainingPlan": "fedplug_torch",
    **dict.fromkeys(
        (
            "FedSGDClassifier",
            "FedSGDRegressor",
            "FedPerceptron",
            "FedGaussianNB",
            "FedPartialFit",
            "SKLearnTrainingPlan",
        ),
        "fedplug_sklearn",
    ),
}
"""Where the plans of well-known plugins lie."""


def _import_cure(name: str) -> str:
    """What to do about a name that a file uses without having it."""
    home = "fedplug" if name in fedplug.__all__ else _HOMES.get(name, "")
    example = f": from {home} import {name}" if home else ", e.g. from fedplug_torch import TorchTrainingPlan"
    return f"The file is executed here as it stands, so it must import what it uses{example}"


@contextmanager
def _neighbours_first(folder: Path) -> Iterator[None]:
    """Let imports find the modules of a folder first, and forget these modules afterwards.

    The next file may have other modules of the same names beside it, or the same ones edited.
    """
    beside = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    beside = {name for name in beside if not name_problem(name, {})}

    def of_the_folder() -> dict[str, types.ModuleType]:
        found = {name: module for name, module in [*sys.modules.items()] if top_of(name) in beside}
        return {n: m for n, m in found.items() if not INSTALLED & set(Path(getattr(m, "__file__", None) or "").parts)}

    hidden = of_the_folder()
    for name in hidden:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in of_the_folder():
            del sys.modules[name]
        sys.modules.update(hidden)
