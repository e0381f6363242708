"""Least squares with coefficients that cannot be negative: costs that are fitted to measured points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy.optimize import nnls

P = TypeVar("P")

Feature = Callable[[P], float]
"""What a coefficient is multiplied with, at a point."""


@dataclass(frozen=True)
class Fit(Generic[P]):
    """A sum of features, each times a coefficient that is not negative.

    Attributes:
        features: By name.
        coefficients: By name; 0 where a feature explains nothing.
        errors: Prediction over measurement minus 1, point by point.
    """

    features: Mapping[str, Feature[P]]
    coefficients: Mapping[str, float]
    errors: tuple[float, ...]

    def __getitem__(self, name: str) -> float:
        return self.coefficients[name]

    def predict(self, point: P) -> float:
        """The value at a point."""
        return sum(self.coefficients[name] * feature(point) for name, feature in self.features.items())

    @property
    def typical_error(self) -> float:
        """Root of the mean square of the relative errors."""
        return math.sqrt(sum(error * error for error in self.errors) / len(self.errors))

    @property
    def worst_error(self) -> float:
        """The largest relative error, without its sign."""
        return max(abs(error) for error in self.errors)


def fit(points: Sequence[P], values: Sequence[float], features: Mapping[str, Feature[P]]) -> Fit[P]:
    """Fit by least squares of the relative errors, so that small points count as much as large ones.

    The coefficients are those of the non-negative least squares of Lawson and Hanson, "Solving Least Squares Problems",
    1974, chapter 23: a cost that would come out negative is 0.

    Args:
        points: Where something was measured.
        values: What was measured there, above zero.
        features: What may explain it.

    Raises:
        ValueError: There are fewer points than features, or a value is not above zero.
    """
    if len(points) < len(features):
        raise ValueError(f"{len(points)} points cannot tell {len(features)} costs apart; measure more of them.")
    measured = np.array(values, float)
    if not (measured > 0).all():
        raise ValueError(f"Relative errors need values above zero; the smallest is {measured.min():g}.")
    matrix = np.array([[feature(point) for feature in features.values()] for point in points], float)
    relative = matrix / measured[:, None]
    scale = np.linalg.norm(relative, axis=0)
    if not scale.all():
        unused = [name for name, size in zip(features, scale, strict=True) if size == 0]
        raise ValueError(f"No point tells anything about {', '.join(unused)}.")
    solution, _ = nnls(relative / scale, np.ones(len(points)))
    found = solution / scale
    errors = matrix @ found / measured - 1
    return Fit(features, dict(zip(features, map(float, found), strict=True)), tuple(map(float, errors)))
