"""What the loop needs from a framework, and nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

Phase = Literal["train", "eval"]


class Backend(ABC):
    """A plan's model and optimizer, as the loop moves them. One object per routine run.

    The loop calls, in this order::

        prepare(phase)
            for each batch:  place(batch), then
                train:       forward, backward, step
                eval:        evaluate
        release()

    and `read` now and then for the losses that have come together. A loss stays whatever the framework
    makes of it until then, so that a device is never waited for within the batch loop.
    """

    def prepare(self, phase: Phase) -> None:
        """Put the model into the mode of ``phase``."""

    def place(self, data: Any) -> Any:
        """``data`` (a batch's data or target), moved to where the model is."""
        return data

    @abstractmethod
    def forward(self, data: Any, target: Any) -> Any:
        """The loss of one batch, fit for `backward`.

        Raises:
            PlanError: The plan's ``training_step`` returned something that is no loss.
        """

    @abstractmethod
    def backward(self, loss: Any) -> None:
        """Gradients of ``loss``, replacing the ones before."""

    @abstractmethod
    def step(self) -> None:
        """Move the parameters by the optimizer's rule."""

    def detached(self, loss: Any) -> Any:
        """The mere value of ``loss``, for `read`, holding on to nothing else."""
        return loss

    def read(self, losses: Sequence[Any]) -> list[float]:
        """The values of many detached losses at once."""
        return [float(loss) for loss in losses]

    @abstractmethod
    def evaluate(self, data: Any, target: Any) -> dict[str, float]:
        """Metrics of one batch by name, each a mean over its samples.

        Raises:
            PlanError: The plan's ``testing_step`` returned something that is no metric.
        """

    def release(self) -> None:
        """Undo `prepare`; also called when the routine failed."""
