"""The area under the ROC curve, from binned scores, with the largest error that the bins can make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedplug.core.errors import PlanError, UpdateRejectedError, UsageError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.labels import (
    class_numbers,
    require_counts,
    require_numbers,
    require_probabilities,
    rows_of,
    sigmoid,
)
from fedplug.core.numbers import is_whole
from fedplug.core.params import Array

MOST_BINS = 2**18


class Auc(Metric):
    """Area under the ROC curve: the share of pairs of a positive and a negative sample that the scores order right.

    Exact AUC needs all scores at one place. Here each node counts its positive and negative samples in ``bins``
    bins of equal width over [0, 1], and counts add up. Let ``p[b]`` and ``n[b]`` be the numbers of positive and
    negative samples in bin ``b``, ``P`` and ``N`` their sums::

        auc = sum over b of p[b] * (n[0] + ... + n[b-1] + n[b] / 2) / (P * N)

    The error: a pair in two different bins is ordered by its bins as by its scores, since a bin's number grows with
    the score. A pair within one bin counts 1/2 here, while it truly counts 0, 1/2 or 1: at most 1/2 is wrong. There
    are ``p[b] * n[b]`` such pairs in bin ``b``, hence::

        |auc - exact auc| <= 1/2 * (sum over b of p[b] * n[b]) / (P * N)  =  auc_error_bound

    which is computed from the same counts and reported beside the value. More bins make it smaller.

    Where there are more than two classes, each is measured against all others, and the value is the plain mean over
    the classes that have both positive and negative samples; so is the bound. Without any such class (or without
    a positive or a negative sample) the value is NaN.

    State: for two classes ``[n[0] ... n[bins-1], p[0] ... p[bins-1]]``; for more, the same for each class in turn.

    Args:
        bins: Number of bins, 2 to 262144.
        logits: Whether outputs are scores before sigmoid or softmax. By default two or more columns are (of two, the
            sigmoid of their difference is the probability of class 1), and a single output is a probability.
        n_classes: Number of classes, to be compared with the number of columns.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, *, bins: int = 1024, logits: bool | None = None, n_classes: int | None = None) -> None:
        if not (is_whole(bins) and 2 <= bins <= MOST_BINS):
            raise UsageError(f"bins must be a whole number from 2 to {MOST_BINS}, got {bins!r}.")
        if logits is not None and not isinstance(logits, bool):
            raise UsageError(f"logits must be True, False or None, got {logits!r}.")
        if n_classes is not None and not is_whole(n_classes, 2):
            raise UsageError(f"n_classes must be a whole number >= 2, got {n_classes!r}.")
        self.bins = bins
        self.logits = logits
        self.n_classes = n_classes

    def state(self, outputs: Any, targets: Any) -> Array:
        """Count positives and negatives in bins."""
        scores, labels = rows_of(outputs, targets)
        count = scores.shape[1] if scores.ndim == 2 else 2
        if self.n_classes not in (None, count):
            raise PlanError(f"n_classes is {self.n_classes}, but the model's output tells {count} classes apart.")
        chances = self.probabilities(scores)
        true = class_numbers(labels, count, "The target")
        if count == 2:
            return self._counts(chances, true)
        return np.concatenate([self._counts(chances[:, k], (true == k).astype(np.int64)) for k in range(count)])

    def probabilities(self, scores: Array) -> Array:
        """Of class 1, shape ``(n,)``; of each class, ``(n, classes)``, where there are more than two.

        Raises:
            PlanError: A score is NaN, or should be a probability and is none.
        """
        require_numbers(scores)
        scores = scores.astype(np.float64)
        logits = scores.ndim == 2 if self.logits is None else self.logits
        if not logits:
            require_probabilities(
                scores, 'Set test_metric_args={"logits": True} if these are scores before sigmoid or softmax.'
            )
            return scores[:, 1] if scores.ndim == 2 and scores.shape[1] == 2 else scores
        if np.isposinf(scores).any() or (scores.ndim == 2 and np.isneginf(scores).all(axis=1).any()):
            raise PlanError("The model's output holds infinity, of which no probability can be made.")
        if scores.ndim == 1:
            return sigmoid(scores)
        if scores.shape[1] == 2:
            return sigmoid(scores[:, 1] - scores[:, 0])
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def value(self, state: Array) -> dict[str, Any]:
        """``auc`` and ``auc_error_bound``, in [0, 1]."""
        found = [_area(negative, positive) for negative, positive in state.reshape(-1, 2, self.bins)]
        known = [each for each in found if each is not None]
        if not known:
            return {"auc": math.nan, "auc_error_bound": math.nan}
        areas, bounds = zip(*known, strict=True)
        return {"auc": math.fsum(areas) / len(known), "auc_error_bound": math.fsum(bounds) / len(known)}

    def check(self, state: Array) -> None:
        """Refuse counts that contradict each other."""
        require_counts(state)
        groups, rest = divmod(state.size, 2 * self.bins)
        count = 2 if groups == 1 else groups
        if rest or groups == 2 or self.n_classes not in (None, count):
            raise UpdateRejectedError("it has another number of bins or classes")
        counts = state.reshape(groups, 2, self.bins)
        totals = counts.sum(axis=(1, 2))
        if (totals != totals[0]).any() or (groups > 1 and counts[:, 1].sum() != totals[0]):
            raise UpdateRejectedError("its counts of the classes contradict each other")

    def _counts(self, chances: Array, positive: Array) -> Array:
        places = np.minimum((chances * self.bins).astype(np.int64), self.bins - 1)
        return np.bincount(positive * self.bins + places, minlength=2 * self.bins).astype(np.float64)


def _area(negative: Array, positive: Array) -> tuple[float, float] | None:
    """The area and its error bound; None where there is no pair."""
    pairs = float(negative.sum()) * float(positive.sum())
    if pairs == 0:
        return None
    below = np.cumsum(negative) - negative
    ties = float(np.dot(positive, negative))
    return (float(np.dot(positive, below)) + ties / 2) / pairs, ties / 2 / pairs
