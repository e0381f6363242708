"""The coordinate-wise trimmed mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from fedplug.core.aggregator import Aggregator, AggregatorTags
from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug_robust.arguments import gathered
from fedplug_robust.columns import inner_mean
from fedplug_robust.coordinate_median import hull_radius


class TrimmedMean(Aggregator):
    """For each value by itself, the mean of the nodes' values without the ``t`` smallest and the ``t`` largest.

    Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018, definition 2 and algorithm 1, option II: ``w_j = 1 / (n - 2 t) * sum of the values that are left``. It is
    computed in float64; whole numbers and truth values are rounded to the nearest, halves to even. Every node counts
    once, whatever its number of samples.

    While no more than ``t`` updates are hostile, each value of the result lies between the smallest and the largest of
    the honest ones: of the ``t + 1`` smallest values one at least is honest, and so of the largest. **Nothing is cut
    where ``trim * n < 1``**: with the default of 0.1 it takes ten nodes to withstand one.

    Memory: one model, and 16,384 values of each update.

    Args:
        trim: What is cut at each end: a share of the updates in [0, 0.5), of which ``floor(trim * n)`` are cut; or a
            whole number of them. ``1`` is one update, ``0.1`` is a tenth of them.

    Raises:
        UsageError: ``trim`` is neither.
    """

    def __init__(self, trim: float = 0.1) -> None:
        whole = isinstance(trim, Integral) and not isinstance(trim, bool) and trim >= 0
        share = isinstance(trim, Real) and not isinstance(trim, Integral) and 0 <= trim < 0.5
        if not (whole or share):
            raise UsageError(
                f"trim of TrimmedMean must be a share in [0, 0.5) or a whole number of updates, got {trim!r}.",
                cure="E.g. TrimmedMean(0.2) to cut a fifth at each end, TrimmedMean(2) to cut two updates.",
            )
        self.trim = int(trim) if whole else float(trim)
        least = 2 * int(trim) + 1 if whole else 1
        self.tags = AggregatorTags(weighted=False, minimum_updates=least, breakdown="hull" if self.trim else "")

    def cut(self, count: int) -> int:
        """How many of ``count`` updates are cut at each end."""
        if isinstance(self.trim, int):
            return self.trim
        # rounded first: 0.29 * 100 is 28.999999999999996, and 29 % of 100 nodes are 29
        return min(math.floor(round(self.trim * count, 9)), (count - 1) // 2)

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """The trimmed mean of each value.

        Raises:
            NoUpdatesError: ``updates`` is empty.
            RoundError: There are no more than are to be cut.
        """
        least = self.tags.minimum_updates
        why = f"{self.trim} are cut at each end"
        found = gathered("TrimmedMean", start, updates, least, why, "Lower trim, or let more nodes train.")
        return inner_mean(start.spec, [update.params for update in found], self.cut(len(found)))

    def withstands(self, count: int) -> int:
        """As many as are cut at each end."""
        return self.cut(count) if count >= self.tags.minimum_updates else 0

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """What follows from the hull: ``(h - 1) / sqrt(2 h) * diameter``, ``h = count - hostile``; see the median's."""
        return hull_radius(count - hostile, diameter)
