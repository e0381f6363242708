"""The names of the metrics that FedPlug ships."""

from __future__ import annotations

from enum import StrEnum


class MetricTypes(StrEnum):
    """The shipped metrics, for ``training_args["test_metric"]``; each is also known by its plain name.

    Example:
        >>> MetricTypes.F1_SCORE == "f1_score"
        True
    """

    ACCURACY = "accuracy"
    F1_SCORE = "f1_score"
    PRECISION = "precision"
    RECALL = "recall"
    AUC = "auc"
    CONFUSION_MATRIX = "confusion_matrix"
    MEAN_SQUARED_ERROR = "mean_squared_error"
    MEAN_SQUARE_ERROR = "mean_squared_error"
    MEAN_ABSOLUTE_ERROR = "mean_absolute_error"
    R2_SCORE = "r2_score"
    EXPLAINED_VARIANCE = "explained_variance"


ALIASES = {"mean_square_error": "mean_squared_error"}
"""Other spellings that people know."""
