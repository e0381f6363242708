"""Distances between updates, without overflow and without holding more than a block of each.

All pairs at once are a matrix product: with ``u_i = w_i - w``, ``w`` being the global parameters, the matrix
``G_ij = <u_i, u_j>`` gives ``|w_i - w_j|^2 = G_ii + G_jj - 2 G_ij``. Where that difference cancels (two updates are far
closer to each other than to ``w``) or overflows (somebody sent 1e300), the pair is measured by itself. So each square
is right to about eight digits at least, and usually to fourteen. Differences below 1e-150 count as none.

Distances are over the floating-point arrays together. Counters and truth values have no part in them, as they would
drown the parameters: where nodes make different numbers of steps, BatchNorm's counters are hundreds apart. Only a model
that has nothing else is measured by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedplug.core.errors import ParamsError
from fedplug.core.params import Array, Params, ParamsSpec
from fedplug.core.params_spec import dtype_named
from fedplug_robust.columns import is_float

UNIT = 64
"""`Distances.lengths` are in units of ``2**UNIT``: no distance between finite parameters is too large to be written."""

_BLOCK_VALUES = 131_072  # float64 values of all updates together that are multiplied at a time: they fit a cache
_PAIR_BLOCK = 131_072
_DOT_BLOCK = 8192  # BLAS multiplies longer vectors in several threads, which costs more than it saves
_CANCELLED = 1e-6  # share of G_ii + G_jj below which the difference has lost too many digits
_QUARTER = float(np.finfo(np.float64).max) / 4
_LARGEST_POWER = 1000  # powers of two beyond this are too near the end of float64 to be divided by


@dataclass(frozen=True)
class Distances:
    """The distances of all pairs.

    Attributes:
        squares: Squared distances; infinite where they are beyond float64.
        lengths: Distances in units of ``2**UNIT``, all of them finite.
        products: ``G`` as above, if none of its pairs had to be measured by itself.
    """

    squares: Array
    lengths: Array
    products: Array | None


@dataclass(frozen=True)
class Power:
    """The number ``mantissa * 4**exponent``, which is not negative and may be beyond float64."""

    mantissa: float
    exponent: int

    def __add__(self, other: Power) -> Power:
        if self.mantissa == 0 or other.mantissa == 0:
            return other if self.mantissa == 0 else self
        exponent = max(self.exponent, other.exponent)
        both = (np.ldexp(each.mantissa, 2 * (each.exponent - exponent)) for each in (self, other))
        return Power(float(sum(both)), exponent)

    def root(self, unit: int = 0) -> float:
        """The square root in units of ``2**unit``; infinite if it is beyond float64."""
        with np.errstate(over="ignore"):
            return float(np.ldexp(np.sqrt(self.mantissa), self.exponent - unit))

    def value(self) -> float:
        """The number itself; infinite if it is beyond float64."""
        with np.errstate(over="ignore"):
            return float(np.ldexp(self.mantissa, 2 * self.exponent))


def measured(spec: ParamsSpec) -> list[int]:
    """The runs that distances are over: those of floating-point numbers, or all if there are none."""
    floats = [index for index, run in enumerate(spec.runs) if is_float(dtype_named(run[0]))]
    return floats or list(range(len(spec.runs)))


def length(a: Params, b: Params, which: Sequence[int]) -> Power:
    """The squared distance of two, measured by itself: exact but for rounding, whatever the values.

    Args:
        a: One.
        b: The other, laid out alike.
        which: The runs that count.
    """
    plain, extreme = 0.0, Power(0.0, 0)
    first, second = a.runs(), b.runs()
    left, right = np.empty(_PAIR_BLOCK), np.empty(_PAIR_BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        for index in which:
            for low in range(0, first[index].size, _PAIR_BLOCK):
                x, y = (run[index][low : low + _PAIR_BLOCK] for run in (first, second))
                wide, other = left[: x.size], right[: x.size]
                np.copyto(wide, x)
                np.copyto(other, y)
                np.subtract(wide, other, out=other)
                for at in range(0, x.size, _DOT_BLOCK):
                    part = other[at : at + _DOT_BLOCK]
                    square = float(np.dot(part, part))
                    if 1e-280 < square < 1e290:
                        plain += square
                    elif part.any():
                        extreme += _extreme(wide[at : at + _DOT_BLOCK], y[at : at + _DOT_BLOCK].astype(np.float64))
    return Power(plain, 0) + extreme


def _extreme(x: Array, y: Array) -> Power:
    """The squared distance of two vectors whose difference has a square beyond float64, or nearly zero."""
    _, exponent = np.frexp(max(float(np.abs(x).max()), float(np.abs(y).max())))
    if exponent > _LARGEST_POWER:
        difference = x / 4 - y / 4  # of which 4 is taken account of below
        shift = 2
    else:
        difference, shift = x - y, 0
    _, exponent = np.frexp(np.abs(difference).max())
    scaled = np.ldexp(difference, -exponent)
    return Power(float(np.dot(scaled, scaled)), int(exponent) + shift)


def pairwise(start: Params, many: Sequence[Params]) -> Distances:
    """The distances between each two of ``many``.

    Args:
        start: The global parameters: a point that is usually near.
        many: All laid out as ``start``.

    Raises:
        ParamsError: One of them is not finite.
    """
    which = measured(start.spec)
    count = len(many)
    products = np.zeros((count, count))
    runs, center = [params.runs() for params in many], start.runs()
    block = max(1024, _BLOCK_VALUES // count)
    buffer = np.empty((count, block))
    with np.errstate(over="ignore", invalid="ignore"):
        for index in which:
            for low in range(0, center[index].size, block):
                part = buffer[:, : min(block, center[index].size - low)]
                for row, values in zip(part, runs, strict=True):
                    np.copyto(row, values[index][low : low + block])
                part -= center[index][low : low + block].astype(np.float64)
                products += part @ part.T
        norms = np.diagonal(products)
        both = norms[:, np.newaxis] + norms
        squares = both - 2 * products
        doubtful = ~(squares >= _CANCELLED * both) | ~np.isfinite(squares)
    np.fill_diagonal(doubtful, val=False)
    np.fill_diagonal(squares, 0.0)
    whole = not doubtful.any()
    lengths = np.ldexp(np.sqrt(np.where(doubtful, 0.0, squares)), -UNIT)
    for i, j in zip(*np.nonzero(np.triu(doubtful)), strict=True):
        found = length(many[i], many[j], which)
        squares[i, j] = squares[j, i] = found.value()
        lengths[i, j] = lengths[j, i] = found.root(UNIT)
    if not np.isfinite(lengths).all():
        raise ParamsError("An update holds values that are not finite (NaN or infinity), so distances cannot be told.")
    return Distances(squares, lengths, products if whole else None)


@dataclass(frozen=True)
class Place:
    """Where a weighted mean of updates lies, in units of ``2**UNIT``.

    Attributes:
        shares: The share of each update, adding up to 1.
        lengths: Its distances to the updates.
        further: By how much they are larger than those of the frame's origin; with all their digits, however far away
            an update is.
    """

    shares: Array
    lengths: Array
    further: Array


@dataclass(frozen=True)
class Frame:
    """Coordinates in which weighted means of updates are measured, without the models.

    The origin is one of the updates. With ``r_i = (w_i - w_c) / 2**e_i``, where ``2**e_i`` is about as large as the
    difference, no entry of ``P_ij = <r_i, r_j>`` is much larger than 1, whatever the updates hold; and a weighted mean
    ``v`` with shares ``s`` has ``|v - w_k|^2 = z P z`` for ``z_i = (s_i - [i = k]) 2**e_i``. All lengths are in units
    of ``2**UNIT``.

    Attributes:
        center: ``c``.
        many: The updates.
        between: The distances between the updates.
        exponents: ``e``.
        products: ``P``.
    """

    center: int
    many: Sequence[Params]
    between: Array
    exponents: Array
    products: Array

    @classmethod
    def at(cls, center: int, start: Params, many: Sequence[Params], distances: Distances) -> Frame:
        """The frame with its origin at one of the updates.

        Args:
            center: Which one.
            start: The global parameters.
            many: The updates.
            distances: Their distances.
        """
        _, exponents = np.frexp(distances.lengths[center])
        exponents = np.where(distances.lengths[center] > 0, exponents + UNIT, 0)
        exponents = np.clip(exponents, -_LARGEST_POWER, _LARGEST_POWER)
        frame = cls(center, many, distances.lengths, exponents, np.zeros((len(many), len(many))))
        if distances.products is not None:
            about = distances.products
            across = about[center]
            moved = about - across - across[:, np.newaxis] + about[center, center]
            frame.products[...] = np.ldexp(moved, -(exponents + exponents[:, np.newaxis]))
        else:
            for index in measured(start.spec):
                for _, rows, _ in frame._blocks(index):
                    frame.products[...] += rows @ rows.T
        return frame

    def place(self, shares: Array) -> Place:
        """Where a weighted mean lies."""
        steps = np.ldexp(shares, self.exponents)
        largest = max(float(np.abs(steps).max()), 1e-300)
        across = np.ldexp(largest, -UNIT) * (self.products @ (steps / largest))
        lengths = self._measured(shares - np.eye(len(shares)))
        return Place(shares, lengths, self._further(self.length(shares), across, lengths))

    def update(self, index: int) -> Place:
        """Where one of the updates lies."""
        lengths = self.between[index]
        across = np.ldexp(self.products[index], self.exponents[index] - UNIT)
        return Place(np.eye(len(lengths))[index], lengths, self._further(float(lengths[self.center]), across, lengths))

    def length(self, shares: Array) -> float:
        """The length of ``sum_i s_i (w_i - w_c)``: how far a mean is from the origin, or two means from each other."""
        return float(self._measured(shares[np.newaxis])[0])

    def combine(self, index: int, shares: Array, out: Array) -> None:
        """The weighted mean of one run into ``out``, in float64 until the end.

        As it is the origin plus something, it is the origin, to the bit, where all updates are the same.
        """
        weights = np.ldexp(shares, self.exponents)
        far = self.exponents.max() >= _LARGEST_POWER
        for low, rows, origin in self._blocks(index):
            mean = origin + weights @ rows if not far else _large_sum(origin, weights, rows)
            out[low : low + origin.size] = mean

    def _further(self, reach: float, across: Array, lengths: Array) -> Array:
        """How much further a point is from each update than the origin is.

        With ``x`` from the origin to the point, ``(|x|^2 - 2 <x, w_k - w_c>) / (|v - w_k| + |w_c - w_k|)``. The plain
        difference of the two distances would say nothing about an update that is 1e20 times as far away as the point.

        Args:
            reach: ``|x|``.
            across: ``<x, r_k>``.
            lengths: ``|v - w_k|``.
        """
        both = lengths + self.between[self.center]
        both = np.where(both > 0, both, 1)  # where point, origin and update are the same
        further: Array = reach * (reach / both) - 2 * across * (np.ldexp(1.0, self.exponents - UNIT) / both)
        return further

    def _measured(self, shares: Array) -> Array:
        """The lengths of combinations, one a row."""
        steps = np.ldexp(shares, self.exponents)
        largest = np.abs(steps).max(axis=1)
        steps /= np.where(largest > 0, largest, 1)[:, np.newaxis]
        squares = np.einsum("ki,ki->k", steps @ self.products, steps)
        lengths: Array = np.ldexp(largest, -UNIT) * np.sqrt(np.maximum(squares, 0))
        return lengths

    def _blocks(self, index: int) -> Iterator[tuple[int, Array, Array]]:
        """One run, block by block: where the block begins, ``r_i`` of each update, and the origin."""
        runs = [params.runs()[index] for params in self.many]
        block = max(1024, _BLOCK_VALUES // len(runs))
        buffer = np.empty((len(runs), block))
        factors = np.ldexp(1.0, -self.exponents)
        far = self.exponents >= _LARGEST_POWER
        for low in range(0, runs[0].size, block):
            origin = runs[self.center][low : low + block].astype(np.float64)
            rows = buffer[:, : origin.size]
            for row, values, factor, beyond in zip(rows, runs, factors, far, strict=True):
                np.copyto(row, values[low : low + block])
                if beyond:  # the difference itself may be beyond float64
                    row *= factor
                    row -= origin * factor
                else:
                    row -= origin
                    row *= factor
            yield low, rows, origin


def _large_sum(origin: Array, weights: Array, rows: Array) -> Array:
    """``origin + weights @ rows``, which is within float64, though sums on the way may be beyond it."""
    quarter = np.clip(origin / 4 + (weights / 4) @ rows, -_QUARTER, _QUARTER)
    return np.asarray(quarter * 4)
