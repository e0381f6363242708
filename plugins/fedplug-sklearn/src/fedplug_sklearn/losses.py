"""The losses of scikit-learn's linear SGD models, each as its value and its slope."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from fedplug.core.errors import UnknownNameError
from fedplug.core.params import Array


class Loss(ABC):
    """A loss of one score and one target, for arrays of them.

    The score is ``s = w.x + b``. The target ``t`` is -1 or +1 in a classifier, and any number in a regressor.
    Definitions and constant factors are those of scikit-learn (user guide, "Stochastic Gradient Descent",
    mathematical formulation), so that a step along the slope is a step of scikit-learn's own SGD. ``epsilon`` is
    the parameter of that name in some of the losses; the others ignore it.
    """

    @abstractmethod
    def value(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """The loss ``l(s, t)`` of each element, of the arrays' common shape.

        A square that is beyond float64 is infinity, without a warning.
        """

    @abstractmethod
    def slope(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """The derivative ``dl/ds`` of each element, of the arrays' common shape.

        At a kink it is the one-sided derivative that scikit-learn takes.
        """


@dataclass(frozen=True)
class MarginLoss(Loss):
    """A loss of the margin: ``l(s, t) = f(z)`` and ``dl/ds = t f'(z)``, with ``z = t s`` and t = -1 or +1.

    Args:
        formula: f, from an array of margins.
        derivative: f', likewise.
    """

    formula: Callable[[Array], Array]
    derivative: Callable[[Array], Array]

    def value(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """``f(t s)``: see `Loss.value`."""
        with np.errstate(over="ignore"):
            return self.formula(score * target)

    def slope(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """``t f'(t s)``: see `Loss.slope`."""
        with np.errstate(over="ignore"):
            slope: Array = target * self.derivative(score * target)
            return slope


