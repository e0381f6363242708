"""Scaffold: nodes with different data do not drift apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedplug.core.aggregator import AggregatorTags, NodePayload, StreamingAggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.mean import WeightedMean
from fedplug.core.node_terms import TermSum
from fedplug.core.numbers import is_number
from fedplug.core.params import Array, Params, widened
from fedplug.core.update import Update

AUX = "scaffold"
"""The name of the control variates on their way, and of what a node keeps."""

_MISSING = (
    "it brings no control variate, which Scaffold needs. The node needs the package fedplug-scaffold, and a plan that "
    "is trained by gradients"
)


@dataclass
class _Round:
    start: Params
    ctx: RoundContext
    mean: WeightedMean


class Scaffold(StreamingAggregator[_Round]):
    """Stochastic controlled averaging.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    ICML 2020, algorithm 1 with option II. Node i corrects every gradient, ``g <- g - c_i + c`` (line 10), and sets
    ``c_i <- c_i - c + (x - y_i) / (K eta_l)`` (line 12), which for plain gradient descent is the mean of its K
    uncorrected gradients; that is what the node computes (`fedplug_scaffold.hooks`), so that neither the rate nor K
    need be known here, and other optimizers may follow. The researcher (lines 16 and 17)::

        x <- x + server_lr * mean over S of (y_i - x)
        c <- c + |S|/N * mean over S of (c_i(new) - c_i(old))

    The mean is not weighted, as in the paper, and N is the number of all nodes of the experiment: ``c`` is the mean of
    all ``c_i``, where a node that was never selected counts as zero. ``c_i`` stays at its node, and one array of the
    model's size crosses the wire each way besides the model (`fedplug.core.node_terms`: lost replies, lost states).

    Whole numbers, buffers and parameters that are not trained take the plain mean. Differential privacy (``dp_args``)
    does not cover control variates, and is refused.

    Args:
        server_lr: ``eta_g``, above 0.

    Raises:
        UsageError: It is out of range.
    """

    @classmethod
    def conformance_cases(cls) -> list[Any]:
        """What ``fedplug plugins check`` tests."""
        from fedplug.testing import Subject
        from fedplug_scaffold.conformance import complete

        return [Subject(cls(), complete=complete), Subject(cls(0.5), complete=complete)]

    def __init__(self, server_lr: float = 1.0) -> None:
        if not (is_number(server_lr) and 0 < server_lr < math.inf):
            raise UsageError(f"server_lr must be a number above 0, got {server_lr!r}.")
        self.server_lr = float(server_lr)
        self.tags = AggregatorTags(weighted=False, convex=self.server_lr == 1, streaming=True)
        self._terms = TermSum(AUX, _MISSING)
        self._sum: dict[str, Array] = {}
        self._announced: tuple[RoundContext, NodePayload] | None = None

    def check(self, training_args: Mapping[str, Any]) -> None:
        """Refuse training for epochs: nodes that make more steps would count more, which control variates cannot mend.

        Raises:
            UsageError: There is no ``num_updates``.
        """
        if training_args.get("num_updates") is None:
            raise UsageError(
                "Scaffold needs num_updates in the training arguments, so that all nodes make equally many steps.",
                cure="Set it, e.g. to 50, and leave epochs out.",
            )

    def node_payload(self, node_id: str, ctx: RoundContext) -> NodePayload:
        """The common control variate, the same for every node.

        Raises:
            UsageError: Differential privacy is asked for.
        """
        if self._announced is None or self._announced[0] is not ctx:
            if self._terms.begins_anew(ctx):
                self._sum = {}
            count = len(self._terms.nodes.union(ctx.all_node_ids)) or 1
            common = {name: total / count for name, total in self._sum.items()}
            self._announced = ctx, NodePayload(self._terms.announce(ctx, common), {})
        return self._announced[1]

    def check_update(self, update: Update, start: Params) -> None:
        """Refuse an update without a change of its control variate, or with one that is none."""
        self._terms.check(update, start)

    def begin(self, start: Params, ctx: RoundContext) -> _Round:
        """An empty mean."""
        return _Round(start, ctx, WeightedMean(start.spec))

    def accumulate(self, state: _Round, update: Update) -> None:
        """Fold one node's parameters and the change of its control variate in."""
        state.mean.add(update.params, 1)
        self._terms.take(update)

    def finalize(self, state: _Round) -> Params:
        """The next global parameters; the next round's control variate is known with them.

        Raises:
            NoUpdatesError: There was no update.
        """
        mean = state.mean.result()
        moved = self._terms.names - state.ctx.buffers
        change = self._terms.settle(state.ctx)
        if change is None:
            self._sum = {}
        else:
            for name, delta in change.items():
                self._sum[name] = self._sum[name] + delta if name in self._sum else delta
        self._announced = None
        if self.server_lr == 1:
            return mean
        start, rate = state.start, self.server_lr

        def fill(name: str, out: Array) -> None:
            if name in moved:
                before = widened(start[name])
                out[...] = (before + rate * (widened(mean[name]) - before)).astype(out.dtype)
            else:
                np.copyto(out, mean[name])

        return Params.build(start.spec, fill)

    def state_dict(self) -> dict[str, Any]:
        """The sum of all control variates, and whose they are."""
        return {"terms": self._terms.state_dict(), "sum": Params.from_arrays(self._sum)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._announced = None
        self._terms.load_state_dict(state["terms"])
        self._sum = {name: np.array(array) for name, array in state["sum"].items()}
