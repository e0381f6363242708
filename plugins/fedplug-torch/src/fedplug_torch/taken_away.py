"""Takes away from a plan what a training without an optimizer does not have, and notices who asks for it.

The plan's own loop moves its parameters by an optimizer, and leaves their gradients where they are until the next step.
Plans may look at both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_GRADIENTS = "the plan works with gradients by itself"
_OPTIMIZER = "the plan works with its optimizer by itself"


class TakenAway:
    """The optimizer of a plan, and the gradients of its parameters.

    Args:
        plan: The plan; nobody but its own code needs its optimizer any more.
        model: Its model, where it will stay.
    """

    def __init__(self, plan: TorchTrainingPlan, model: nn.Module) -> None:
        self._asked: list[str] = []
        plan._optimizer = _Closed(self._asked)
        self._zeros: dict[torch.dtype, torch.Tensor] = {}
        for parameter in model.parameters():
            zero = self._zeros.setdefault(parameter.dtype, parameter.new_zeros(()).detach())
            gradient = zero.expand(parameter.shape).as_subclass(_NoGradient)
            gradient.asked = self._asked
            parameter.grad = gradient

    def asked(self) -> str:
        """What somebody has asked for, in words; empty if nothing."""
        if self._asked:
            return self._asked[0]
        return _GRADIENTS if any(zero._version for zero in self._zeros.values()) else ""


class _NoGradient(torch.Tensor):
    """Stands where the gradient of the step before would be."""

    asked: list[str]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in args:
            if isinstance(each, cls):
                each.asked.append(_GRADIENTS)
        raise RuntimeError(_GRADIENTS)


class _Closed:
    """Stands where the optimizer was."""

    def __init__(self, asked: list[str]) -> None:
        object.__setattr__(self, "_asked", asked)

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "_asked").append(_OPTIMIZER)
        raise RuntimeError(_OPTIMIZER)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__getattribute__(name)

    def __repr__(self) -> str:
        return str(self.__getattribute__("__repr__"))
