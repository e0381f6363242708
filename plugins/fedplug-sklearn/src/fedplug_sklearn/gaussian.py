"""Gaussian naive Bayes from sums over the rows, which nodes can make apart and a weighted mean puts together."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array

# Rows are taken in pieces of about this many numbers: a copy of a large data set would need its memory twice.
PIECE = 1 << 18


class Statistics:
    """The sufficient statistics of Gaussian naive Bayes, collected over batches.

    With rows x_i of class c_i and weight a_i, n = sum_i a_i, and a location m that all nodes share:

        share_c  = 1/n sum_{i: c_i = c} a_i
        first_c  = 1/n sum_{i: c_i = c} a_i (x_i - m)
        second_c = 1/n sum_{i: c_i = c} a_i (x_i - m)^2

    All three are means over rows. So their mean over nodes, weighted by each node's n, is exactly what all rows
    in one place would give. `write` makes a model of them.

    The variance of a class is second/share - (first/share)^2. Its absolute error is a few units in the last place of
    the squared distance between the mean of the class and m: with m = 0, data around 1e6 with variance 1 keep four
    digits. A location near the mean of the data keeps nearly all, and one near the mean of each class keeps all, even
    of a feature that is constant within the class (T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing
    the sample variance", The American Statistician 37 (1983), "shifted data").

    Args:
        n_classes: The number K of classes, which are 0, 1, ..., K - 1.
        location: The location m, of shape (d,), or one per class, of shape (K, d); the same at all nodes.
    """

    def __init__(self, n_classes: int, location: Array) -> None:
        self._location = np.array(location, dtype=np.float64)
        self._share = np.zeros(n_classes)
        self._first = np.zeros((n_classes, self._location.shape[-1]))
        self._second = np.zeros_like(self._first)

    @property
    def total(self) -> float:
        """The sum n of the rows' weights so far: the number of rows, if they have none. The weight of a node."""
        return float(self._share.sum())

    def add(self, data: Any, target: Any, sample_weight: Any = None) -> None:
        """Take in one batch.

        Args:
            data: Rows of shape (n, d), dense or sparse (SciPy), of any type of number.
            target: The class of each row, 0 to K - 1, of shape (n,).
            sample_weight: The weight a_i of each row, at least 0, of shape (n,); None for ones.

        Raises:
            DatasetError: A class is not among the K.
        """
        classes = np.asarray(target).reshape(-1).astype(np.intp)
        n_classes = self._share.size
        if classes.size and not 0 <= classes.min() <= classes.max() < n_classes:
            raise DatasetError(
                f"The data have classes {classes.min()} to {classes.max()}, the model has 0 to {n_classes - 1}.",
                cure="Number the classes from 0, and make the model for all of them.",
            )
        weights = np.ones(classes.size) if sample_weight is None else np.asarray(sample_weight, np.float64).reshape(-1)
        # Sparse data become dense piece by piece: all of their zeros lie at -m, and the model is dense anyway.
        rows: Any = data.tocsr() if hasattr(data, "tocsr") else np.asarray(data)
        step = max(1, PIECE // max(self._first.shape))
        for start in range(0, classes.size, step):
            part = slice(start, start + step)
            piece = rows[part].toarray() if hasattr(rows, "toarray") else rows[part]
            shifted = piece - (self._location if self._location.ndim == 1 else self._location[classes[part]])
            # Column i has the weight of row i, in the line of its class: the sums over classes are matrix products.
            selection = np.zeros((n_classes, shifted.shape[0]))
            selection[classes[part], np.arange(shifted.shape[0])] = weights[part]
            self._share += selection.sum(axis=1)
            self._first += selection @ shifted
            self._second += selection @ np.square(shifted)

    def arrays(self) -> dict[str, Array]:
        """The statistics by name: ``share`` (K,), ``first`` (K, d), ``second`` (K, d), ``location`` as it was given.

        Raises:
            DatasetError: No row has any weight.
        """
        total = self.total
        if not total > 0.0:
            raise DatasetError("There are no rows to take means over, or all of them have weight 0.")
        return {
            "share": self._share / total,
            "first": self._first / total,
            "second": self._second / total,
            "location": self._location.copy(),
        }


def write(estimator: Any, arrays: dict[str, Array], total: float = 1.0) -> None:
    """Make ``estimator`` the Gaussian naive Bayes model of the rows that these statistics describe.

    It is then as ``GaussianNB.fit`` would have left it, up to rounding, with these differences. If rows had weights,
    ``epsilon_`` comes from the weighted variance of the features, as everything else does (scikit-learn's does not).
    A class without rows has infinite variances and the smallest normal number as its prior: so it gets probability 0
    and is never predicted, no NaN and no warning arises, and rows of it that ``partial_fit`` sees later count in full.

    Args:
        estimator: A ``sklearn.naive_bayes.GaussianNB``. Its ``priors``, if any, replace the classes' shares.
        arrays: What `Statistics.arrays` gave, or a weighted mean of such.
        total: The number of rows (or sum of their weights) behind ``arrays``: what ``class_count_`` adds up to, and
            what a later ``partial_fit`` weighs new rows against. It changes no prediction.

    Raises:
        UsageError: No class has any rows, or ``priors`` are none for these classes.
    """
    share = np.maximum(arrays["share"], 0.0)
    n_classes, n_features = arrays["first"].shape
    present = share > 0.0
    if not present.any():
        raise UsageError(
            "These statistics are of no rows, so there is no model of them yet.", cure="Run a round first."
        )
    # Classes without rows are divided by 1 here, have no part in the sums, and are replaced below.
    divisor = np.where(present, share, 1.0)[:, np.newaxis]
    centre = arrays["first"] / divisor
    mean = arrays["location"] + centre
    variance = np.maximum(arrays["second"] / divisor - np.square(centre), 0.0)
    share = share / share.sum()  # only now: rounding must not part the shares from the sums above
    pooled_mean = share @ mean
    # The variance within the classes, and that of their means: a sum, which loses no digits.
    pooled_variance = share @ (variance + np.square(mean - pooled_mean))
    epsilon = float(estimator.var_smoothing * pooled_variance.max())
    prior = share.copy() if estimator.priors is None else _own_priors(estimator.priors, n_classes)
    # Log of 0 warns. With variances of infinity, the density is 0 whatever the prior.
    prior[~present] = np.maximum(prior[~present], np.finfo(np.float64).tiny)

    estimator.classes_ = np.arange(n_classes)
    estimator.n_features_in_ = n_features
    vars(estimator).pop("feature_names_in_", None)  # of an earlier fit: scikit-learn would ask for them
    estimator.epsilon_ = epsilon
    estimator.theta_ = np.where(present[:, np.newaxis], mean, pooled_mean)
    estimator.var_ = np.where(present[:, np.newaxis], variance + epsilon, np.inf)
    estimator.class_count_ = share * total
    estimator.class_prior_ = prior


def _own_priors(priors: Any, n_classes: int) -> Array:
    """The user's priors as a new array, by scikit-learn's rules: one per class, not negative, with sum 1."""
    own = np.array(priors, dtype=np.float64)
    if own.shape != (n_classes,) or (own < 0.0).any() or not np.isclose(own.sum(), 1.0):
        raise UsageError(
            f"priors={priors!r} are no probabilities of {n_classes} classes.",
            cure=f"Give {n_classes} numbers that are not negative and add up to 1, or leave priors out.",
        )
    return own
