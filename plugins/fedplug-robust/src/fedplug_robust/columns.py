"""Reductions over updates, value by value, in blocks: the mean of the middle, and the weighted median.

Nothing here holds more than one block of each update, whatever their number. NumPy's warnings about overflow are off
where a sum may overflow; those sums are looked for, and made again in a way that cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.params import Array, Params, ParamsSpec
from fedplug_robust.networks import Program, program

NETWORK_ROWS = 64
"""Up to so many updates a selection network is faster than selecting in each column by itself (measured)."""

NETWORK_BLOCK = 16_384
"""Columns that go through a network at a time: long enough that NumPy's overhead per call does not count."""

SELECT_VALUES = 65_536
"""Values in a block whose columns are selected one by one."""


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds floating-point numbers; bfloat16 is none of NumPy's own kinds."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def inner_mean(spec: ParamsSpec, many: Sequence[Params], cut: int) -> Params:
    """For each value, the mean of those that are neither among the ``cut`` smallest nor the ``cut`` largest.

    It is computed in float64, lies between the smallest and the largest of the values it is made of (exactly, whatever
    they are), and is rounded to the dtype of its array: to the nearest, halves to even, for whole numbers and truth
    values.

    Args:
        spec: The layout of ``many``.
        many: At least ``2 * cut + 1``. The result depends on their order as far as float64 sums do.
        cut: How many to leave out at each end.
    """
    runs = [params.runs() for params in many]
    return Params.build_runs(spec, lambda index, out: inner_mean_of([each[index] for each in runs], cut, out))


def weighted_median(rows: Sequence[Array], weights: Array, out: Array) -> None:
    """For each column the weighted median: halfway between the lower and the upper one, rounded half to even.

    At least half of the weight lies on values no larger than the lower one, and more than half on values no larger than
    the upper one. For whole numbers and truth values.

    Args:
        rows: Vectors of one dtype.
        weights: Their weights, positive.
        out: Where the result goes.
    """
    total = weights.sum()
    rows, out = _plain(rows, out)
    block = max(256, SELECT_VALUES // len(rows))
    for low in range(0, out.size, block):
        stack = np.stack([row[low : low + block] for row in rows])
        order = np.argsort(stack, axis=0, kind="stable")
        values, reached = np.take_along_axis(stack, order, 0), 2 * np.cumsum(weights[order], axis=0)
        ends = [np.argmax(reached >= total, axis=0), np.argmax(reached > total, axis=0)]
        middle = [np.take_along_axis(values, end[np.newaxis], 0)[0] for end in ends]
        _finish(middle, out[low : low + block], np.empty(middle[0].size), np.empty(middle[0].size))


def moved_inside(values: Array, rows: Sequence[Array], cut: int, out: Array) -> None:
    """Each of ``values``, or the nearest that is neither among the ``cut`` smallest nor the ``cut`` largest.

    While no more than ``cut`` rows are hostile, what comes out lies between the smallest and the largest of the others.

    Args:
        values: A vector.
        rows: Vectors of its dtype, more than ``2 * cut``.
        cut: How many at each end do not count.
        out: Where the result goes; it may be ``values``.
    """
    block = max(256, SELECT_VALUES // len(rows))
    for low in range(0, out.size, block):
        stack = np.sort(np.stack([row[low : low + block] for row in rows]), axis=0)
        inside = np.minimum(np.maximum(values[low : low + block], stack[cut]), stack[len(rows) - 1 - cut])
        out[low : low + block] = inside


def to_whole(values: Array, dtype: np.dtype[Any]) -> Array:
    """float64 as whole numbers of ``dtype`` (or truth values): to the nearest, halves to even, no wrap-around."""
    rounded = np.rint(values)
    if dtype.kind == "b":
        return np.not_equal(rounded, 0)
    info = np.iinfo(dtype)
    low, high = float(info.min), float(info.max)
    if int(high) > info.max:  # of 64 bits: the float is one too large
        high = float(np.nextafter(high, 0))
    whole: Array = np.asarray(np.clip(rounded, low, high)).astype(dtype)
    return whole


def _plain(rows: Sequence[Array], out: Array) -> tuple[list[Array], Array]:
    """Truth values as the small numbers that they are made of; everything else as it is."""
    if out.dtype.kind != "b":
        return list(rows), out
    return [row.view(np.uint8) for row in rows], out.view(np.uint8)


def inner_mean_of(rows: Sequence[Array], cut: int, out: Array) -> None:
    """`inner_mean` for one stretch of one dtype, into ``out``."""
    rows, out = _plain(rows, out)
    narrow = is_float(out.dtype) and out.dtype.itemsize < 4
    work = np.dtype(np.float32) if narrow else out.dtype  # comparing halves is slow
    small = len(rows) <= NETWORK_ROWS
    block = NETWORK_BLOCK if small else max(64, SELECT_VALUES // len(rows))
    block = max(1, min(block, out.size))  # there may be no value at all
    plan = program(len(rows), cut) if small else None
    scratch = [np.empty(block, work) for _ in range(plan.scratch if plan else 0)]
    total, term = np.empty(block), np.empty(block)
    for low in range(0, out.size, block):
        part = out[low : low + block]
        values = [row[low : low + block] for row in rows]
        if narrow:
            values = [value.astype(work) for value in values]
        inner = _select(values, plan, scratch) if plan else _partition(values, cut)
        _finish(inner, part, total[: part.size], term[: part.size])


def _select(values: list[Array], plan: Program, scratch: list[Array]) -> list[Array]:
    """The middle of each column, by the network."""
    size, smaller, larger = values[0].size, np.minimum, np.maximum
    registers = values + [register[:size] for register in scratch]
    for operation, a, b, out in plan.steps:
        (smaller if operation == "min" else larger)(registers[a], registers[b], out=registers[out])
    return [registers[place] for place in plan.inner]


def _partition(values: list[Array], cut: int) -> list[Array]:
    """The middle of each column, column by column."""
    count = len(values)
    stack = np.empty((values[0].size, count), values[0].dtype)
    for place, value in enumerate(values):
        stack[:, place] = value
    if cut:
        stack.partition([cut, count - 1 - cut], axis=1)
    return list(np.ascontiguousarray(stack[:, cut : count - cut].T))


def _finish(inner: list[Array], out: Array, total: Array, term: Array) -> None:
    """The mean of ``inner`` into ``out``; ``total`` and ``term`` are float64 to work in."""
    if len(inner) == 1:
        out[...] = inner[0]
        return
    np.copyto(total, inner[0])
    with np.errstate(over="ignore"):
        for row in inner[1:]:
            np.copyto(term, row)
            np.add(total, term, out=total)
    np.divide(total, len(inner), out=total)
    if is_float(out.dtype) and out.dtype.itemsize < 8:
        # float64 has digits to spare: rounding to fewer cannot leave the range of the values
        out[...] = total
        return
    lowest, highest = inner[0], inner[0]
    for row in inner[1:]:
        lowest, highest = np.minimum(lowest, row), np.maximum(highest, row)
    if is_float(out.dtype):
        broken = ~np.isfinite(total)
        if broken.any():
            with np.errstate(over="ignore"):  # by rounding, in the last digit
                total[broken] = sum(row[broken] / len(inner) for row in inner)
        mean = total
    else:
        mean = to_whole(total, out.dtype)
    np.clip(mean, lowest, highest, out=out)
