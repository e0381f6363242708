"""The seam for simulations: one plan that was set up once trains node after node, with little around the arithmetic.

Where a plan leaves the step to the library, and the library knows the optimizer's rule, a framework may offer a step
that does the same arithmetic with less around it (`TrainingPlan.lean_step`). Whoever uses it keeps watch that nothing
of one node's training reaches another's: a plan that was set up once must be as good as new.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from fedplug.core.data import BatchSource, DataManager
from fedplug.core.params import Params


class LeanStep(ABC):
    """A plan's training step and its optimizer's rule, as one.

    Attributes:
        optimizer_name: The name of the optimizer, for the log.
    """

    optimizer_name: str

    def whole(self, manager: DataManager) -> BatchSource | None:
        """Batches of arrays that many nodes share, to draw each node's rows from; None where that cannot be done.

        Args:
            manager: Whole arrays, which nobody may write to, arranged as the plan's ``training_data`` does.

        Raises:
            DatasetError: The data cannot be used.
        """
        return None

    def guard(self, before_plan: Callable[[], None]) -> bool:
        """Take what is to be called before the plan's own code runs; whether that will be done, each time.

        A step that can do without that code, most of the time, saves its user what keeping watch over it costs. By
        default nothing is called: every step may run the plan's code then.

        Args:
            before_plan: Makes the plan ready for the node whose training is under way; may be called twice.
        """
        return False

    @abstractmethod
    def load(self, params: Params) -> None:
        """Begin with ``params``.

        Raises:
            ParamsError: They are not laid out as the model.
        """

    @abstractmethod
    def step(self, data: Any, target: Any) -> Any:
        """Move the model by one batch; returns its loss, detached, for `read`.

        Raises:
            PlanError: The plan's ``training_step`` returned something that is no loss.
        """

    @abstractmethod
    def read(self, losses: Sequence[Any]) -> list[float]:
        """The values of many losses at once."""

    @abstractmethod
    def result(self) -> Params:
        """The parameters, copied."""

    @abstractmethod
    def changed(self) -> str:
        """What else than the parameters the plan's code has changed in a training, in words; empty if nothing."""


class PlanLean:
    """The part of a training plan that simulations ask for a lean step."""

    framework: ClassVar[str]

    def lean_step(self) -> LeanStep | str:
        """The step of this plan, which was set up with its optimizer, for a simulation; or why there is none.

        See `fedplug.core.lean`. The reason stands behind a colon, in words for the researcher.
        """
        return f"plans of framework {self.framework!r} have no lean step"

    @classmethod
    def on_threads(cls, threads: int) -> AbstractContextManager[None]:
        """Let the framework use so many processor threads meanwhile, where it can be told."""
        return nullcontext()

    @classmethod
    def read_stream(cls) -> bytes:
        """The state of the framework's global random stream; empty if it has none."""
        return b""

    @classmethod
    def write_stream(cls, state: bytes) -> None:
        """Bring the framework's global random stream to where it was when `read_stream` gave ``state``."""
