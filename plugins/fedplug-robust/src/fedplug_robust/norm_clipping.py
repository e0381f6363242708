"""The weighted mean of updates that are shortened to a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from fedplug.core.aggregator import AggregatorTags, StreamingAggregator, Weighting, update_weight
from fedplug.core.context import RoundContext
from fedplug.core.errors import NoUpdatesError
from fedplug.core.params import Array, Params, ParamsSpec, allocate
from fedplug.core.params_spec import dtype_named
from fedplug.core.update import Update
from fedplug_robust.arguments import positive_number
from fedplug_robust.columns import is_float, to_whole
from fedplug_robust.distances import UNIT, Power, length

_BLOCK = 262_144
_LARGEST_POWER = 1000


@dataclass
class Sums:
    """The running sums of one round.

    Attributes:
        start: The global parameters.
        totals: For each run ``sum_k n_k d_k`` of the shortened differences.
        weight: ``sum_k n_k``.
    """

    start: Params
    totals: list[Array]
    weight: float = 0.0


class NormClipping(StreamingAggregator[Sums]):
    """The weighted mean of the nodes' updates, each shortened to Euclidean norm ``M`` where it is longer.

    Sun, Kairouz, Suresh, McMahan: "Can You Really Backdoor Federated Learning?", arXiv:1911.07963, 2019, section 5
    (norm thresholding of updates): ``w_{t+1} = w_t + sum_k n_k / n * d_k / max(1, |d_k| / M)`` with
    ``d_k = w^k_{t+1} - w_t``. Nobody is left out, and nobody moves the model further than ``M`` times its weight.

    The norm is over all floating-point arrays together. Counters are shortened by themselves, to the same limit: they
    would drown the parameters, and left alone a hostile node could set them to anything. The mean of whole numbers and
    truth values is rounded to the nearest, halves to even. Sums are held in float64 and folded in the order given.
    Where nothing is longer than the limit, the result is FedAverage's, but for rounding.

    Memory: two models for the sums of float32 parameters, and the result.

    Args:
        limit: ``M``, in the units of the parameters, > 0. The median of the norms that honest nodes' updates have is a
            good one; the mean slows down where it is much smaller.
        weighting: What ``n_k`` is: ``"samples"``, ``"steps"`` or ``"uniform"``. The former two are what nodes say of
            themselves, so one hostile node can have all of the weight, but no more than ``M``.

    Raises:
        UsageError: The limit is no number above zero, or the weighting is not known.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(5.0), cls(0.1, weighting="uniform")]

    def __init__(self, limit: float, weighting: Weighting = "samples") -> None:
        update_weight(Update("", Params.from_arrays({}), 0), weighting)  # refuses an unknown weighting right away
        self.limit = positive_number("NormClipping", "limit", limit, "1.0")
        self.weighting: Weighting = weighting
        self.tags = AggregatorTags(
            weighted=weighting != "uniform", convex=False, scale_equivariant=False, streaming=True, breakdown="ball"
        )

    def begin(self, start: Params, ctx: RoundContext) -> Sums:
        """Sums of nothing."""
        totals = [allocate(8 * count).view(np.float64) for _, _, count in start.spec.runs]
        for total in totals:
            total.fill(0)
        return Sums(start, totals)

    def accumulate(self, state: Sums, update: Update) -> None:
        """Fold one node's update in, shortened, with its weight.

        Raises:
            ParamsError: It is laid out otherwise than the global parameters.
        """
        update.params.require(state.start.spec)
        weight = float(update_weight(update, self.weighting))
        if weight == 0:
            return
        state.weight += weight
        start, trained = state.start.runs(), update.params.runs()
        for which in _parts(state.start.spec):
            step = _Step.of(length(state.start, update.params, which), self.limit, weight)
            for index in which:
                step.add(start[index], trained[index], state.totals[index])

    def finalize(self, state: Sums) -> Params:
        """The mean.

        Raises:
            NoUpdatesError: There was no update, or all weights are zero.
        """
        if not state.weight:
            raise NoUpdatesError(
                "NormClipping has nothing to aggregate: no update, or all weights are zero.",
                cure="Check that at least one node replied with a sample count above zero.",
            )
        runs = state.start.runs()

        def fill(index: int, out: Array) -> None:
            for low in range(0, out.size, _BLOCK):
                moved = state.totals[index][low : low + _BLOCK] / state.weight
                moved += runs[index][low : low + _BLOCK]
                out[low : low + _BLOCK] = moved if is_float(out.dtype) else to_whole(moved, out.dtype)

        return Params.build_runs(state.start.spec, fill)

    def largest_share(self, updates: Sequence[Update]) -> float | None:
        """``max_k n_k / n``: shortening to a ball brings no two updates further apart."""
        weights = [update_weight(update, self.weighting) for update in updates]
        return max(weights) / sum(weights) if any(weights) else None

    def withstands(self, count: int) -> int:
        """All but one, as far as `radius` goes: it is large if many are hostile."""
        return max(0, count - 1)

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the result may be from the mean ``m`` of the honest updates, but for rounding whole numbers.

        As whole numbers have a limit of their own, every shortened update is within ``L = sqrt(2) M`` of the start
        ``s``; so is a weighted mean of them, and ``|s - m| <= D``: ``L + D``, whoever has which weight.

        With uniform weights, ``q`` of ``n`` hostile and ``h = n - q``, the honest updates ``x_k`` become ``y_k`` with
        ``|y_k - x_k| <= max(0, D - M)``, and the result differs from ``m`` by ``1 / n`` times
        ``sum_{honest} (y_k - x_k) + sum_{honest} (x_k - m) + sum_{hostile} (y_k - m)``, where the second sum is zero:
        ``h / n * max(0, D - M) + q / n * (L + D)``.
        """
        furthest = math.sqrt(2) * self.limit + diameter
        if self.weighting != "uniform":
            return furthest
        return ((count - hostile) * max(0.0, diameter - self.limit) + hostile * furthest) / count


@dataclass(frozen=True)
class _Step:
    """What a difference is multiplied by: first ``before`` the difference is taken, then ``after``."""

    before: float
    after: float

    @classmethod
    def of(cls, square: Power, limit: float, weight: float) -> _Step:
        """For a difference of a squared length, which is to have a weight, and a limit on its length."""
        power = min(max(square.exponent, 0), _LARGEST_POWER)  # above 0 only where squares are beyond float64
        norm, most = square.root(UNIT), float(np.ldexp(limit, -UNIT))
        after = np.ldexp(weight, power) if norm <= most else weight * (most / np.ldexp(norm, -power))
        return cls(float(np.ldexp(1.0, -power)), float(after))

    def add(self, start: Array, trained: Array, total: Array) -> None:
        """Add the difference to ``total``."""
        first, second = np.empty(_BLOCK), np.empty(_BLOCK)
        for low in range(0, total.size, _BLOCK):
            sums = total[low : low + _BLOCK]
            part, base = first[: sums.size], second[: sums.size]
            np.copyto(part, trained[low : low + _BLOCK])
            np.copyto(base, start[low : low + _BLOCK])
            if self.before != 1:
                part *= self.before
                base *= self.before
            part -= base
            if self.after != 1:
                part *= self.after
            sums += part


def _parts(spec: ParamsSpec) -> list[list[int]]:
    """The runs of floating-point numbers, and the others."""
    kinds = [is_float(dtype_named(run[0])) for run in spec.runs]
    return [[index for index, kind in enumerate(kinds) if kind is wanted] for wanted in (True, False)]
