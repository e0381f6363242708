"""The lean step for PyTorch: SGD without an optimizer object, over parameters in one buffer.

For a small model, most of a step is not arithmetic: clearing gradients, storing them, and going through the groups,
defaults and hooks of an optimizer take a third of it. Here the gradients are asked for and subtracted at once. The
arithmetic is that of ``torch.optim.SGD``, so the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.lean import LeanStep
from fedplug.core.params import Params, allocate
from fedplug_torch import params as torch_params
from fedplug_torch.losses import no_loss
from fedplug_torch.plan_state import Attributes, own_state
from fedplug_torch.recorded_step import RecordedSteps
from fedplug_torch.whole_data import whole

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_PLAIN = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
_NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
_SETTINGS = (*_PLAIN, *_NUMBERS, "nesterov")
_ONE = (torch.ones(()),)


def lean_step(plan: TorchTrainingPlan) -> LeanStep | str:
    """The lean step of a plan that was set up with its optimizer; or why there is none, in words."""
    return _why_not(plan) or LeanSGD(plan)


class LeanSGD(LeanStep):
    """The rule of ``torch.optim.SGD``, for every parameter that the optimizer would move.

    Args:
        plan: Its model's tensors are moved into one buffer.
    """

    def __init__(self, plan: TorchTrainingPlan) -> None:
        group = self._group = plan.optimizer().param_groups[0]
        self._settings = {name: group[name] for name in _SETTINGS}
        model: nn.Module = plan.model()
        model.train()
        self._training_step = plan.training_step
        self._rate, self._decay, self._nesterov = -group["lr"], group["weight_decay"], group["nesterov"]
        self._momentum, self._fresh = group["momentum"], 1 - group["dampening"]
        self._velocities: dict[int, torch.Tensor] = {}  # of a training, by number of the parameter
        self._moved = tuple(p for p in group["params"] if p.requires_grad)
        tensors = torch_params.distinct(model.state_dict(keep_vars=True))[0]
        self._spec = torch_params.spec_of(tensors)
        self._raw = allocate(self._spec.nbytes)
        self._raw[:] = 0
        for name, view in torch_params.over(self._spec, torch.from_numpy(self._raw)).items():
            view.copy_(tensors[name].detach())
            tensors[name].data = view
        self._values = [p.detach() for p in self._moved]
        self._attributes = Attributes(plan, model)
        self._before_plan: Callable[[], None] = _nothing
        self._steps = RecordedSteps(plan, model, self._moved, self._own)

    def whole(self, manager: DataManager) -> BatchSource | None:
        """As `LeanStep.whole`."""
        return whole(manager)

    def guard(self, before_plan: Callable[[], None]) -> bool:
        """As `LeanStep.guard`."""
        self._before_plan = before_plan
        return True

    def load(self, params: Params) -> None:
        """As `LeanStep.load`."""
        params.require(self._spec)
        self._velocities.clear()
        self._raw[:] = np.frombuffer(params.buffer, np.uint8)

    def step(self, data: Any, target: Any) -> torch.Tensor:
        """As `LeanStep.step`."""
        loss, found = self._steps.step(data, target)
        values = self._values
        if not all(map(_is_there, found)):  # a parameter took no part; comparing tensors with None is slow
            values = [value for value, gradient in zip(values, found, strict=True) if _is_there(gradient)]
        gradients = [gradient for gradient in found if gradient is not None]
        if gradients:
            if self._decay:
                gradients = list(torch._foreach_add(gradients, values, alpha=self._decay))
            if self._momentum:
                numbers = [number for number, gradient in enumerate(found) if gradient is not None]
                gradients = self._with_momentum(numbers, gradients)
            torch._foreach_add_(values, gradients, alpha=self._rate)
        return loss

    def _own(self, data: Any, target: Any) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        """Loss and gradients of a batch by the plan's own step."""
        self._before_plan()
        loss: object = self._training_step(data, target)
        if not (isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad):
            raise no_loss(loss)
        return loss.detach(), self._gradients(loss)

    def _with_momentum(self, numbers: list[int], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the parameters of these numbers are moved by."""
        known = self._velocities
        if known.keys() >= set(numbers):
            velocities = [known[number] for number in numbers]
            torch._foreach_mul_(velocities, self._momentum)
            torch._foreach_add_(velocities, gradients, alpha=self._fresh)
        else:  # the first time, all of the gradient counts
            for number, gradient in zip(numbers, gradients, strict=True):
                if number in known:
                    known[number].mul_(self._momentum).add_(gradient, alpha=self._fresh)
                else:
                    known[number] = gradient.clone()
            velocities = [known[number] for number in numbers]
        if self._nesterov:
            return list(torch._foreach_add(gradients, velocities, alpha=self._momentum))
        return velocities

    def _gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if loss.shape or loss.dtype is not torch.float32:
            return torch.autograd.grad(loss, self._moved, allow_unused=True)
        # What torch.autograd.grad calls in the end, without its checks, which take a tenth of a step of a small model.
        engine = torch.autograd.Variable._execution_engine
        found: tuple[torch.Tensor | None, ...] = engine.run_backward(
            (loss,), _ONE, False, False, self._moved, allow_unreachable=True, accumulate_grad=False
        )
        return found

    def read(self, losses: Sequence[torch.Tensor]) -> list[float]:
        """As `LeanStep.read`."""
        return [loss.item() for loss in losses]

    def result(self) -> Params:
        """As `LeanStep.result`."""
        out = allocate(self._spec.nbytes)
        out[:] = self._raw
        return Params(self._spec, out)

    def changed(self) -> str:
        """As `LeanStep.changed`."""
        if {name: self._group[name] for name in _SETTINGS} != self._settings:
            return "the plan changes its optimizer's settings in training"
        return self._attributes.changed()


def _nothing() -> None:
    """Nobody wants to be called."""


def _is_there(gradient: object) -> bool:
    return gradient is not None


def _why_not(plan: TorchTrainingPlan) -> str:
    optimizer, model = plan.optimizer(), plan.model()
    if type(optimizer) is not torch.optim.SGD:
        return f"the optimizer is {type(optimizer).__name__}, not SGD"
    if len(optimizer.param_groups) != 1:
        return "the optimizer has several groups of parameters"
    group = optimizer.param_groups[0]
    for name, usual in _PLAIN.items():
        if group.get(name) != usual:
            return f"the optimizer is SGD with {name}={group[name]!r}"
    for name in _NUMBERS:
        if not isinstance(group[name], float | int):
            return f"the optimizer is SGD with a {name} that is no plain number"
    moved = {id(p) for p in group["params"] if p.requires_grad}
    if not moved or moved != {id(p) for p in model.parameters() if p.requires_grad}:
        return "the optimizer does not move all parameters of the model, and no others"
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    if any(getattr(optimizer, name, None) for name in hooks):
        return "the optimizer has hooks"
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        return "the model does not lie in the processor's memory"
    if not all(tensor.is_contiguous() for tensor in model.state_dict().values()):
        return "the model has a tensor that is not contiguous"
    return own_state(plan, model)
