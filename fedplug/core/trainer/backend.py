"""What the loop needs from a framework, and nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedplug.core.data import ArrayData, BatchSource, LoaderArgs
from fedplug.core.errors import UsageError
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import split_data
from fedplug.core.trainer.points import Phase

if TYPE_CHECKING:
    from fedplug.core.local_state import StateBook


@dataclass(frozen=True)
class BackendState:
    """Everything that a training needs to go on as if it had not been interrupted.

    Attributes:
        arrays: Model, optimizer state and the like, by name.
        plain: What is no array, as plain data (text, numbers, lists, dicts).
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)


class Backend(ABC):
    """A model and its optimizer, as the loop moves them.

    The loop calls, in this order::

        prepare(phase)
            for each batch:  place(batch), then
                train:       forward, backward, step
                eval:        evaluate
        release()

    and `read` now and then for the losses that have come together. A loss stays whatever the framework
    makes of it until then, so that a device is never waited for within the batch loop. Routines nest: an
    evaluation may begin between two batches of a training, on the same object.

    Attributes:
        model: The model.
        optimizer: Its optimizer; None where it can only be tested.
        scheduler: Of the learning rate; None if there is none. It has a method ``step()``.
        scheduler_unit: After what it steps: ``batch``, ``epoch`` or ``round``.
        criterion: The loss function, where it is not part of a training plan.
        device: Where the model lies.
        output: What the model made of the last batch, where the backend knows it.
        has_testing_step: Whether `evaluate` does more than take the loss. If so, a test is one batch by default, as
            there is no knowing whether its numbers are means.
        local_names: Names of the parameters that never leave the node.
        protects_samples: Whether `backward` gives gradients that are differentially private for each sample.
    """

    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    scheduler_unit: str = "epoch"
    criterion: Any = None
    device: Any = "cpu"
    output: Any = None
    has_testing_step: bool = True
    local_names: frozenset[str] = frozenset()
    protects_samples: bool = False

    # a routine ---------------------------------------------------------------------------------------------

    def prepare(self, phase: Phase) -> None:
        """Put the model into the mode of ``phase``."""

    def draw(self, source: BatchSource, loader: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, int]]:
        """The batches of one pass of a training, as ``(data, target)`` with their numbers of samples.

        Args:
            source: What they are drawn from.
            loader: How.
            seed: Root of their order.
        """
        return split_data.sized(source, loader, source.epoch(loader, seed))

    def guard(self, start: Params) -> None:
        """Be told the shared parameters that a protected training begins with, before any data have been read."""

    def check_shared(self, params: Params) -> None:
        """Look at the shared parameters that are about to leave the node after a protected training.

        Raises:
            PlanError: Something else than the steps of the training has changed them.
        """

    def account(self, book: StateBook, *, first: bool) -> dict[str, float]:
        """Write down what the trainings of this round have spent of the samples' privacy.

        Args:
            book: Where the account of earlier rounds stands, and where it goes to.
            first: Whether this is the node's first round that counts.

        Returns:
            ``dp_epsilon`` (where it is finite), ``dp_delta`` and ``dp_sample_rate``; nothing without protection.
        """
        return {}

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

    def discharge(self) -> None:
        """Give back what only a running routine needs, such as gradients; called when the outermost one is over."""

    # parameters and gradients ------------------------------------------------------------------------------

    def get_params(self) -> Params:
        """The model's parameters, copied."""
        raise self._cannot("give its parameters")

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into the model.

        Raises:
            ParamsError: They do not fit.
        """
        raise self._cannot("take parameters")

    def trainable(self) -> dict[str, Any]:
        """What the optimizer moves, by name: the framework's own arrays, live, apart from any graph."""
        raise self._cannot("show its parameters")

    def gradients(self) -> dict[str, Any]:
        """The gradients of the last `backward` by name, live: they may be changed in place."""
        raise self._cannot("show its gradients")

    def add_gradients(self, values: Mapping[str, Any]) -> None:
        """Add to the gradients before the optimizer steps.

        Args:
            values: The framework's own arrays, by names of `trainable`.
        """
        raise self._cannot("change its gradients")

    def clip_gradients(self, limit: float) -> None:
        """Shorten the gradient to an Euclidean norm of ``limit`` over all parameters, if it is longer."""
        raise self._cannot("clip its gradients")

    def snapshot(self) -> dict[str, Any]:
        """A copy of `trainable`."""
        raise self._cannot("copy its parameters")

    def native(self, params: Mapping[str, Array]) -> dict[str, Any]:
        """``params`` as the framework's own arrays, where the model lies, for names of `trainable`."""
        raise self._cannot("take arrays")

    # the whole ---------------------------------------------------------------------------------------------

    def make_optimizer(self, optimizer_args: Mapping[str, Any] | None = None) -> None:
        """Start afresh with a new optimizer, and scheduler if there is one; ``None``: with the usual arguments.

        A backend whose optimizer has no state may do nothing.
        """

    def use_optimizer(self, optimizer: Any, scheduler: Any) -> None:
        """Go on with an optimizer and a scheduler of before."""
        self.optimizer, self.scheduler = optimizer, scheduler

    def drop_optimizer(self) -> None:
        """Forget the optimizer and its state; the next training makes a new one."""
        self.optimizer = None

    def has_scheduler(self) -> bool:
        """Whether `make_optimizer` makes a scheduler too."""
        return self.scheduler is not None

    def predict(self, data: Any) -> Any:
        """The model's output for ``data``, without a graph."""
        raise self._cannot("predict")

    def to_numpy(self, value: Any) -> Any:
        """Outputs or targets as NumPy arrays, nested as they are."""
        if isinstance(value, Mapping):
            return {key: self.to_numpy(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return tuple(self.to_numpy(part) for part in value)
        return np.asarray(value)

    def wrap(self, data: Any, target: Any) -> BatchSource:
        """Data of the framework's own kind as batches."""
        return ArrayData(data, target)

    def clone(self) -> Backend:
        """Another backend whose model is equal to this one and independent of it."""
        raise self._cannot("be copied")

    def save_state(self) -> BackendState:
        """Model, optimizer, scheduler and the framework's random stream, copied."""
        raise self._cannot("be saved")

    def load_state(self, state: BackendState) -> None:
        """Go on from what `save_state` gave.

        Raises:
            ParamsError: It does not fit the model.
        """
        raise self._cannot("be loaded")

    def _cannot(self, what: str) -> UsageError:
        return UsageError(
            f"{type(self).__name__} cannot {what}.", cure="Use another backend, or define the method in this one."
        )
