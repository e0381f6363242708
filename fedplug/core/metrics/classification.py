"""Accuracy, precision, recall, F1 and the confusion matrix, from counts."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fedplug.core.errors import UpdateRejectedError, UsageError
from fedplug.core.metrics.labels import LabelMetric, require_counts
from fedplug.core.numbers import is_whole
from fedplug.core.params import Array

AVERAGES = ("binary", "weighted", "macro", "micro")


class Accuracy(LabelMetric):
    """The share of samples whose class is predicted. State: ``[right, samples]``."""

    def state(self, outputs: Any, targets: Any) -> Array:
        """Count the right ones."""
        predicted, true, _ = self.classes(outputs, targets)
        return np.array([np.count_nonzero(predicted == true), true.size], np.float64)

    def value(self, state: Array) -> dict[str, Any]:
        """``accuracy``, in [0, 1]."""
        return {"accuracy": float(state[0] / state[1])}

    def check(self, state: Array) -> None:
        """Refuse more right ones than samples."""
        require_counts(state)
        if state.size != 2 or state[0] > state[1]:
            raise UpdateRejectedError("it counts more right answers than samples")


class _ClassMetric(LabelMetric):
    """What precision, recall and F1 share.

    State: for each class the numbers of samples that are rightly predicted to be of it, that are predicted to be of
    it, and that are of it; float64 of shape ``(3 * classes,)``.

    A ratio whose denominator is zero counts as 0, as in scikit-learn. Averages are over the classes that occur as
    target or prediction.

    Args:
        average: ``"binary"`` (the default for two classes): that of the positive class; ``"weighted"`` (the default
            for more): the mean over classes, weighted by the number of samples of each; ``"macro"``: the plain mean;
            ``"micro"``: of all classes together.
        pos_label: The positive class of two; 1 by default.
        n_classes: As for `LabelMetric`.
        threshold: As for `LabelMetric`.
        logits: As for `LabelMetric`.

    Raises:
        UsageError: An argument is out of range.
    """

    name: ClassVar[str]

    def __init__(
        self,
        *,
        average: str | None = None,
        pos_label: int | None = None,
        n_classes: int | None = None,
        threshold: float | None = None,
        logits: bool = False,
    ) -> None:
        super().__init__(n_classes=n_classes, threshold=threshold, logits=logits)
        if average is not None and average not in AVERAGES:
            raise UsageError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}.")
        if pos_label is not None and not (is_whole(pos_label) and pos_label in (0, 1)):
            raise UsageError(f"pos_label must be 0 or 1, got {pos_label!r}.")
        if pos_label is not None and average not in (None, "binary"):
            raise UsageError(f"There is no positive class in an average of the kind {average!r}; leave pos_label out.")
        self.average = average
        self.pos_label = pos_label
        if n_classes is not None:
            self._require_two(n_classes)

    def state(self, outputs: Any, targets: Any) -> Array:
        """Count for each class."""
        predicted, true, count = self.classes(outputs, targets)
        self._require_two(count)
        right = np.bincount(true[predicted == true], minlength=count)
        counts = [right, np.bincount(predicted, minlength=count), np.bincount(true, minlength=count)]
        return np.concatenate(counts).astype(np.float64)

    def value(self, state: Array) -> dict[str, Any]:
        """One number in [0, 1]."""
        right, predicted, true = state.reshape(3, -1)
        average = self.average or ("binary" if true.size == 2 else "weighted")
        if average == "binary":
            picked = slice(1, 2) if self.pos_label is None else slice(self.pos_label, self.pos_label + 1)
            found = float(self.ratio(right[picked], predicted[picked], true[picked])[0])
        elif average == "micro":
            found = float(self.ratio(right.sum(), predicted.sum(), true.sum()))
        else:
            each = self.ratio(right, predicted, true)
            weights = true if average == "weighted" else ((predicted + true) > 0).astype(np.float64)
            found = math.fsum(each * weights) / math.fsum(weights)
        return {self.name: found}

    def ratio(self, right: Any, predicted: Any, true: Any) -> Any:
        """The measure of one class or several, from its counts."""
        raise NotImplementedError

    def check(self, state: Array) -> None:
        """Refuse counts that contradict each other."""
        require_counts(state)
        if state.size % 3 or state.size < 6 or self.n_classes not in (None, state.size // 3):
            raise UpdateRejectedError("it counts another number of classes")
        right, predicted, true = state.reshape(3, -1)
        if (right > np.minimum(predicted, true)).any() or predicted.sum() != true.sum():
            raise UpdateRejectedError("its counts of predicted and true classes contradict each other")

    def _require_two(self, count: int) -> None:
        if count != 2 and (self.average == "binary" or self.pos_label is not None):
            what = "pos_label" if self.pos_label is not None else "average='binary'"
            raise UsageError(f"{what} is for two classes, but there are {count}.", cure="Leave it out.")


class Precision(_ClassMetric):
    """The share of samples predicted to be of a class that are of it."""

    name = "precision"

    def ratio(self, right: Any, predicted: Any, true: Any) -> Any:
        """Right over predicted."""
        return right / np.maximum(predicted, 1)


class Recall(_ClassMetric):
    """The share of samples of a class that are predicted to be of it."""

    name = "recall"

    def ratio(self, right: Any, predicted: Any, true: Any) -> Any:
        """Right over true."""
        return right / np.maximum(true, 1)


class F1Score(_ClassMetric):
    """The harmonic mean of precision and recall: twice the right ones over all predicted and all true ones."""

    name = "f1_score"

    def ratio(self, right: Any, predicted: Any, true: Any) -> Any:
        """``2 * right / (predicted + true)``."""
        return 2 * right / np.maximum(predicted + true, 1)


class ConfusionMatrix(LabelMetric):
    """How many samples of each class (row) are predicted to be of which (column). State: the matrix, row by row."""

    def state(self, outputs: Any, targets: Any) -> Array:
        """Count the pairs."""
        predicted, true, count = self.classes(outputs, targets)
        return np.bincount(true * count + predicted, minlength=count * count).astype(np.float64)

    def value(self, state: Array) -> dict[str, Any]:
        """``confusion_matrix``: a list of rows of whole numbers."""
        count = math.isqrt(state.size)
        return {"confusion_matrix": state.reshape(count, count).astype(np.int64).tolist()}

    def check(self, state: Array) -> None:
        """Refuse what is no square of counts."""
        require_counts(state)
        count = math.isqrt(state.size)
        if count < 2 or count * count != state.size or self.n_classes not in (None, count):
            raise UpdateRejectedError("it counts another number of classes")
