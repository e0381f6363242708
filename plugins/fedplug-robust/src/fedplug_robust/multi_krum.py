"""Multi-Krum: the mean of the updates that are nearest to their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from fedplug.core.aggregator import Aggregator, AggregatorTags
from fedplug.core.context import RoundContext
from fedplug.core.params import Array, Params
from fedplug.core.update import Update
from fedplug_robust.arguments import gathered, whole_number
from fedplug_robust.columns import inner_mean_of, is_float, moved_inside
from fedplug_robust.distances import pairwise
from fedplug_robust.krum import breakdown, krum_radius, ranked


class MultiKrum(Aggregator):
    """The mean of the ``m`` updates of the lowest scores, the scores being those of `fedplug_robust.krum.Krum`.

    Blanchard, El Mhamdi, Guerraoui, Stainer: "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, section 6 (Multi-Krum). Scores are computed once, not anew after each choice. Every node counts once,
    whatever its number of samples; so does every chosen one in the mean, which is computed in float64. Whole numbers
    and truth values are rounded to the nearest, halves to even, and kept between honest ones as in Krum. Distances and
    ties are as there.

    Memory: one model, and blocks of 1 MiB in float64.

    Args:
        hostile: ``f``, how many hostile updates there may be. A round needs ``2 f + 3`` updates or more.
        keep: ``m``, how many updates are averaged; a round needs ``m + f`` updates or more. None for ``n - f - 2`` of
            the round's ``n``. With 1 it is Krum.

    Raises:
        UsageError: An argument is no whole number, or too small.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(1), cls(2), cls(1, keep=2)]

    def __init__(self, hostile: int, keep: int | None = None) -> None:
        self.hostile = whole_number("MultiKrum", "hostile", hostile, 0)
        self.keep = None if keep is None else whole_number("MultiKrum", "keep", keep, 1)
        least = max(2 * self.hostile + 3, (self.keep or 0) + self.hostile)
        self.tags = AggregatorTags(weighted=False, minimum_updates=least, breakdown=breakdown(self.hostile))

    def kept(self, count: int) -> int:
        """How many of ``count`` updates are averaged."""
        return count - self.hostile - 2 if self.keep is None else self.keep

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """The mean of the chosen updates.

        Raises:
            NoUpdatesError: ``updates`` is empty.
            RoundError: There are fewer than ``2 * hostile + 3``, or than ``keep + hostile``.
        """
        least = self.tags.minimum_updates
        why = f"2 * {self.hostile} + 3 for hostile={self.hostile}"
        if least > 2 * self.hostile + 3:
            why = f"{self.keep} + {self.hostile} for keep={self.keep}, hostile={self.hostile}"
        cure = f"Lower hostile{'' if self.keep is None else ' or keep'}, or let more nodes train."
        found = gathered("MultiKrum", start, updates, least, why, cure)
        many = [update.params for update in found]
        best = ranked(pairwise(start, many), len(many) - self.hostile - 2)[: self.kept(len(many))]
        runs, chosen = [params.runs() for params in many], sorted(best)

        def fill(index: int, out: Array) -> None:
            rows = [each[index] for each in runs]
            inner_mean_of([rows[place] for place in chosen], 0, out)
            if not is_float(out.dtype):
                moved_inside(out, rows, self.hostile, out)

        return Params.build_runs(start.spec, fill)

    def withstands(self, count: int) -> int:
        """``hostile``, where there are enough updates to use the rule at all."""
        return self.hostile if count >= self.tags.minimum_updates else 0

    def radius(self, count: int, hostile: int, diameter: float) -> float:
        """How far the floating-point arrays may be from the mean of the honest updates.

        As ``m <= n - f``, there are ``m`` honest updates, so the ``m`` lowest scores are no higher than the highest of
        theirs, and each chosen update is within `krum_radius` ``R`` of the honest mean if it is hostile. If ``b``
        chosen ones are hostile, the other ``m - b`` have a mean within ``(h - m + b) / h * D`` of that of all ``h``
        honest ones. So the result is within ``max_b (b R + (m - b) (h - m + b) / h * D) / m``, for ``b`` up to
        ``min(q, m)``.
        """
        keep, honest = self.kept(count), count - hostile
        far = krum_radius(count, self.hostile, hostile, diameter)
        return max(
            (bad * far + (keep - bad) * (honest - keep + bad) / honest * diameter) / keep
            for bad in range(min(hostile, keep) + 1)
        )
