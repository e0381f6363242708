"""Objective and exact gradients of SGDClassifier, SGDRegressor and Perceptron, for batches of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array
from fedplug_sklearn.losses import loss_named

# Scikit-learn holds every slope within these bounds before it takes a step (_sgd_fast.pyx, MAX_DLOSS).
MAX_SLOPE = 1e12
# Settings of scikit-learn's own training, at values that suit every loss and penalty.
_UNUSED = {"random_state": 0, "verbose": 0, "n_jobs": None, "learning_rate": "constant", "eta0": 1.0}


class LinearObjective:
    """What a linear SGD model of scikit-learn minimises, and its gradients, for one batch after another.

    For n rows x_i with weights a_i, and K scores s_ik = w_k.x_i + b_k, each with its target t_ik, this is

        F(w, b) = 1/n sum_ik a_i c_ik l(s_ik, t_ik) + alpha sum_k R(w_k),
        dF/dw_k = 1/n sum_i a_i c_ik l'(s_ik, t_ik) x_i + alpha R'(w_k),
        dF/db_k = 1/n sum_i a_i c_ik l'(s_ik, t_ik),

    with R(w) = l1_ratio ||w||_1 + (1 - l1_ratio) ||w||^2 / 2, l1_ratio 1 for "l1" and 0 for "l2" (scikit-learn user
    guide, "Stochastic Gradient Descent", mathematical formulation). A classifier of more than two classes has one
    score per class, which tells it (t = +1) from all others (t = -1); with two classes there is one score, for the
    second. The class weight c is that of the class where t = +1, and otherwise 1; with two classes, where t = -1, it
    is that of the first. A regressor has one score, and c = 1.

    With one row per batch, a step w -= eta0 dF/dw is scikit-learn's own step, unless alpha eta0 > 1 (where it sets
    coefficients to zero) or the penalty has an l1 part (where it truncates at zero, with a memory: Tsuruoka et al.,
    "Stochastic gradient descent training for L1-regularized log-linear models", ACL 2009). Here R' takes the plain
    subgradient, sign(w), which is 0 at 0. Sparse data get the same gradients as dense ones, where scikit-learn
    slows the intercept down to a hundredth. Learning rate, shuffling and number of epochs of the estimator have no
    part in this.

    Its settings are read once, when this is made; ``coef_`` and ``intercept_`` whenever it is called.

    Args:
        estimator: A model that has been fitted, or made ready by `prepare`.

    Raises:
        UsageError: It is of another kind, is not ready, or has a ``class_weight`` that depends on the data.
    """

    def __init__(self, estimator: Any) -> None:
        _require_supported(estimator)
        if not hasattr(estimator, "coef_"):
            raise UsageError(f"This {type(estimator).__name__} has no coefficients yet.", cure="Call prepare() first.")
        self._estimator = estimator
        self._loss = loss_named(estimator.loss)
        self._epsilon = float(estimator.epsilon)
        self._fit_intercept = bool(estimator.fit_intercept)
        self._l1, self._l2 = _penalty_factors(estimator)
        self._positive: Array | None = None
        self._class_weights: tuple[Array, float] | None = None
        if hasattr(estimator, "classes_"):
            classes = np.asarray(estimator.classes_)
            self._positive = classes[1:] if len(classes) == 2 else classes
            self._class_weights = _class_weights(estimator.class_weight, classes)

    def scores(self, data: Any) -> Array:
        """The decision scores of rows.

        Args:
            data: Rows of shape (n, d), dense or sparse, of any type of number.

        Returns:
            Float64 of shape (n, K) for a classifier, whose row-wise largest is the predicted class: for two classes
            the columns are 0 and the score. Of shape (n,) for a regressor: the predictions.
        """
        scores = self._scores(_rows(data))
        if self._positive is None:
            return scores[:, 0]
        return np.hstack([np.zeros_like(scores), scores]) if scores.shape[1] == 1 else scores

    def __call__(self, data: Any, target: Any, sample_weight: Any = None) -> tuple[float, dict[str, Array]]:
        """Objective and gradients over one batch.

        Values that leave the range of float64 come back as infinities or NaN, without a warning.

        Args:
            data: Rows of shape (n, d), dense or sparse (SciPy), of any type of number.
            target: The class of each row, one of ``classes_``, or its number to predict; of shape (n,).
            sample_weight: The weight a_i of each row, of shape (n,); None for ones.

        Returns:
            The objective F, and the gradients by the names ``coef_`` and ``intercept_``: float64, of the shapes that
            these have in the estimator. The gradient of an intercept that is not fitted is 0.

        Raises:
            DatasetError: The batch has no rows.
        """
        rows = _rows(data)
        n = rows.shape[0]
        if not n:
            raise DatasetError("A batch has no rows, so it has no mean loss.")
        # What diverges shows in the result: a warning of each operation on the way would say no more.
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self._scores(rows)
            targets, weights = self._targets(np.asarray(target).reshape(-1, 1))
            if sample_weight is not None:
                weights = weights * np.asarray(sample_weight, dtype=np.float64).reshape(-1, 1)
            losses = self._loss.value(scores, targets, self._epsilon) * weights
            slopes = np.clip(self._loss.slope(scores, targets, self._epsilon), -MAX_SLOPE, MAX_SLOPE) * weights
            # The tall product first, transposed after: for small K, BLAS is faster so, and sparse data allow no other.
            coef_gradient = np.ascontiguousarray((rows.T @ slopes).T)
            coef_gradient /= n
            objective = float(losses.sum()) / n + self._add_penalty(coef_gradient)
        intercept_gradient = slopes.sum(axis=0) / n if self._fit_intercept else np.zeros(slopes.shape[1])
        return objective, {
            "coef_": coef_gradient.reshape(self._estimator.coef_.shape),
            "intercept_": intercept_gradient.reshape(self._estimator.intercept_.shape),
        }

    def _coef(self) -> Array:
        """The coefficients as they are now, of shape (K, d)."""
        return np.atleast_2d(np.asarray(self._estimator.coef_, dtype=np.float64))

    def _scores(self, rows: Any) -> Array:
        """All w_k.x_i + b_k, of shape (n, K)."""
        scores: Array = rows @ self._coef().T
        scores += self._estimator.intercept_
        return scores

    def _targets(self, target: Array) -> tuple[Array, Array | float]:
        """The t_ik, of shape (n, K), and the c_ik, likewise or one number, for targets of shape (n, 1)."""
        if self._positive is None:
            return target.astype(np.float64), 1.0
        hit = target == self._positive
        return np.where(hit, 1.0, -1.0), 1.0 if self._class_weights is None else np.where(hit, *self._class_weights)

    def _add_penalty(self, coef_gradient: Array) -> float:
        """The penalty; its gradient is added to ``coef_gradient``, of shape (K, d)."""
        penalty = 0.0
        coef = self._coef()
        if self._l2:
            penalty += 0.5 * self._l2 * float(np.vdot(coef, coef))
            coef_gradient += self._l2 * coef
        if self._l1:
            penalty += self._l1 * float(np.abs(coef).sum())
            coef_gradient += self._l1 * np.sign(coef)
        return penalty


def prepare(estimator: Any, n_features: int, n_classes: int | None = None) -> None:
    """Make ``estimator`` a fitted scikit-learn model with all coefficients zero, whatever it was before.

    Everything that `LinearObjective`, scikit-learn's predictions and a further ``partial_fit`` need is there
    afterwards; ``coef_`` and ``intercept_`` are float64 arrays that an optimizer may change in place. Neither
    NumPy's global random state nor the estimator's own is used.

    Args:
        estimator: An SGDClassifier, SGDRegressor or Perceptron.
        n_features: The number d of columns of the data.
        n_classes: For a classifier: its classes are 0, 1, ..., n_classes - 1.

    Raises:
        UsageError: The estimator is of another kind, has settings that it cannot be trained with, or the numbers
            do not suit it.
    """
    _require_supported(estimator)
    kind = type(estimator).__name__
    is_classifier = not isinstance(estimator, SGDRegressor)
    if n_features < 1:
        raise UsageError(f"A model needs at least one feature, but n_features is {n_features}.")
    if is_classifier and (n_classes is None or n_classes < 2):
        raise UsageError(f"{kind} needs to know of at least two classes, but n_classes is {n_classes}.")
    if not is_classifier and n_classes is not None:
        raise UsageError(f"{kind} has no classes, but n_classes is {n_classes}.", cure="Leave n_classes out.")
    if getattr(estimator, "average", False):
        raise UsageError(
            f"{kind}(average={estimator.average!r}) averages scikit-learn's own steps, which are not taken here.",
            cure="Leave average out.",
        )
    # Scikit-learn itself makes the attributes, of whichever version it is; on a copy, which does not print, draw from
    # the user's random state, start threads, or mind a learning rate that is not used here.
    changes = {name: value for name, value in _UNUSED.items() if name in estimator.get_params(deep=False)}
    fitted = clone(estimator).set_params(**changes)
    try:
        if n_classes is None:
            fitted.partial_fit(np.zeros((1, n_features)), np.zeros(1))
        else:
            classes = np.arange(n_classes)
            fitted.partial_fit(np.zeros((n_classes, n_features)), classes, classes=classes)
    except ValueError as error:
        raise UsageError(f"scikit-learn cannot train this {kind} batch by batch: {error}") from error
    fitted.coef_[...] = 0.0
    fitted.intercept_[...] = 0.0
    fitted.t_ = 1.0  # no step has been taken
    settings = estimator.get_params(deep=False)
    for name in [name for name in vars(estimator) if name not in settings]:
        delattr(estimator, name)
    for name, value in vars(fitted).items():
        if name not in settings:
            setattr(estimator, name, value)


def _require_supported(estimator: Any) -> None:
    if not isinstance(estimator, SGDClassifier | SGDRegressor | Perceptron):
        raise UsageError(
            f"A {type(estimator).__name__} is no linear model that is trained by gradients here.",
            cure="Use an SGDClassifier, SGDRegressor or Perceptron of sklearn.linear_model.",
        )


def _rows(data: Any) -> Any:
    """Rows that can be multiplied by float64 arrays: sparse matrices as they are, all else as a float64 array."""
    # SciPy multiplies in the wider of the two types, so that integers and float32 need no copy.
    return data if hasattr(data, "tocsr") else np.asarray(data, dtype=np.float64)


def _penalty_factors(estimator: Any) -> tuple[float, float]:
    """The factors of ``||w||_1`` and of ``||w||^2 / 2`` in the objective."""
    if estimator.penalty is None:
        return 0.0, 0.0
    l1_ratio = {"l1": 1.0, "l2": 0.0, "elasticnet": estimator.l1_ratio}[estimator.penalty]
    return estimator.alpha * l1_ratio, estimator.alpha * (1.0 - l1_ratio)


def _class_weights(class_weight: Any, classes: Array) -> tuple[Array, float] | None:
    """The class weights for t = +1, one per score, and the one for t = -1."""
    if class_weight is None:
        return None
    if not isinstance(class_weight, dict):
        raise UsageError(
            f"class_weight={class_weight!r} depends on all the data, which no node has.",
            cure="Give the weights as a dict, e.g. class_weight={0: 1.0, 1: 3.0}.",
        )
    weights = np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])
    return (weights[1:], float(weights[0])) if len(classes) == 2 else (weights, 1.0)
