"""Whether a step is nothing but arithmetic on its model and its batch, as far as its code tells.

A recorded step is played back without its code being run. That is the same only if the code reads and writes nothing
that could be another thing the next time, and does nothing that somebody sees. Attributes of the plan, its modules and
their classes are watched elsewhere (`fedplug_torch.plan_state`); here it is global names, and what is called by them.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedplug.core.training_plan import TrainingPlan
from fedplug_torch.plan_state import is_immutable, own_classes

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_ARITHMETIC = frozenset(
    ("torch", "numpy", "math", "cmath", "functools", "itertools", "operator", "typing", "collections", "fedplug",
     "fedplug_torch", "builtins")
)  # fmt: skip
"""Packages whose functions do the same each time, random numbers aside, which are noticed elsewhere."""

_HARMLESS = frozenset(
    ("abs", "all", "any", "callable", "divmod", "format", "getattr", "hasattr", "isinstance", "issubclass", "iter",
     "len", "max", "min", "next", "pow", "repr", "round", "sorted", "sum", "__build_class__")
)  # fmt: skip
"""Functions of Python that do nothing but give back a value, besides its types; `print` and `open` do more."""

_DOCUMENTING = frozenset(("__annotations__", "__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"))


def impure(plan: TorchTrainingPlan, model: nn.Module) -> str:
    """What a plan's step depends on besides its model and its batch, in words; empty if nothing is seen."""
    seen: set[FunctionType] = set()
    return next(filter(None, (_of_class(kind, seen) for kind in own_classes(plan, model))), "")


def _of_class(kind: type, seen: set[FunctionType]) -> str:
    for name, value in vars(kind).items():
        function = getattr(value, "__func__", value)
        if isinstance(value, property):
            function = value.fget
        if isinstance(function, FunctionType):
            if _is_of_step(kind, name) and (why := _of_function(function, seen)):
                return why
        elif name not in _DOCUMENTING and not _is_fixed(value):
            return f"{kind.__name__}.{name} could change"
    return ""


def _is_of_step(kind: type, name: str) -> bool:
    """Whether a method can be called in a step; of a plan, those that only set it up cannot."""
    return not (issubclass(kind, TrainingPlan) and (name in _SETTING_UP or name == "testing_step"))


_SETTING_UP = frozenset(("init_model", "init_optimizer", "training_data", "init_dependencies", "init_helpers"))


def _of_function(function: FunctionType, seen: set[FunctionType]) -> str:
    if function in seen:
        return ""
    seen.add(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not _is_fixed(cell.cell_contents):
            return f"its step uses {name!r} of an enclosing function, which could change"
    for instruction in _instructions(function.__code__):
        name = instruction.argval
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return f"its step changes the global {name!r}"
        if instruction.opname == "IMPORT_NAME" and not _is_arithmetic(name):
            return f"its step imports {name!r}"
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        if name in function.__globals__:
            why = _of_global(name, function.__globals__[name], seen)
        else:
            known = name in _HARMLESS or isinstance(getattr(builtins, name, None), type)
            why = "" if known else f"its step calls {name}()"
        if why:
            return why
    return ""


def _of_global(name: str, value: Any, seen: set[FunctionType]) -> str:
    if isinstance(value, ModuleType):
        return "" if _is_arithmetic(value.__name__) else f"its step uses the module {value.__name__!r}"
    if isinstance(value, FunctionType | type) and not _is_arithmetic(value.__module__ or ""):
        return _of_function(value, seen) if isinstance(value, FunctionType) else _of_class(value, seen)
    return "" if _is_fixed(value) else f"its step uses the global {name!r}, which could change"


def _is_arithmetic(module: str) -> bool:
    return module.partition(".")[0] in _ARITHMETIC


def _is_fixed(value: Any) -> bool:
    if is_immutable(value) or isinstance(value, type | torch.Tensor | FunctionType):
        return True
    return callable(value) and _is_arithmetic(type(value).__module__)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
