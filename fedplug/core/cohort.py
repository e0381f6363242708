"""The seam for simulations that train several nodes at once, with their parameters stacked.

A framework that can do so answers the hook ``fedplug_train_cohort`` with a `CohortTrainer` for a plan that was set up
once. The simulation says which nodes are trained together, and on which rows of what data; the trainer does the
arithmetic. Each node's parameters, loss and gradient are its own: the nodes share nothing but the time that a call
takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.params import Array, Params


class CohortAnswer(ABC):  # noqa: B024 - what it stands for is either of the two below
    """What a plugin answers: a `CohortTrainer`, or a `NotStacked` with the reason."""


@dataclass(frozen=True)
class NotStacked(CohortAnswer):
    """This plan is not trained with stacked parameters.

    Attributes:
        reason: Why, in words that stand behind a colon.
    """

    reason: str


class CohortError(Exception):
    """Nodes cannot be trained together after all; the message says why, to stand behind a colon.

    Attributes:
        for_good: Whether it holds for every training of this plan, not only for these nodes.
    """

    def __init__(self, reason: str, *, for_good: bool = True) -> None:
        super().__init__(reason)
        self.for_good = for_good


class StackedUpdate(NamedTuple):
    """What one node of a cohort came to.

    Attributes:
        params: Its parameters; a part of memory that all nodes of the cohort share.
        losses: The loss of each of its batches, in order.
    """

    params: Params
    losses: Sequence[float]


class CohortTrainer(CohortAnswer):
    """Trains several nodes at once, by one plan's training step and its optimizer's rule."""

    def guard(self, before_plan: Callable[[], None]) -> bool:
        """Take what is to be called before the plan's own code runs; whether that will be done, each time.

        As `fedplug.core.lean.LeanStep.guard`: by default nothing is called, and each `train` may run the plan's code.

        Args:
            before_plan: Keeps watch over that code; may be called twice.
        """
        return False

    @abstractmethod
    def most(self, params: Params) -> int:
        """How many nodes are best trained together; below two, it is faster to train one by one.

        Args:
            params: The global parameters.
        """

    @abstractmethod
    def whole(self, manager: DataManager) -> BatchSource | None:
        """The data that all nodes share, to draw rows from; None where that would take much memory.

        Args:
            manager: Whole arrays, which nobody may write to, arranged as the plan's ``training_data`` does.

        Raises:
            DatasetError: The data cannot be used.
        """

    @abstractmethod
    def train(
        self, params: Params, sources: Sequence[BatchSource], batches: Sequence[Sequence[Array]]
    ) -> list[StackedUpdate]:
        """Train nodes, each from ``params``.

        Args:
            params: The global parameters.
            sources: For each node, what its batches are rows of; one object for nodes that share it.
            batches: For each node, its batches in order: row numbers, int64. Nodes may have batches of different
                numbers and sizes.

        Returns:
            For each node, what came out. A loss may be NaN.

        Raises:
            CohortError: They cannot be trained together; nothing has changed.
        """
