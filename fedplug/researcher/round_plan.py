"""What a round needs to know, decided before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
