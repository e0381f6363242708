"""What a round needs to know, decided before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator, NodePayload
from fedplug.core.context import RoundContext
from fedplug.core.messages import TrainRequest
from fedplug.core.metrics import Metric
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.privacy import privacy_args, request_digest
from fedplug.core.privacy_ledger import Asked
from fedplug.core.strategy import Strategy
from fedplug.researcher.central_privacy import CentralPrivacy

PlanNode = Callable[[str, RoundContext, int], tuple[TrainRequest, NodePayload | None]]
"""Makes the request of a node, and what it receives besides, for a round and an attempt at it."""

_NOTHING = Params.from_arrays({})


@dataclass(frozen=True)
class RoundPlan:
    """What a round needs to know, all decided before anything is sent.

    Attributes:
        ctx: The round.
        plan: The training plan.
        params: The global parameters.
        requests: What each node is asked, by node id.
        payloads: What the aggregator wants it to have besides.
        aggregator: Makes new parameters of updates.
        strategy: Decides what the round can do without.
        metrics: What tests measure, by name.
        train: Whether the nodes train; if not, they test only, and reply without parameters.
        agg_optimizer: Decides how far the model goes towards the aggregate; None: all the way.
        privacy: Central differential privacy; None if it is not asked for.
        plan_node: Makes what a node is asked, and what it receives besides, for an attempt at this round.
        samples: Node id → how many samples its data set has, for those of which that is known.
    """

    ctx: RoundContext
    plan: PlanBundle
    params: Params
    requests: Mapping[str, TrainRequest]
    payloads: Mapping[str, NodePayload | None]
    aggregator: Aggregator
    strategy: Strategy
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    train: bool = True
    agg_optimizer: AggOptimizer | None = None
    privacy: CentralPrivacy | None = None
    plan_node: PlanNode | None = None
    samples: Mapping[str, int] = field(default_factory=dict)

    @property
    def replacements(self) -> frozenset[str]:
        """Nodes that could take part in the round besides.

        None with central privacy: how much noise protects whom was computed for the nodes that were selected.
        """
        if self.plan_node is None or self.privacy is not None:
            return frozenset()
        return frozenset(self.ctx.all_node_ids).difference(self.ctx.node_ids)

    def with_node(self, node_id: str, attempt: int) -> RoundPlan:
        """This plan with one node more, or with a new attempt of one that it has.

        Raises:
            RoundError: The aggregator fails to say what the node receives.
        """
        if node_id in self.requests:
            request, payload = self.requests[node_id], self.payloads[node_id]
            request = msgspec.structs.replace(request, key=msgspec.structs.replace(request.key, attempt=attempt))
        else:
            assert self.plan_node is not None, "nobody is offered as a replacement without it"
            request, payload = self.plan_node(node_id, self.ctx, attempt)
        ctx = dataclasses.replace(self.ctx, node_ids=tuple(sorted({*self.ctx.node_ids, node_id})))
        requests, payloads = {**self.requests, node_id: request}, {**self.payloads, node_id: payload}
        return dataclasses.replace(self, ctx=ctx, requests=requests, payloads=payloads)

    @property
    def expected(self) -> Params:
        """What an update must be laid out as."""
        return self.params if self.train else _NOTHING

    def asked(self) -> dict[str, Asked]:
        """What each node is asked, for the account of privacy."""
        local = privacy_args(self.ctx.training_args, "local")
        found = {}
        for node, request in self.requests.items():
            payload = self.payloads.get(node)
            aux = payload.aux if payload else {}
            digest = request_digest(request, self.plan.hash, self.params, aux) if local else ""
            found[node] = Asked(request.acked_round, digest)
        return found
