"""The training loop's view of a PyTorch plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedplug.core.errors import PlanError
from fedplug.core.metrics import as_metrics
from fedplug.core.trainer import Backend
from fedplug.core.trainer.backend import Phase

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan


class TorchBackend(Backend):
    """Moves a plan's module and optimizer.

    Args:
        plan: A plan that was set up; without an optimizer it can only be evaluated.
    """

    def __init__(self, plan: TorchTrainingPlan) -> None:
        self._model: torch.nn.Module = plan.model()
        self._optimizer: torch.optim.Optimizer | None = plan._optimizer  # None where only testing
        self._training_step = plan.training_step
        self._testing_step = getattr(plan, "testing_step", None)
        self._device = plan.device
        self._moves = self._device.type != "cpu"
        self._was_training = self._model.training

    def prepare(self, phase: Phase) -> None:
        """Put the module into training or evaluation mode."""
        self._was_training = self._model.training
        if phase == "train" and self._optimizer is None:
            raise PlanError("This plan was set up without an optimizer; it can be tested, not trained.")
        self._model.train(phase == "train")

    def place(self, data: Any) -> Any:
        """``data`` on the module's device."""
        return _to(data, self._device) if self._moves else data

    def forward(self, data: Any, target: Any) -> torch.Tensor:
        """The plan's loss, checked."""
        loss: object = self._training_step(data, target)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad:
            return loss
        raise _no_loss(loss)

    def backward(self, loss: torch.Tensor) -> None:
        """Fresh gradients of ``loss``."""
        self._optimizer.zero_grad()  # type: ignore[union-attr] # prepare has looked
        loss.backward()

    def step(self) -> None:
        """One step of the optimizer."""
        self._optimizer.step()  # type: ignore[union-attr] # prepare has looked

    def detached(self, loss: torch.Tensor) -> torch.Tensor:
        """The value of ``loss`` without the graph behind it."""
        return loss.detach()

    def read(self, losses: Sequence[torch.Tensor]) -> list[float]:
        """All values at once: on a GPU, one wait instead of many."""
        if not losses:
            return []
        return torch.stack([loss.reshape(()) for loss in losses]).double().tolist()

    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """What ``testing_step`` returns; the loss where the plan has none."""
        with torch.no_grad():
            if self._testing_step is not None:
                return as_metrics(self._testing_step(data, target))
            loss: object = self._training_step(data, target)
            if isinstance(loss, torch.Tensor) and loss.numel() == 1:
                return {"loss": float(loss)}
            raise _no_loss(loss)

    def release(self) -> None:
        """Put the module back into the mode it was in, and forget gradients."""
        self._model.train(self._was_training)
        if self._optimizer is not None:
            self._optimizer.zero_grad()


def _no_loss(value: object) -> PlanError:
    if value is None:
        problem, cure = "nothing", "Is a return missing?"
    elif not isinstance(value, torch.Tensor):
        problem = f"a {type(value).__name__}"
        cure = "Return the tensor itself: loss, not loss.item()." if isinstance(value, int | float) else ""
    elif value.numel() != 1:
        problem = f"a tensor of shape {tuple(value.shape)}"
        cure = "Return the mean over the batch, e.g. loss.mean()."
    else:
        problem = "a loss that is detached from the model's parameters"
        cure = "Do not detach it or compute it under torch.no_grad(), and see that some parameter requires a gradient."
    return PlanError(f"training_step must return the loss as a scalar tensor, but returned {problem}.", cure=cure)


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, Mapping):
        return {key: _to(value, device) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = (_to(value, device) for value in data)
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return data
