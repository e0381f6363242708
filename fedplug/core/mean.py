"""The weighted mean of many `Params`, one at a time, in memory of two models.

Sums are held in float64 and folded in the order in which `add` is called. For float32 parameters and
integer weights below 2**29 each product ``weight * value`` is exact in float64, so that the only errors are
those of the sum: the result is within one unit in the last place of float32 unless terms cancel to less
than 2**-29 of the largest of them. For float64 it is within ``n * eps * max|x|``. The same order gives the
same bits; the researcher folds in sorted node order, whatever the order of arrival.
"""

from __future__ import annotations

import math

import numpy as np

from fedplug.core.errors import NoUpdatesError, UpdateRejectedError
from fedplug.core.params import Array, Params, ParamsSpec, allocate

FOLD_BLOCK = 262_144
"""Elements that are folded at a time; long enough that the processor fetches ahead, short enough for a cache."""


class WeightedMean:
    """Running weighted mean ``sum(w_i * x_i) / sum(w_i)``, array by array.

    Integer arrays (e.g. BatchNorm's counters) are averaged in float64 and rounded to the nearest integer,
    half to even. A weight of zero leaves every bit as it was.

    Args:
        spec: Layout that all terms share.
    """

    def __init__(self, spec: ParamsSpec) -> None:
        self.spec = spec
        self.total_weight = 0.0
        self.terms = 0
        self._sums: list[Array] | None = None
        self._scratch: Array | None = None

    def add(self, params: Params, weight: float) -> None:
        """Fold one term in.

        Args:
            params: The values; they are read once and not kept.
            weight: Finite and not negative.

        Raises:
            ParamsError: ``params`` is laid out differently.
            UpdateRejectedError: The weight is negative or not finite.
        """
        params.require(self.spec)
        if not math.isfinite(weight) or weight < 0:
            raise UpdateRejectedError(f"A weight must be finite and not negative, got {weight!r}.")
        if weight == 0:
            return
        if self._sums is None:
            # the first term is stored, not added: no pass over zeros
            self._sums = [allocate(8 * count).view(np.float64) for _, _, count in self.spec.runs]
            for total, values in zip(self._sums, params.runs(), strict=True):
                for low in range(0, values.size, FOLD_BLOCK):
                    _scale(values[low : low + FOLD_BLOCK], weight, total[low : low + FOLD_BLOCK])
        else:
            scratch = self._room()
            for total, values in zip(self._sums, params.runs(), strict=True):
                for low in range(0, values.size, FOLD_BLOCK):
                    part = values[low : low + FOLD_BLOCK]
                    product = _scale(part, weight, scratch[: part.size])
                    np.add(total[low : low + FOLD_BLOCK], product, out=total[low : low + FOLD_BLOCK])
        self.total_weight += weight
        self.terms += 1

    def result(self) -> Params:
        """The mean of all terms so far.

        Raises:
            NoUpdatesError: The weights sum to zero.
        """
        if self._sums is None:
            raise NoUpdatesError(
                "There is nothing to average: no update, or all weights are zero.",
                cure="Check that at least one node replied with a sample count above zero.",
            )
        sums, scratch = self._sums, self._room()

        def fill(index: int, out: Array) -> None:
            for low in range(0, out.size, FOLD_BLOCK):
                part = sums[index][low : low + FOLD_BLOCK]
                mean = np.divide(part, self.total_weight, out=scratch[: part.size])
                if out.dtype.kind in "biu":
                    np.rint(mean, out=mean)
                out[low : low + FOLD_BLOCK] = mean

        return Params.build_runs(self.spec, fill)

    def _room(self) -> Array:
        """Room for a block, made once."""
        if self._scratch is None:
            longest = max((count for _, _, count in self.spec.runs), default=0)
            self._scratch = np.empty(min(FOLD_BLOCK, longest), np.float64)
        return self._scratch


def _scale(values: Array, weight: float, out: Array) -> Array:
    """``weight * values`` in float64, into ``out``.

    Converting first and multiplying then is a third faster than one ufunc call that does both, because that one
    converts through a small buffer.
    """
    np.copyto(out, values)
    if weight != 1:
        np.multiply(out, weight, out=out)
    return out
