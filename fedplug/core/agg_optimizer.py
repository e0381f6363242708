"""Optimizers at the researcher: how the global model moves once the nodes' updates are aggregated."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedplug.core.context import RoundContext
from fedplug.core.params import Params
from fedplug.core.stateful import Stateful


class AggOptimizer(Stateful, ABC):
    """Base of what ``Experiment(agg_optimizer=...)`` takes.

    Without one, the aggregate is the next global model. With one, the way from the global model to the aggregate
    counts as a step of gradient descent, ``g = start - aggregated`` (Reddi et al., Adaptive Federated Optimization,
    ICLR 2021, algorithm 2, where it is ``-Delta_t``), and the optimizer decides how far the model goes.
    """

    @abstractmethod
    def step(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        """The next global parameters.

        Args:
            start: The global parameters that the nodes started from.
            aggregated: What the aggregator made of their updates; laid out as ``start``.
            ctx: The round.

        Returns:
            Parameters with the names, shapes and dtypes of ``start``. Arrays of whole numbers (counters of
            normalisation layers) have no gradient: they are those of ``aggregated``.
        """
