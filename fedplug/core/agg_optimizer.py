"""Optimizers at the researcher: how the global model moves once the nodes' updates are aggregated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from fedplug.core.context import RoundContext
from fedplug.core.params import Params
from fedplug.core.stateful import Stateful
from fedplug.core.update import Aux, Update

_NOTHING: Mapping[str, Params] = MappingProxyType({})


class AggOptimizer(Stateful, ABC):
    """Base of what ``Experiment(agg_optimizer=...)`` takes. Override `advance`; everything else has a default.

    Without one, the aggregate is the next global model. With one, the way from the global model to the aggregate
    counts as a step of gradient descent, ``g = start - aggregated`` (Reddi et al., Adaptive Federated Optimization,
    ICLR 2021, algorithm 2, where it is ``-Delta_t``), and the optimizer decides how far the model goes.

    A round calls `begin_round`, then for each update that arrives `check_update`, then `take` in sorted node order, and
    at last `advance`. If the round fails, what was learnt meanwhile is undone by `load_state_dict`.
    """

    @abstractmethod
    def advance(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        """The next global parameters.

        Args:
            start: The global parameters that the nodes started from.
            aggregated: What the aggregator made of their updates; laid out as ``start``.
            ctx: The round.

        Returns:
            Parameters with the names, shapes and dtypes of ``start``. For whole numbers and for buffers (counters and
            running statistics of normalisation layers), which have no gradient, those of ``aggregated`` are taken
            whatever is returned.
        """

    def begin_round(self, ctx: RoundContext) -> Aux:
        """A round of training begins, and nothing has been sent yet.

        Returns:
            Extra arrays by name that all nodes receive, for the optimizers of their plans.
        """
        return _NOTHING

    def check_update(self, update: Update, start: Params) -> None:
        """Refuse an update whose extra arrays are of no use, as it arrives.

        Args:
            update: Its arrays are finite.
            start: The global parameters.

        Raises:
            UpdateRejectedError: They are not what they should be; the node's update does not count.
        """

    def take(self, update: Update) -> None:
        """Take what an update brings for this optimizer. Called in sorted node order; the update is not kept."""
