"""What a routine adds up: losses that are read late, and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedplug.core.errors import FedplugError, PlanError, PlanRunError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.sums import MEAN, METRIC, MOST_NUMBERS
from fedplug.core.params import Array

_MAX_PENDING = 256  # losses that are kept unread; bounds how late a NaN is noticed


class Meter:
    """Collects losses unread, reads them in bulk, and keeps their mean over samples; metrics likewise.

    Args:
        read: The values of many losses at once.
    """

    def __init__(self, read: Callable[[list[Any]], list[float]]) -> None:
        self._read = read
        self._losses: list[Any] = []
        self._sizes: list[int] = []
        self._since: tuple[float, int] = (0.0, 0)
        self._steps = 0
        self._total = 0.0
        self._samples = 0
        self._metrics: dict[str, float] = {}
        self._weights: dict[str, int] = {}
        self._states: dict[str, Array] = {}

    def add(self, loss: Any, size: int) -> None:
        """Note the mean loss of a batch of ``size`` samples."""
        self._losses.append(loss)
        self._sizes.append(size)
        if len(self._losses) >= _MAX_PENDING:
            self.flush()

    def add_metrics(self, metrics: Mapping[str, float], size: int) -> None:
        """Note the metrics of a batch of ``size`` samples, each a mean over them."""
        for name, value in metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + value * size
            self._weights[name] = self._weights.get(name, 0) + size

    def add_states(self, metrics: Mapping[str, Metric], outputs: Any, targets: Any) -> None:
        """Add the states of a batch.

        Raises:
            PlanError: A metric cannot be made of outputs and targets.
        """
        for name, metric in metrics.items():
            try:
                state = np.asarray(metric.state(outputs, targets))
            except FedplugError as error:
                raise PlanError(f"The metric {name!r} cannot be computed. {error.message}", cure=error.cure) from error
            except Exception as error:
                raise PlanError(f"The metric {name!r} failed: {type(error).__name__}: {error}") from error
            before = self._states.get(name)
            shape = state.shape if before is None else before.shape
            if state.ndim != 1 or state.shape != shape or state.dtype.kind not in "biuf" or not state.size:
                raise PlanError(
                    f"The state of the metric {name!r} is an array of {state.dtype} of shape {state.shape}.",
                    cure="It must be a vector of numbers, of the same length for all batches.",
                )
            if state.size > MOST_NUMBERS:
                raise PlanError(
                    f"The metric {name!r} makes {state.size:,} numbers; at most {MOST_NUMBERS:,} can travel.",
                    cure="Fewer bins, or fewer classes, make it smaller.",
                )
            state = state.astype(np.float64)
            self._states[name] = state if before is None else before + state

    def sums(self) -> dict[str, Array]:
        """States and means as sums, named as `fedplug.core.metrics.sums` does."""
        found = {METRIC + name: state for name, state in self._states.items()}
        for name, total in self._metrics.items():
            found[MEAN + name] = np.array([total, self._weights[name]], np.float64)
        return found

    def flush(self) -> None:
        """Read what has come together.

        Raises:
            PlanRunError: A loss is not finite; the step is named.
        """
        if not self._losses:
            return
        values, sizes = self._read(self._losses), self._sizes
        self._losses, self._sizes = [], []
        part, part_samples = self._since
        for value, size in zip(values, sizes, strict=True):
            self._steps += 1
            if not math.isfinite(value):
                raise PlanRunError(
                    f"The loss of training_step became {value} in step {self._steps}.",
                    cure="Lower the learning rate, or check the data for missing or huge values.",
                )
            part += value * size
            part_samples += size
            self._total += value * size
            self._samples += size
        self._since = (part, part_samples)

    def since_last(self) -> float:
        """Mean loss since the last call."""
        self.flush()
        part, samples = self._since
        self._since = (0.0, 0)
        return part / samples if samples else 0.0

    def total(self) -> float:
        """Sum of the losses over all samples."""
        self.flush()
        return self._total

    def mean(self) -> float:
        """Mean of the losses over all samples."""
        self.flush()
        return self._total / self._samples if self._samples else 0.0

    def metrics(self) -> dict[str, float]:
        """Mean of each metric over the samples."""
        return {name: total / self._weights[name] for name, total in self._metrics.items()}

    def metric_total(self, name: str) -> float:
        """Sum of a metric over all samples."""
        return self._metrics.get(name, 0.0)
