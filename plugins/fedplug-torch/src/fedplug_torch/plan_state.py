"""What a plan or its model may carry from one training to the next, where it is set up once for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedplug_torch.plan_parts import is_immutable, own_classes
from fedplug_torch.purity import aware
from fedplug_torch.taken_away import TakenAway

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_OF_A_MODULE = frozenset(vars(nn.Module()))
_OF_A_PLAN = frozenset(("_setup", "_model", "_optimizer", "_scheduler", "_tags", "_imported"))


class Attributes:
    """What a plan, its model's modules and tensors and their classes have, to see whether a training changes it.

    Args:
        plan: The plan; its optimizer is taken away from it (`fedplug_torch.taken_away`).
        model: Its model, whose parameters will lie where they are; their gradients are taken away.
    """

    def __init__(self, plan: TorchTrainingPlan, model: nn.Module) -> None:
        self._taken = TakenAway(plan, model)
        modules, tensors = list(model.modules()), _tensors(model)
        inner = [value for module in modules for value in vars(module).values() if isinstance(value, dict)]
        holders: list[Mapping[str, Any]] = [vars(plan), *map(vars, modules), *inner, *map(vars, tensors)]
        holders += map(vars, own_classes(plan, model))
        self._holders = [(holder, dict(holder)) for holder in holders if holder]
        self._empty = [holder for holder in holders if not holder]
        self._tensors = [(tensor, _place(tensor)) for tensor in tensors]
        self._gradients = [(tensor, tensor.grad) for tensor in tensors if tensor.requires_grad]

    def changed(self) -> str:
        """What is another object than it was, or lies elsewhere, in words; empty if nothing."""
        if why := self._taken.asked():
            return why
        for holder, before in self._holders:
            if holder.keys() != before.keys():
                return "the plan or its model has got other attributes in training"
            for name, value in holder.items():
                if value is not before[name] and name != "_setup":
                    return f"the plan or its model has changed its {name!r} in training"
        if any(self._empty):
            return "the plan or its model has got other attributes in training"
        if any(_place(tensor) != before for tensor, before in self._tensors):
            return "the plan freezes or replaces parameters by itself, or adds hooks to them"
        if any(tensor.grad is not before for tensor, before in self._gradients):
            return "the plan works with gradients by itself"
        return ""


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What of a tensor, besides its values, a step needs to find as it was."""
    hooks: Any = tensor
    has_hooks = bool(hooks._backward_hooks or hooks._post_accumulate_grad_hooks)
    return tensor.requires_grad, tensor.data_ptr(), tensor.dtype, tensor.shape, has_hooks


def own_state(plan: TorchTrainingPlan, model: nn.Module) -> str:
    """What a plan or its model could carry from one node to the next, besides parameters and buffers."""
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    if any(id(buffer) not in saved for buffer in model.buffers()):
        return "the model has a buffer that is not persistent"
    if any(id(parameter) not in saved for parameter in model.parameters()):
        return "the model has a parameter that its state_dict leaves out"
    places = [tensor.untyped_storage().data_ptr() for tensor in _tensors(model) if tensor.numel()]
    if len(set(places)) < len(places):
        return "the model has two tensors over the same memory"
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
    return aware(plan, model)
