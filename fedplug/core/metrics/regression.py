"""Mean squared and absolute error, R² and explained variance, from sums in float64.

Rounding: outputs and targets are taken as float64, and sums are made in float64, u = 2**-53. A sum of n numbers that
are none negative, in any order and grouping, is off by at most about (n + 2) * u times its value. That is the bound
for `MeanSquaredError` and `MeanAbsoluteError`. R² and explained variance divide by the spread of the targets,
``sum(y**2) - sum(y)**2 / n``, a difference of two sums each of which has such an error. So with
``k = sum(y**2) / spread`` (about 1 + mean**2 / variance) their error is at most about
``4 * (n + 4) * u * k * (1 + unexplained share)``: targets whose mean is a thousand times their deviation lose six of
some fifteen digits. Centre such targets. Where the spread is no larger than its own error, it counts as zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedplug.core.errors import PlanError, UpdateRejectedError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.labels import MOST_COUNT
from fedplug.core.params import Array

UNIT = 2.0**-53
"""The largest relative error of one operation in float64."""


class _Regression(Metric):
    """What these metrics share: outputs and targets of one shape.

    Of outputs of shape ``(n, columns)`` each column is measured, and the value is the mean over columns. With more
    axes, each number is a sample.
    """

    name = ""

    def value(self, state: Array) -> dict[str, Any]:
        """The mean over columns; with several columns, ``..._by_output`` too, a list."""
        each = self.each(float(state[0]), state[1:])
        found: dict[str, Any] = {self.name: math.fsum(each) / len(each)}
        if len(each) > 1:
            found[f"{self.name}_by_output"] = [float(number) for number in each]
        return found

    def each(self, count: float, sums: Array) -> Array:
        """The measure of each column.

        Args:
            count: Number of samples.
            sums: The rest of the state.
        """
        raise NotImplementedError

    def check(self, state: Array) -> None:
        """Refuse an impossible number of samples."""
        if not (1 <= state[0] <= MOST_COUNT and state[0] == math.floor(state[0])) or state.size < 2:
            raise UpdateRejectedError("its number of samples is impossible")


class MeanSquaredError(_Regression):
    """Mean of the squared differences. State: ``[samples, sum of squares of each column]``."""

    name = "mean_squared_error"

    def state(self, outputs: Any, targets: Any) -> Array:
        """Sum what the differences cost."""
        found, true = columns_of(outputs, targets)
        with np.errstate(over="ignore", invalid="ignore"):  # `_state` looks
            return _state(len(true), [self._cost(found - true).sum(axis=0)])

    @staticmethod
    def _cost(difference: Array) -> Array:
        return difference**2

    def each(self, count: float, sums: Array) -> Array:
        """Sum over count."""
        return sums / count

    def check(self, state: Array) -> None:
        """Refuse negative sums."""
        super().check(state)
        if (state[1:] < 0).any():
            raise UpdateRejectedError("its sum of errors is negative")


class MeanAbsoluteError(MeanSquaredError):
    """Mean of the differences without their signs. State: ``[samples, sum of each column]``."""

    name = "mean_absolute_error"

    @staticmethod
    def _cost(difference: Array) -> Array:
        return np.abs(difference)


class _Spread(_Regression):
    """What R² and explained variance share.

    State: ``[samples, sum e, sum e**2, sum y, sum y**2]``, each but the first for every column; ``y`` are the
    targets, ``e`` what is missing from outputs to targets. NaN where the targets are all the same.
    """

    def state(self, outputs: Any, targets: Any) -> Array:
        """Sum errors, targets, and the squares of both."""
        found, true = columns_of(outputs, targets)
        with np.errstate(over="ignore", invalid="ignore"):  # `_state` looks
            missing = true - found
            return _state(len(true), [each.sum(axis=0) for each in (missing, missing**2, true, true**2)])

    def each(self, count: float, sums: Array) -> Array:
        """One minus what is not explained over the spread of the targets."""
        error, error2, total, total2 = sums.reshape(4, -1)
        spread = total2 - total * (total / count)
        doubt = 4 * (count + 4) * UNIT * total2
        known = spread > doubt
        unexplained = self.unexplained(count, error, error2)
        return np.where(known, 1 - unexplained / np.where(known, spread, 1), math.nan)

    def unexplained(self, count: float, error: Array, error2: Array) -> Array:
        """The part of the spread that the outputs do not explain."""
        raise NotImplementedError

    def check(self, state: Array) -> None:
        """Refuse sums that no samples can have: by Cauchy and Schwarz, ``sum(x)**2 <= n * sum(x**2)``."""
        super().check(state)
        if (state.size - 1) % 4:
            raise UpdateRejectedError("it has another number of sums")
        sums = state[1:].reshape(4, -1)
        with np.errstate(over="ignore"):
            for once, squared in ((sums[0], sums[1]), (sums[2], sums[3])):
                most = np.sqrt(state[0]) * np.sqrt(np.maximum(squared, 0)) * (1 + 1e-6) + 1e-150
                if (squared < 0).any() or (np.abs(once) > most).any():
                    raise UpdateRejectedError("its sums and sums of squares contradict each other")


class R2Score(_Spread):
    """R², the coefficient of determination: ``1 - sum(e**2) / spread``."""

    name = "r2_score"

    def unexplained(self, count: float, error: Array, error2: Array) -> Array:
        """All squared errors."""
        return error2


class ExplainedVariance(_Spread):
    """Explained variance: R² that does not mind a constant error, ``1 - (sum(e**2) - sum(e)**2 / n) / spread``."""

    name = "explained_variance"

    def unexplained(self, count: float, error: Array, error2: Array) -> Array:
        """The spread of the errors."""
        return np.maximum(error2 - error * (error / count), 0)


def columns_of(outputs: Any, targets: Any) -> tuple[Array, Array]:
    """Outputs and targets as float64 of shape ``(n, columns)``.

    Raises:
        PlanError: They are no arrays of numbers of one shape, or not finite.
    """
    if not (isinstance(outputs, np.ndarray) and isinstance(targets, np.ndarray)):
        odd = outputs if not isinstance(outputs, np.ndarray) else targets
        raise PlanError(
            f"This metric needs one array of outputs and one of targets, but got a {type(odd).__name__}.",
            cure="Define predict(self, data) in the plan, which returns what is to be compared with the target.",
        )
    for array, what in ((outputs, "The model's output"), (targets, "The target")):
        if array.dtype.kind not in "biuf":
            raise PlanError(f"{what} holds {array.dtype}, not numbers.")
        if not np.isfinite(array).all():
            raise PlanError(f"{what} holds NaN or infinity, of which no mean can be made.")
    shape = _bare(targets)
    if _bare(outputs) != shape:
        raise PlanError(f"The model's output has shape {outputs.shape}, the target {targets.shape}; they must agree.")
    columns = shape[1] if len(shape) == 2 else 1
    return outputs.reshape(-1, columns).astype(np.float64), targets.reshape(-1, columns).astype(np.float64)


def _bare(array: Array) -> tuple[int, ...]:
    """A shape without its axes of length 1, but for the first; a lone number is one sample."""
    return (*(array.shape[:1] or (1,)), *(length for length in array.shape[1:] if length != 1))


def _state(count: int, sums: list[Array]) -> Array:
    state = np.concatenate([np.array([count], np.float64), *sums])
    if not np.isfinite(state).all():
        raise PlanError("The squared errors are too large to be summed.", cure="Scale the targets.")
    return state
