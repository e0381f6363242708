"""Exact results on fractions, to measure an aggregator against, and distances in units in the last place.

A float is a fraction, so sums, means and medians of floats can be computed without any error; what a correct program
may be off by is then a matter of its last rounding and of the sums it keeps::

    exact = exact_mean([each.params["w"] for each in updates], [each.sample_count for each in updates])
    assert ulps(result["w"], exact) <= 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from fedplug.core.params import Array

Exact = Array
"""An array of `fractions.Fraction` (dtype object)."""


def exact(array: Any) -> Exact:
    """The values of an array as fractions.

    Raises:
        ValueError: A value is NaN or infinite, and so no fraction.
    """
    dense = np.asarray(array)
    found = np.empty(dense.shape, object)
    for at, value in np.ndenumerate(dense):
        found[at] = value if isinstance(value, Fraction) else Fraction(value.item())
    return found


def exact_mean(arrays: Sequence[Any], weights: Sequence[float] | None = None) -> Exact:
    """The weighted mean of arrays of one shape.

    Args:
        arrays: At least one.
        weights: One for each, not all zero; equal ones by default.
    """
    shares = [Fraction(weight) for weight in ([1] * len(arrays) if weights is None else weights)]
    total = sum(shares)
    terms = [exact(array) * share for array, share in zip(arrays, shares, strict=True)]
    return _as_array(sum(terms[1:], terms[0]) / total, arrays)


def exact_median(arrays: Sequence[Any]) -> Exact:
    """The median, value by value; of an even number, the mean of the two in the middle."""
    return exact_trimmed_mean(arrays, (len(arrays) - 1) // 2)


def exact_trimmed_mean(arrays: Sequence[Any], cut: int) -> Exact:
    """The mean, value by value, of what is left without the ``cut`` smallest and the ``cut`` largest.

    Args:
        arrays: More than ``2 * cut``, of one shape.
        cut: How many are left out at each end.
    """
    if not 0 <= 2 * cut < len(arrays):
        raise ValueError(f"{cut} values at each end cannot be cut from {len(arrays)}.")
    stack = np.sort(np.stack([exact(array) for array in arrays]), axis=0)
    return exact_mean(list(stack[cut : len(arrays) - cut]))


def ulp(value: Any, dtype: Any) -> Fraction:
    """The distance between neighbours of a floating-point type near ``value``; of a type of whole numbers, 1."""
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return Fraction(1)
    facts = np.finfo(kind)
    size = abs(Fraction(value))
    smallest = Fraction(2) ** int(facts.minexp)
    if size < smallest:
        return smallest * Fraction(2) ** -int(facts.nmant)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    return Fraction(2) ** (exponent - int(facts.nmant))


def ulps(got: Any, wanted: Exact) -> float:
    """The largest distance between a result and what it should be exactly, in units in the last place of the latter.

    Infinite where a value is NaN or infinite. A result that is rounded correctly is off by at most one half.
    """
    dense = np.asarray(got)
    if dense.shape != np.shape(wanted):
        raise ValueError(f"The result has shape {dense.shape}, the exact one {np.shape(wanted)}.")
    if not np.isfinite(np.asarray(dense, np.float64)).all():
        return math.inf
    off = (abs(a - b) / ulp(b, dense.dtype) for a, b in zip(exact(dense).flat, np.ravel(wanted), strict=True))
    return float(max(off, default=Fraction(0)))


def mean_bound(arrays: Sequence[Any], dtype: Any, weights: Sequence[float] | None = None) -> float:
    """How far, in units in the last place, `fedplug.WeightedMean` may be from the exact mean of ``arrays``.

    Its sums are kept in float64. For float64 results it is ``n * eps * max|x|``, which may be many units of a mean that
    is near zero; for narrower ones that is one unit, and the rounding of the sums.
    """
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return 1.0
    largest = max((abs(value) for array in arrays for value in exact(array).flat), default=Fraction(0))
    sums = len(arrays) * Fraction(float(np.finfo(np.float64).eps)) * largest
    smallest = min((ulp(value, kind) for value in exact_mean(arrays, weights).flat), default=Fraction(1))
    try:
        bound = float(sums / smallest)
    except OverflowError:  # a sum of large numbers that comes to next to nothing
        return math.inf
    return bound + (1 if kind.itemsize < 8 else 0)


def _as_array(value: Any, like: Sequence[Any]) -> Exact:
    """An array of the shape that is wanted: NumPy makes scalars of what has no axes."""
    found = np.empty(np.shape(like[0]), object)
    found[...] = value
    return found
