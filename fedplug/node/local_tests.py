"""What the tests of one task have found, in the forms in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedplug.core.errors import PlanError, UpdateRejectedError
from fedplug.core.messages import Progress, TaskKey
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.sums import TEST_AUX, check_layout
from fedplug.core.params import Array, Params
from fedplug.core.trainer import FitResult
from fedplug.core.trainer.result import complete_sums


class LocalTests:
    """Collects tests.

    Args:
        key: The task.
        emit: Told at once what a test has found.
    """

    def __init__(self, key: TaskKey, emit: Callable[[Progress], None]) -> None:
        self._key = key
        self._emit = emit
        self.metrics: dict[str, float] = {}
        self._sums: dict[str, Array] = {}

    def add(self, when: str, result: FitResult, metrics: Mapping[str, Metric]) -> None:
        """Take a test in.

        Args:
            when: ``"global"`` or ``"local"``.
            result: The evaluation.
            metrics: What was measured.
        """
        named = {f"test_{when}_{name}": value for name, value in result.metrics.items()}
        self._sums |= {f"{when}/{name}": array for name, array in complete_sums(result, metrics).items()}
        self.metrics |= named
        self._emit(Progress(key=self._key, samples=result.num_samples, phase=f"test-{when}", metrics=named))

    def aux(self) -> dict[str, Params]:
        """The sums of all tests, as they travel beside the update; empty if there are none.

        Raises:
            PlanError: They are too large to travel.
        """
        if not self._sums:
            return {}
        found = Params.from_arrays(self._sums)
        try:
            check_layout(found.spec)
        except UpdateRejectedError as error:
            raise PlanError(f"What was tested cannot be sent: {error.message}", cure=error.cure) from error
        return {TEST_AUX: found}
