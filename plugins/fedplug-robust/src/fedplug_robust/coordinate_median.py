"""The coordinate-wise median."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedplug.core.aggregator import Aggregator, AggregatorTags
from fedplug.core.context import RoundContext
from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug_robust.arguments import gathered
from fedplug_robust.columns import inner_mean


class CoordinateMedian(Aggregator):
    """For each value by itself, the median of the nodes' values: ``w_j = med{w^k_j : k}``.

    Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018, definition 1 and algorithm 1, option I. The median of an even number is halfway between the two in the
    middle, in float64; whole numbers and truth values are rounded to the nearest, halves to even. Every node counts
    once, whatever its number of samples: a count is only what a node says.

    While fewer than half of the updates are hostile, each value of the result lies between the smallest and the largest
    of the honest ones, whatever the others hold, since at least one honest value lies on either side of it.

    Memory: one model, and 16,384 values of each update.
    """

    tags = AggregatorTags(weighted=False, breakdown="hull")

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """The median of each value.

        Raises:
            NoUpdatesError: ``updates`` is empty.
        """
        found = gathered("CoordinateMedian", start, updates, 1, "", "")
        return inner_mean(start.spec, [update.params for update in found], (len(found) - 1) // 2)

    def withstands(self, count: int) -> int:
        """Fewer than half: ``(count - 1) // 2``."""
        return max(0, (count - 1) // 2)

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the result may be from the mean of the honest updates.

        ``2 (h - 1) / (n - 2 q) D`` for ``n`` updates, ``q`` of them hostile and ``h = n - q`` honest ones no further
        than ``D`` apart, as for the geometric median, which the median of numbers is: in each coordinate,
        ``(n - 2 q) |v_j - m_j| <= 2 / h * sum_{k, l honest} |x^k_j - x^l_j|``, and by Minkowski's inequality the norm
        of the right side over all coordinates is no more than ``2 / h * sum |x^k - x^l|``. Or what follows from the
        hull, see `hull_radius`, where that is less.
        """
        honest = count - hostile
        return min(2 * (honest - 1) * diameter / (count - 2 * hostile), hull_radius(honest, diameter))


def hull_radius(honest: int, diameter: float) -> float:
    """How far a point whose values lie between those of ``h`` points, no further than ``D`` apart, is from their mean.

    ``(h - 1) / sqrt(2 h) * D``: in each coordinate the distance is at most ``r_j = max_k |x^k_j - m_j|``. As the
    deviations of ``h`` numbers from their mean add up to zero, ``r_j^2 <= (h - 1) / h * sum_k (x^k_j - m_j)^2``; and
    ``sum_j sum_k (x^k_j - m_j)^2 = 1 / h * sum_{k<l} |x^k - x^l|^2 <= (h - 1) / 2 * D^2``.
    """
    return (honest - 1) / math.sqrt(2 * honest) * diameter
