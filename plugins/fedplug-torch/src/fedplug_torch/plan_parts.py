"""What a plan is made of: which of its classes are its own, and which values nobody can change in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from fedplug.core import code_reach

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

FRAMEWORKS = ("torch", "fedplug_torch")
_LIBRARY = (*FRAMEWORKS, "fedplug", "builtins", "abc", "typing")


def own_classes(plan: TorchTrainingPlan, model: nn.Module) -> list[type]:
    """The classes of a plan and its model that no library has written."""
    classes = {base for kind in {type(plan), *map(type, model.modules())} for base in kind.__mro__}
    own = [kind for kind in classes if not code_reach.is_of(kind, _LIBRARY)]
    return sorted(own, key=lambda kind: kind.__qualname__)


def is_immutable(value: object) -> bool:
    """As `fedplug.core.code_reach.is_immutable`."""
    return code_reach.is_immutable(value, (torch.dtype, torch.device))


def is_fixed(value: object) -> bool:
    """Whether a value of torch does the same each time: a tensor, or a layer that no plan has written.

    What is written into a tensor is noticed when the operation is recorded.
    """
    if isinstance(value, nn.Module):
        return all(code_reach.is_of(type(module), FRAMEWORKS) for module in value.modules())
    return isinstance(value, torch.Tensor) or is_immutable(value)
