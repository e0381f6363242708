"""What a plan or its model may carry from one training to the next, where it is set up once for many."""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)
_FUNCTIONS = (FunctionType, BuiltinFunctionType)
_LIBRARY = ("torch", "fedplug", "fedplug_torch", "builtins", "abc", "typing")
_OF_A_MODULE = frozenset(vars(nn.Module()))
_OF_A_PLAN = frozenset(("_setup", "_model", "_optimizer", "_scheduler", "_tags", "_imported"))


def own_classes(plan: TorchTrainingPlan, model: nn.Module) -> list[type]:
    """The classes of a plan and its model that no library has written."""
    classes = {base for kind in {type(plan), *map(type, model.modules())} for base in kind.__mro__}
    own = [kind for kind in classes if kind.__module__.partition(".")[0] not in _LIBRARY]
    return sorted(own, key=lambda kind: kind.__qualname__)


class Attributes:
    """The attributes of a plan, its model's modules and their classes, to see whether a training has changed one.

    Args:
        plan: The plan.
        model: Its model.
    """

    def __init__(self, plan: TorchTrainingPlan, model: nn.Module) -> None:
        holders: list[Mapping[str, Any]] = [vars(plan), *(vars(module) for module in model.modules())]
        holders += [vars(module)[kind] for module in model.modules() for kind in ("_parameters", "_buffers")]
        holders += [vars(kind) for kind in own_classes(plan, model)]
        self._holders = [(holder, dict(holder)) for holder in holders]
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def changed(self) -> str:
        """What is another object than it was, or where gradients have been left, in words; empty if nothing."""
        for holder, before in self._holders:
            if holder.keys() != before.keys():
                return "the plan or its model has got other attributes in training"
            for name, value in holder.items():
                if value is not before[name] and name != "_setup":
                    return f"the plan or its model has changed its {name!r} in training"
        if any(parameter.grad is not None for parameter in self._parameters):
            return "the plan works with gradients by itself"
        return ""


def own_state(plan: TorchTrainingPlan, model: nn.Module) -> str:
    """What a plan or its model could carry from one node to the next, besides parameters and buffers."""
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    if any(id(buffer) not in saved for buffer in model.buffers()):
        return "the model has a buffer that is not persistent"
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            return "the model has dropout, which draws random numbers"
        for name in vars(module).keys() - _OF_A_MODULE:
            if not is_immutable(vars(module)[name]):
                return f"the model keeps something by itself ({type(module).__name__}.{name})"
        if any(vars(module)[name] for name in _OF_A_MODULE if name.endswith("_hooks")):
            return "the model has hooks"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters()):
        return "the parameters have hooks"
    for name in vars(plan).keys() - _OF_A_PLAN:
        if not is_immutable(vars(plan)[name]):
            return f"the plan keeps something by itself (self.{name})"
    return ""


def is_immutable(value: object) -> bool:
    """Whether nobody can change a value in place; a function is one that closes over nothing."""
    if isinstance(value, tuple | frozenset):
        return all(map(is_immutable, value))
    if isinstance(value, FunctionType) and value.__closure__:
        return False
    return isinstance(value, (*_IMMUTABLE, *_FUNCTIONS))
