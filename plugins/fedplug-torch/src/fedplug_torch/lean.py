"""The lean step for PyTorch: loss, gradients and the optimizer's rule as one, where the parameters are.

For a small model, most of a step is not arithmetic: clearing gradients, storing them, and going through the groups,
defaults and hooks of an optimizer take a third of it, and half with Adam. Here the gradients are asked for, and the
parameters moved at once, by a rule that comes to the bits of the optimizer (`fedplug_torch.lean_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.lean import LeanStep
from fedplug.core.params import Array, Params, ParamsSpec, allocate
from fedplug_torch import lean_rules
from fedplug_torch import params as torch_params
from fedplug_torch.losses import no_loss
from fedplug_torch.plan_state import Attributes, own_state
from fedplug_torch.recorded_step import RecordedSteps
from fedplug_torch.whole_data import whole

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_ONE = (torch.ones(()),)


def lean_step(plan: TorchTrainingPlan) -> LeanStep | str:
    """The lean step of a plan that was set up with its optimizer; or why there is none, in words."""
    return _why_not(plan) or TorchLeanStep(plan)


class TorchLeanStep(LeanStep):
    """A plan's step and its optimizer's rule.

    Args:
        plan: Its model's tensors stay where they are.
    """

    def __init__(self, plan: TorchTrainingPlan) -> None:
        optimizer: torch.optim.Optimizer = plan.optimizer()
        model: nn.Module = plan.model()
        model.train()
        self.optimizer_name = type(optimizer).__name__
        self._training_step = plan.training_step
        tensors = torch_params.distinct(model.state_dict(keep_vars=True))[0]
        self._spec = torch_params.spec_of(tensors)
        self._parts = _parts(self._spec, tensors)
        self._has_gaps = sum(part.size for _, part in self._parts) < self._spec.nbytes
        self._moved = lean_rules.moved(optimizer)
        self._rule = lean_rules.rule_of(optimizer)
        self._optimizer, self._settings = optimizer, deepcopy(_settings(optimizer))
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
        self._rule.begin()
        given = np.frombuffer(params.buffer, np.uint8)
        for place, part in self._parts:
            part[:] = given[place]

    def step(self, data: Any, target: Any) -> torch.Tensor:
        """As `LeanStep.step`."""
        loss, found = self._steps.step(data, target)
        for gradient in found:
            if gradient is None or not gradient.is_contiguous():
                self._move_some(found)
                break
        else:
            self._rule.move(found)  # type: ignore[arg-type] # None is in none of them
        return loss

    def _move_some(self, found: Sequence[torch.Tensor | None]) -> None:
        """Move the parameters that have taken part, by gradients as autograd stores them with parameters.

        Other layouts may come to other bits.
        """
        there = {number: gradient for number, gradient in enumerate(found) if gradient is not None}
        if there:
            laid_out = [each.contiguous() if each.layout is torch.strided else each for each in there.values()]
            self._rule.move(laid_out, list(there))

    def _own(self, data: Any, target: Any) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        """Loss and gradients of a batch by the plan's own step."""
        self._before_plan()
        with torch.enable_grad():  # whatever the caller has set, or the step before
            loss: object = self._training_step(data, target)
        if not (isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad):
            raise no_loss(loss)
        return loss.detach(), self._gradients(loss)

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
        if self._has_gaps:
            out[:] = 0
        for place, part in self._parts:
            out[place] = part
        return Params(self._spec, out)

    def changed(self) -> str:
        """As `LeanStep.changed`."""
        if _settings(self._optimizer) != self._settings or lean_rules.has_hooks(self._optimizer):
            return "the plan changes its optimizer's settings in training"
        return self._attributes.changed()


def _parts(spec: ParamsSpec, tensors: Mapping[str, torch.Tensor]) -> list[tuple[slice, Array]]:
    """Where each tensor stands in `Params`, and its own bytes.

    A tensor stays where it was made. In one buffer, as in `Params`, it would begin at other addresses than in the
    plan's own loop, and products of matrices with vectors come to other bits at some of them.
    """
    found = []
    for entry in spec.tensors:
        part = tensors[entry.name].detach().reshape(-1).view(torch.uint8).numpy()
        found.append((slice(entry.offset, entry.offset + part.size), part))
    return found


def _nothing() -> None:
    """Nobody wants to be called."""


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The settings of each group of parameters, and which parameters these are."""
    return [{**group, "params": [id(each) for each in group["params"]]} for group in optimizer.param_groups]


def _why_not(plan: TorchTrainingPlan) -> str:
    optimizer, model = plan.optimizer(), plan.model()
    if why := lean_rules.why_none(optimizer):
        return why
    moved = set(map(id, lean_rules.moved(optimizer)))
    if not moved:
        return "the optimizer moves no parameter"
    if not moved <= set(map(id, model.parameters())):
        return "the optimizer moves parameters that are not the model's"
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        return "the model does not lie in the processor's memory"
    if not all(tensor.is_contiguous() for tensor in model.state_dict().values()):
        return "the model has a tensor that is not contiguous"
    return own_state(plan, model)
