"""From what a model puts out to class numbers, the same way for every metric of classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedplug.core.errors import PlanError, UpdateRejectedError, UsageError
from fedplug.core.metrics.base import Metric
from fedplug.core.numbers import is_whole
from fedplug.core.params import Array

MOST_COUNT = 2.0**53
"""Up to here float64 counts without a gap."""


class LabelMetric(Metric):
    """A metric that compares class numbers.

    The class that a model predicts is the column of the largest output, or, where there is one output per sample,
    class 1 if it is above ``threshold``. Outputs that are whole numbers (of an integer dtype) are classes already.

    Args:
        n_classes: Number of classes, where outputs do not tell; without it, one output per sample means two.
        threshold: Where class 1 begins, for one output per sample; 0.5 by default. If it is given, outputs need
            not be probabilities.
        logits: Whether single outputs are logits: then the threshold is for their sigmoid.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, *, n_classes: int | None = None, threshold: float | None = None, logits: bool = False) -> None:
        if n_classes is not None and not is_whole(n_classes, 2):
            raise UsageError(f"n_classes must be a whole number >= 2, got {n_classes!r}.")
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
            raise UsageError(f"threshold must be a number, got {threshold!r}.")
        if not isinstance(logits, bool):
            raise UsageError(f"logits must be True or False, got {logits!r}.")
        self.n_classes = n_classes
        self.threshold = threshold
        self.logits = logits

    def classes(self, outputs: Any, targets: Any) -> tuple[Array, Array, int]:
        """Predicted and true classes, int64 of shape ``(n,)`` each, and the number of classes.

        Raises:
            PlanError: The shapes do not fit, or something is no class number.
        """
        scores, labels = rows_of(outputs, targets)
        if scores.ndim == 2:
            count = scores.shape[1]
            if self.n_classes not in (None, count):
                raise PlanError(
                    f"n_classes is {self.n_classes}, but the model's output has {count} columns.",
                    cure="Leave n_classes out of test_metric_args, or correct the model.",
                )
            require_numbers(scores)
            return np.argmax(scores, axis=1), class_numbers(labels, count, "The target"), count
        count = self.n_classes or 2
        if scores.dtype.kind in "biu" or count > 2:
            predicted = class_numbers(scores, count, "The model's output")
        else:
            predicted = (self._probabilities(scores) > (0.5 if self.threshold is None else self.threshold)).astype(int)
        return predicted, class_numbers(labels, count, "The target"), count

    def _probabilities(self, scores: Array) -> Array:
        require_numbers(scores)
        if self.logits:
            return sigmoid(scores)
        if self.threshold is None:
            require_probabilities(scores, 'Set test_metric_args={"logits": True}, or a threshold of your own.')
        return scores


def rows_of(outputs: Any, targets: Any) -> tuple[Array, Array]:
    """Scores of shape ``(n,)`` or ``(n, classes)``, and ``n`` labels.

    Outputs with further axes, ``(samples, classes, height, width)`` for targets ``(samples, height, width)``, count
    each place as a sample.

    Raises:
        PlanError: They are no arrays, or do not fit each other.
    """
    if not (isinstance(outputs, np.ndarray) and isinstance(targets, np.ndarray)):
        odd = outputs if not isinstance(outputs, np.ndarray) else targets
        raise PlanError(
            f"This metric needs one array of outputs and one of targets, but got a {type(odd).__name__}.",
            cure="Define predict(self, data) in the plan, which returns what is to be compared with the target.",
        )
    if outputs.dtype.kind not in "biuf":
        raise PlanError(f"The model's output holds {outputs.dtype}, not numbers.")
    single = outputs.ndim <= 1 or outputs.shape[1] == 1
    if single and outputs.size == targets.size:
        return outputs.reshape(-1), targets.reshape(-1)
    if not single:
        count = outputs.shape[1]
        if targets.shape[:1] == outputs.shape[:1] and outputs.size == targets.size * count:
            return np.moveaxis(outputs, 1, -1).reshape(-1, count), targets.reshape(-1)
    one_hot = not single and outputs.shape == targets.shape
    raise PlanError(
        f"The model's output has shape {outputs.shape} and the target {targets.shape}; each sample needs one class "
        "number as target, and one output per class (or a single one).",
        cure="Turn one-hot targets into class numbers: targets.argmax(1)." if one_hot else "",
    )


def class_numbers(labels: Array, count: int, what: str) -> Array:
    """``labels`` as int64.

    Raises:
        PlanError: One is no whole number from 0 to ``count - 1``; it is shown.
    """
    if labels.dtype.kind not in "biuf":
        raise PlanError(
            f"{what} holds {labels.dtype}, but classes are whole numbers.", cure="Number the classes from 0."
        )
    if labels.dtype.kind == "f":
        wrong = ~(np.isfinite(labels) & (labels == np.floor(labels)))
        if wrong.any():
            raise PlanError(
                f"{what} holds {labels[wrong][0]}, but classes are whole numbers.", cure="Number the classes from 0."
            )
    wrong = (labels < 0) | (labels >= count)
    if wrong.any():
        raise PlanError(
            f"{what} holds the class {labels[wrong][0]:g}, but with {count} classes they are 0 to {count - 1}.",
            cure="Number the classes from 0; n_classes in test_metric_args says how many there are where the model's "
            "output does not.",
        )
    return labels.astype(np.int64)


def require_numbers(scores: Array) -> None:
    """Refuse a NaN, which compares with nothing.

    Raises:
        PlanError: There is one.
    """
    if np.isnan(scores).any():
        raise PlanError("The model's output holds NaN, of which no metric can be made.", cure="Has it diverged?")


def require_probabilities(scores: Array, cure: str) -> None:
    """Refuse what lies outside [0, 1].

    Raises:
        PlanError: Something does; it is shown.
    """
    wrong = (scores < 0) | (scores > 1)
    if wrong.any():
        raise PlanError(
            f"The model's output {scores[wrong][0]:g} is no probability: it lies outside [0, 1].", cure=cure
        )


def sigmoid(scores: Array) -> Array:
    """``1 / (1 + exp(-x))`` in float64, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores.astype(np.float64))))


def require_counts(state: Array) -> None:
    """Refuse a state that does not count anything.

    Raises:
        UpdateRejectedError: A number is negative, fractional or beyond 2**53, or all are zero.
    """
    if not ((state >= 0) & (state <= MOST_COUNT) & (state == np.floor(state))).all():
        raise UpdateRejectedError("it counts what cannot be counted (negative, fractional or huge numbers)")
    if not state.any():
        raise UpdateRejectedError("it counts no sample")
