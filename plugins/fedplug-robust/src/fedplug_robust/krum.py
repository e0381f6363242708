"""Krum: the update that is nearest to its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np

from fedplug.core.aggregator import Aggregator, AggregatorTags
from fedplug.core.context import RoundContext
from fedplug.core.params import Array, Params
from fedplug.core.update import Update
from fedplug_robust.arguments import gathered, whole_number
from fedplug_robust.columns import is_float, moved_inside
from fedplug_robust.distances import Distances, pairwise


class Krum(Aggregator):
    """The one update whose ``n - f - 2`` nearest neighbours are nearest: nobody is averaged with anybody.

    Blanchard, El Mhamdi, Guerraoui, Stainer: "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, section 4: the score of update i is ``s(i) = sum_{i -> j} |w_i - w_j|^2`` over the ``n - f - 2``
    updates j that are closest to it, and the result is an update of the lowest score. Every node counts once, whatever
    its number of samples.

    Distances are over all floating-point arrays together (see `fedplug_robust.distances`). Whole numbers and truth
    values are the chosen update's too; one that is among the ``f`` smallest or the ``f`` largest of its kind becomes
    the nearest that is not, so that it lies between honest ones whatever was chosen. Between equal scores the smaller
    sum of squared distances to all others decides, then the smaller values (`fedplug_robust.order`), never the name of
    a node. Which of several equally good updates that is can change when all are multiplied by a negative number.

    Memory: one model, and a block of 1 MiB in float64.

    Args:
        hostile: ``f``, how many hostile updates there may be. A round needs ``2 f + 3`` updates or more.

    Raises:
        UsageError: ``hostile`` is no whole number of at least 0.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(1), cls(2)]

    def __init__(self, hostile: int) -> None:
        self.hostile = whole_number("Krum", "hostile", hostile, 0)
        promise = breakdown(self.hostile)
        self.tags = AggregatorTags(weighted=False, minimum_updates=2 * self.hostile + 3, breakdown=promise)

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """A copy of the chosen update.

        Raises:
            NoUpdatesError: ``updates`` is empty.
            RoundError: There are fewer than ``2 * hostile + 3``.
        """
        least = self.tags.minimum_updates
        why = f"2 * {self.hostile} + 3 for hostile={self.hostile}"
        found = gathered("Krum", start, updates, least, why, "Lower hostile, or let more nodes train.")
        many = [update.params for update in found]
        chosen = many[ranked(pairwise(start, many), len(many) - self.hostile - 2)[0]].runs()
        runs = [params.runs() for params in many]

        def fill(index: int, out: Array) -> None:
            if is_float(out.dtype):
                np.copyto(out, chosen[index])  # a copy, as the update may lie in a file of the round's
            else:
                moved_inside(chosen[index], [each[index] for each in runs], self.hostile, out)

        return Params.build_runs(start.spec, fill)

    def withstands(self, count: int) -> int:
        """``hostile``, where there are enough updates to use the rule at all."""
        return self.hostile if count >= self.tags.minimum_updates else 0

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the floating-point arrays may be from the mean of the honest updates; see `krum_radius`.

        Each whole number lies between the smallest and the largest of the honest ones.
        """
        return krum_radius(count, self.hostile, hostile, diameter)


def breakdown(hostile: int) -> Literal["", "ball"]:
    """The tag; a rule for nobody hostile promises nothing."""
    return "ball" if hostile else ""


def ranked(distances: Distances, neighbours: int) -> list[int]:
    """The places of all updates, the best first.

    Args:
        distances: Those between each two of them.
        neighbours: How many of the nearest count.
    """
    squares = np.sort(distances.squares, axis=1)[:, 1:]  # without its own zero
    # squares that are beyond float64 are compared by others, of distances in a unit in which they are not
    small = np.sort(np.ldexp(distances.lengths, -500), axis=1)[:, 1:] ** 2
    with np.errstate(over="ignore"):
        near, everyone = squares[:, :neighbours].sum(axis=1), squares.sum(axis=1)
    keys = (small.sum(axis=1), everyone, small[:, :neighbours].sum(axis=1), near)
    return [int(place) for place in np.lexsort(keys)]


def krum_radius(count: int, assumed: int, hostile: int, diameter: float) -> float:
    """How far an update with a score no higher than some honest one's may be from the mean of the honest ones.

    With ``n`` updates, ``q`` of them hostile, ``f >= q`` assumed, ``h = n - q`` honest ones no further than ``D``
    apart, whose mean is ``m``:

    1. Each honest update has ``h - 1 >= n - f - 1`` honest others within ``D``, so its score is at most
       ``(n - f - 2) D^2``; and so is any lower one.
    2. A hostile update ``x`` of such a score has at most ``q - 1`` hostile ones among its ``n - f - 2`` neighbours, and
       so ``k >= n - f - q - 1 >= 1`` honest ones, for which ``sum |x - x_j|^2 <= (n - f - 2) D^2``. The squared
       distance to the mean ``m_k`` of these is no more than their mean square:
       ``|x - m_k|^2 <= (n - f - 2) / k * D^2``.
    3. The mean of ``k`` of the ``h`` honest updates differs from the mean of all by ``(h - k) / h`` times the distance
       to the mean of the others, which is at most ``D``: ``|m_k - m| <= (h - k) / h * D``. Both bounds fall with ``k``.
    4. An honest update is within ``(h - 1) / h * D`` of ``m``.

    Together: ``(sqrt((n - f - 2) / (n - f - q - 1)) + (f + 1) / (n - q)) D`` if anybody is hostile, ``(n - 1) / n * D``
    if nobody is. The first is the larger one, as its root is at least 1.

    Args:
        count: ``n``.
        assumed: ``f``, with ``n >= 2 f + 3``.
        hostile: ``q``, no more than ``f``.
        diameter: ``D``.
    """
    if not hostile:
        return (count - 1) / count * diameter
    honest = count - hostile
    nearest = count - assumed - hostile - 1
    return (math.sqrt((count - assumed - 2) / nearest) + (honest - nearest) / honest) * diameter
