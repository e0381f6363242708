"""Federated averaging."""

from __future__ import annotations

from collections.abc import Sequence

from fedplug.core.aggregator import AggregatorTags, StreamingAggregator, Weighting, update_weight
from fedplug.core.context import RoundContext
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params
from fedplug.core.update import Update


class FedAverage(StreamingAggregator[WeightedMean]):
    """The weighted mean of the nodes' parameters: ``w_{t+1} = sum_k (n_k / n) w^k_{t+1}``.

    Sums are held in float64 and folded in the order given; see `fedplug.core.mean` for the bounds on rounding.
    Memory: two models, whatever the number of nodes.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, Algorithm 1 (last line of the server's loop).

    Args:
        weighting: What ``n_k`` is: ``"samples"``, the number of training samples of node k, as in the paper;
            ``"steps"``, its number of optimizer steps; ``"uniform"``, one for each node.

    Raises:
        UsageError: The weighting is not known.
    """

    def __init__(self, weighting: Weighting = "samples") -> None:
        update_weight(Update("", Params.from_arrays({}), 0), weighting)  # refuses an unknown weighting right away
        self.weighting: Weighting = weighting
        self.tags = AggregatorTags(weighted=weighting != "uniform", streaming=True)

    def begin(self, start: Params, ctx: RoundContext) -> WeightedMean:
        """An empty mean laid out as ``start``."""
        return WeightedMean(start.spec)

    def accumulate(self, state: WeightedMean, update: Update) -> None:
        """Fold one node's parameters in, with its weight."""
        state.add(update.params, update_weight(update, self.weighting))

    def largest_share(self, updates: Sequence[Update]) -> float | None:
        """``max_k n_k / n``: the counts are taken as known, so one update enters the mean with its weight only."""
        weights = [update_weight(update, self.weighting) for update in updates]
        return max(weights) / sum(weights) if any(weights) else None

    def finalize(self, state: WeightedMean) -> Params:
        """The mean.

        Raises:
            NoUpdatesError: There was no update, or all weights are zero.
        """
        return state.result()