@dataclass(frozen=True)
class ResidualLoss(Loss):
    """A loss of the residual: ``l(s, t) = f(r)`` and ``dl/ds = f'(r)``, with ``r = s - t``.

    Args:
        formula: f, from an array of residuals and epsilon.
        derivative: f', likewise.
    """

    formula: Callable[[Array, float], Array]
    derivative: Callable[[Array, float], Array]

    def value(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """``f(s - t)``: see `Loss.value`."""
        with np.errstate(over="ignore"):
            return self.formula(score - target, epsilon)

    def slope(self, score: Array, target: Array, epsilon: float = 0.1) -> Array:
        """``f'(s - t)``: see `Loss.slope`."""
        with np.errstate(over="ignore"):
            return self.derivative(score - target, epsilon)


def loss_named(name: str) -> Loss:
    """The loss that scikit-learn calls ``name``.

    Raises:
        UsageError: There is none; the error lists those that there are.
    """
    if name not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    return LOSSES[name]


# ------------------------------------------------------------------------------------------------- of the margin z


def _hinge(margin: Array, threshold: float) -> Array:
    """``max(0, c - z)``: the hinge loss with c = 1, the perceptron criterion with c = 0."""
    return np.maximum(threshold - margin, 0.0)


def _hinge_derivative(margin: Array, threshold: float) -> Array:
    # -1 at the kink itself, as in scikit-learn: otherwise a perceptron that starts at zero would stay there.
    return np.where(margin <= threshold, -1.0, 0.0)


def _squared_hinge(margin: Array) -> Array:
    """``max(0, 1 - z)^2``."""
    return np.square(np.maximum(1.0 - margin, 0.0))


def _squared_hinge_derivative(margin: Array) -> Array:
    return -2.0 * np.maximum(1.0 - margin, 0.0)


def _log_loss(margin: Array) -> Array:
    """``log(1 + exp(-z))``, written with ``exp(-|z|)``, which cannot overflow."""
    value: Array = np.maximum(-margin, 0.0) + np.log1p(np.exp(-np.abs(margin)))
    return value


def _log_loss_derivative(margin: Array) -> Array:
    """``-1 / (1 + exp(z))``, written likewise."""
    decay = np.exp(-np.abs(margin))
    derivative: Array = -np.where(margin > 0.0, decay, 1.0) / (1.0 + decay)
    return derivative


def _modified_huber(margin: Array) -> Array:
    """``max(0, 1 - z)^2`` down to z = -1, and below it the tangent ``-4z``.

    T. Zhang, "Solving large scale linear prediction problems using stochastic gradient descent algorithms"
    (ICML 2004). With ``u = max(0, 1 - z)`` and ``v = min(u, 2)`` both branches are ``v (2u - v)``, in which no
    square is computed that is not used.
    """
    gap = np.maximum(1.0 - margin, 0.0)
    bent = np.minimum(gap, 2.0)
    value: Array = bent * (2.0 * gap - bent)
    return value


def _modified_huber_derivative(margin: Array) -> Array:
    derivative: Array = -2.0 * np.clip(1.0 - margin, 0.0, 2.0)
    return derivative


# ----------------------------------------------------------------------------------------------- of the residual r


def _squared_error(residual: Array, _epsilon: float) -> Array:
    """``r^2 / 2``."""
    value: Array = 0.5 * np.square(residual)
    return value


def _squared_error_derivative(residual: Array, _epsilon: float) -> Array:
    return residual


def _huber(residual: Array, epsilon: float) -> Array:
    """``r^2 / 2`` up to |r| = epsilon, and beyond it the tangent ``epsilon |r| - epsilon^2 / 2``.

    P. J. Huber, "Robust estimation of a location parameter" (1964). With ``v = min(|r|, epsilon)`` both branches
    are ``v (|r| - v / 2)``.
    """
    distance = np.abs(residual)
    bent = np.minimum(distance, epsilon)
    value: Array = bent * (distance - 0.5 * bent)
    return value


def _huber_derivative(residual: Array, epsilon: float) -> Array:
    derivative: Array = np.clip(residual, -epsilon, epsilon)
    return derivative


def _epsilon_insensitive(residual: Array, epsilon: float) -> Array:
    """``max(0, |r| - epsilon)``: V. Vapnik, "The nature of statistical learning theory" (1995), chapter 6."""
    return np.maximum(np.abs(residual) - epsilon, 0.0)


def _epsilon_insensitive_derivative(residual: Array, epsilon: float) -> Array:
    return np.where(np.abs(residual) > epsilon, np.sign(residual), 0.0)


def _squared_epsilon_insensitive(residual: Array, epsilon: float) -> Array:
    """``max(0, |r| - epsilon)^2``."""
    return np.square(np.maximum(np.abs(residual) - epsilon, 0.0))


def _squared_epsilon_insensitive_derivative(residual: Array, epsilon: float) -> Array:
    derivative: Array = 2.0 * np.sign(residual) * np.maximum(np.abs(residual) - epsilon, 0.0)
    return derivative


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "hinge": MarginLoss(partial(_hinge, threshold=1.0), partial(_hinge_derivative, threshold=1.0)),
        "squared_hinge": MarginLoss(_squared_hinge, _squared_hinge_derivative),
        "log_loss": MarginLoss(_log_loss, _log_loss_derivative),
        "modified_huber": MarginLoss(_modified_huber, _modified_huber_derivative),
        "perceptron": MarginLoss(partial(_hinge, threshold=0.0), partial(_hinge_derivative, threshold=0.0)),
        "squared_error": ResidualLoss(_squared_error, _squared_error_derivative),
        "huber": ResidualLoss(_huber, _huber_derivative),
        "epsilon_insensitive": ResidualLoss(_epsilon_insensitive, _epsilon_insensitive_derivative),
        "squared_epsilon_insensitive": ResidualLoss(
            _squared_epsilon_insensitive, _squared_epsilon_insensitive_derivative
        ),
    }
)
