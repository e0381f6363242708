"""The geometric median, by the smoothed Weiszfeld algorithm (RFA)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedplug.core.aggregator import Aggregator, AggregatorTags, Weighting, update_weight
from fedplug.core.context import RoundContext
from fedplug.core.errors import NoUpdatesError
from fedplug.core.params import Array, Params
from fedplug.core.update import Update
from fedplug_robust.arguments import gathered, positive_number, whole_number
from fedplug_robust.columns import is_float, weighted_median
from fedplug_robust.distances import UNIT, Frame, Place, pairwise
from fedplug_robust.order import grouped

_FLAT = 1e-12  # of how far a point is from the origin; differences of heights below it are rounding


class GeometricMedian(Aggregator):
    """The point whose distances to the nodes' parameters have the smallest sum: ``min_v sum_k a_k |v - w_k|``.

    Pillutla, Kakade, Harchaoui: "Robust Aggregation for Federated Learning", IEEE Transactions on Signal Processing 70,
    2022, algorithm 2 (smoothed Weiszfeld): from a point ``v``, ``b_k = a_k / max(nu, |v - w_k|)`` and the next one is
    ``sum_k b_k w_k / sum_k b_k``. It never raises ``g(v) = sum_k a_k |v - w_k|_nu``, in which distances below ``nu``
    are smoothed: ``|z|_nu = |z|^2 / (2 nu) + nu / 2`` there.

    As each ``v`` is a weighted mean of the updates, and its distances follow from those between the updates, the models
    are read once or twice to measure these and once to make the result, whatever the number of iterations. It starts at
    the mean or at the update of the lowest ``g``, whichever is lower. So one iteration is enough for the bound that
    `radius` gives, however far away a hostile update has moved the mean.

    Distances are over the floating-point arrays together. Whole numbers and truth values have no part in them; theirs
    is the (weighted) median of each by itself. All is computed in float64.

    Memory: one model, and blocks of 1 MiB in float64.

    Args:
        smoothing: ``nu``, in the units of the parameters.
        iterations: How many there are at the most; they cost no pass over the models.
        tolerance: It stops once a step is shorter than ``tolerance`` times the harmonic mean of the distances.
        weighting: What ``a_k`` is: ``"uniform"``; or ``"samples"`` as in the paper, or ``"steps"``. The latter two are
            what nodes say of themselves: one that lies about them can have its way, so nothing is promised then.

    Raises:
        UsageError: An argument is out of range, or the weighting is not known.
    """

    def __init__(
        self,
        smoothing: float = 1e-6,
        iterations: int = 100,
        tolerance: float = 1e-10,
        weighting: Weighting = "uniform",
    ) -> None:
        update_weight(Update("", Params.from_arrays({}), 0), weighting)  # refuses an unknown weighting right away
        self.smoothing = positive_number("GeometricMedian", "smoothing", smoothing, "1e-6")
        self.iterations = whole_number("GeometricMedian", "iterations", iterations, 1)
        self.tolerance = positive_number("GeometricMedian", "tolerance", tolerance, "1e-10")
        self.weighting: Weighting = weighting
        uniform = weighting == "uniform"
        self.tags = AggregatorTags(
            weighted=not uniform, scale_equivariant=False, breakdown="ball" if uniform else ""
        )  # the smoothing is not stretched with the updates

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """The geometric median.

        Raises:
            NoUpdatesError: ``updates`` is empty, or all weights are zero.
        """
        found = gathered("GeometricMedian", start, updates, 1, "", "")
        # equal updates are one of their weights together, and to the last bit the same as such a one
        groups = grouped([update for update in found if update_weight(update, self.weighting) > 0])
        if not groups:
            raise NoUpdatesError("GeometricMedian has nothing to aggregate: all weights are zero.")
        many = [group[0].params for group in groups]
        weights = np.array([sum(update_weight(each, self.weighting) for each in group) for group in groups], np.float64)
        distances = pairwise(start, many)
        frame = Frame.at(_center(distances.lengths, weights), start, many, distances)
        shares = self._minimum(frame, weights / weights.sum())
        runs = [params.runs() for params in many]

        def fill(index: int, out: Array) -> None:
            if is_float(out.dtype):
                frame.combine(index, shares, out)
            else:
                weighted_median([each[index] for each in runs], weights, out)

        return Params.build_runs(start.spec, fill)

    def withstands(self, count: int) -> int:
        """Fewer than half, ``(count - 1) // 2``; none if nodes say themselves how much they weigh."""
        return max(0, (count - 1) // 2) if self.weighting == "uniform" else 0

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the result may be from the mean of the honest updates.

        ``(2 (h - 1) D + n nu / 2) / (n - 2 q)`` for ``n`` updates, ``q`` of them hostile, ``h = n - q`` honest ones no
        further than ``D`` apart. Let ``G(v) = sum_k |v - w_k|``, ``v`` the result and ``p`` any honest update.

        1. ``|z| <= |z|_nu <= |z| + nu / 2``. The result is no worse than the best update, in the smoothed sum, and the
           best one no worse than ``p``: ``G(v) <= G(p) + n nu / 2``.
        2. By the triangle inequality an honest update adds at least ``|v - p| - |p - w_k|`` to ``G(v)``, a hostile one
           at least ``|p - w_k| - |v - p|``: ``G(v) >= (h - q) |v - p| + G(p) - 2 sum_{k honest} |p - w_k|``.
        3. So ``(n - 2 q) |v - p| <= 2 (h - 1) D + n nu / 2``. The distance to the mean of the honest ones is no more
           than the mean of the distances to them.

        Without the smoothing this is the classical bound, e.g. Minsker, Geometric median and robust estimation in
        Banach spaces, Bernoulli 21, 2015, lemma 2.1. The medians of whole numbers keep it too, by themselves (see the
        coordinate median's) and, by Minkowski's inequality over the two parts, together with the rest; but for rounding
        them.
        """
        honest = count - hostile
        return (2 * (honest - 1) * diameter + count * self.smoothing / 2) / (count - 2 * hostile)

    def _minimum(self, frame: Frame, weights: Array) -> Array:
        """The share of each update in the lowest point."""
        smoothing = float(np.ldexp(self.smoothing, -UNIT))

        def height(place: Place) -> float:
            """``g``, less what it is at the origin without smoothing."""
            short = np.maximum(smoothing - place.lengths, 0)
            return float(weights @ (place.further + short / smoothing * short / 2))

        updates = (frame.update(index) for index in range(len(weights)))
        best = point = min((frame.place(weights), *updates), key=height)
        for _ in range(self.iterations):
            pulls = weights / np.maximum(smoothing, point.lengths)
            pull = float(pulls.sum())
            following = frame.place(pulls / pull)
            moved = frame.length(following.shares - point.shares)
            point = following
            best = min(best, point, key=height)
            if moved <= self.tolerance / pull:  # 1 / pull is a mean distance for which far away ones hardly count
                break
        # it only ever falls, but for rounding; near its lowest point it is so flat that rounding must not choose
        flat = _FLAT * frame.length(point.shares)
        return point.shares if height(point) <= height(best) + flat else best.shares


def _center(lengths: Array, weights: Array) -> int:
    """The update that has more than half of the weight nearest around it: one that no minority can take far away."""
    order = np.argsort(lengths, axis=1, kind="stable")
    reached = np.argmax(np.cumsum(weights[order], axis=1) > weights.sum() / 2, axis=1)
    radii = np.take_along_axis(np.take_along_axis(lengths, order, 1), reached[:, np.newaxis], 1)
    return int(np.argmin(radii))
