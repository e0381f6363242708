"""What is asked of whom in a round: the strategy's choice, the aggregator's extras, the seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator, NodePayload
from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.metrics import make_metrics
from fedplug.core.numbers import is_whole
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.core.update import Aux, Update
from fedplug.researcher.central_privacy import CentralPrivacy
from fedplug.researcher.refusals import blamed
from fedplug.researcher.round_plan import RoundPlan
from fedplug.researcher.shown import shown
from fedplug.researcher.snapshot import Acked

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost


@dataclass(frozen=True)
class Schedule:
    """The facts of an experiment from which each round is planned.

    Attributes:
        experiment_id: Unique id of the experiment.
        seeds: Root of its seed tree.
        bundle: The training plan.
        model_args: For the plan's ``init_model``.
        training_args: Training arguments in force.
        datasets: Node id → id of its data set.
        acked: Node id → its last update that was committed.
        attempt: How often this round was tried before. A node never trains one (round, attempt) twice; the
            seeds do not depend on it, so another attempt gives the same bits.
        total_rounds: The round limit; 0 if there is none.
        host: The plugins that offer metrics; all installed ones by default.
        buffers: Names of the parameters that no optimizer moves.
        samples: Node id → how many samples its data set has, for those of which that is known.
    """

    experiment_id: str
    seeds: SeedTree
    bundle: PlanBundle
    model_args: Mapping[str, Any]
    training_args: TrainingArgs
    datasets: Mapping[str, str]
    acked: Mapping[str, Acked]
    attempt: int
    total_rounds: int
    host: PluginHost | None = None
    buffers: frozenset[str] = frozenset()
    samples: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def plan_round(
        self,
        number: int,
        nodes: Sequence[str],
        params: Params,
        aggregator: Aggregator,
        strategy: Strategy,
        agg_optimizer: AggOptimizer | None = None,
    ) -> RoundPlan:
        """Decide everything about a round before anything is sent.

        Args:
            number: The round's, from 0.
            nodes: Who may train, sorted.
            params: The global parameters.
            aggregator: Makes new parameters of updates.
            strategy: Decides who trains.
            agg_optimizer: Decides how far the model goes towards the aggregate.

        Raises:
            UsageError: The aggregator cannot work with the training arguments, the strategy's choice is no choice,
                ``test_metric`` names no metric, or one that cannot be made of ``test_metric_args``, or the round
                cannot be protected as ``dp_args`` ask.
        """
        args = self.training_args.dict()
        metrics = make_metrics(self.training_args.test_metric, self.training_args.test_metric_args, self.host)
        with blamed("Aggregator", aggregator, "check"):
            aggregator.check(args)
        seeds = self.seeds.child("round", number)
        every = tuple(nodes)
        draft = RoundContext(self.experiment_id, number, seeds, every, args, every, self.buffers)
        with blamed("Strategy", strategy, "select"):
            chosen = strategy.select(draft, nodes)
        selected = _check_selection(strategy, chosen, nodes)
        ctx = dataclasses.replace(draft, node_ids=selected)
        shared = self.training_args.dict()  # one for all requests, which nobody changes
        extra: Aux = {}
        if agg_optimizer is not None:
            with blamed("Optimizer", agg_optimizer, "begin_round"):
                extra = agg_optimizer.begin_round(ctx)

        def plan_node(node: str, ctx: RoundContext, attempt: int) -> tuple[TrainRequest, NodePayload | None]:
            with blamed("Aggregator", aggregator, "node_payload"):
                payload = _joined(aggregator.node_payload(node, ctx), extra)
            return self._request(node, ctx, payload, shared, of_nodes, attempt=attempt), payload

        of_nodes = seeds.child("node")
        planned = {node: plan_node(node, ctx, self.attempt) for node in selected}
        requests = {node: request for node, (request, _) in planned.items()}
        payloads = {node: payload for node, (_, payload) in planned.items()}
        return RoundPlan(
            ctx, self.bundle, params, requests, payloads, aggregator, strategy, metrics, agg_optimizer=agg_optimizer,
            privacy=CentralPrivacy.of(ctx, params, aggregator, requests.values()), plan_node=plan_node,
            samples=self.samples,
        )  # fmt: skip

    def plan_test(
        self, number: int, nodes: Sequence[str], params: Params, aggregator: Aggregator, strategy: Strategy
    ) -> RoundPlan:
        """A round in which ``nodes``, all of them, test ``params`` and train nothing.

        Args:
            number: The round that it counts as: that whose training would begin with ``params``.
            nodes: Who tests, sorted.
            params: What is tested.
            aggregator: Says what the nodes receive besides; it aggregates nothing.
            strategy: Decides what the test can do without.

        Raises:
            UsageError: No sample is held out, or a metric cannot be made.
        """
        if self.training_args.test_ratio == 0:
            raise UsageError(
                "There is nothing to test on: test_ratio is 0, so no node holds out any sample.",
                cure="Set test_ratio in the training arguments, e.g. to 0.2.",
            )
        tests = {"test_on_global_updates": True, "test_on_local_updates": False}
        args = {**self.training_args.dict(), **tests}
        metrics = make_metrics(self.training_args.test_metric, self.training_args.test_metric_args, self.host)
        seeds, every = self.seeds.child("round", number), tuple(nodes)
        ctx = RoundContext(self.experiment_id, number, seeds, every, args, every, self.buffers)
        with blamed("Aggregator", aggregator, "node_payload"):
            payloads = {node: aggregator.node_payload(node, ctx) for node in nodes}
        of_nodes = seeds.child("node")
        requests = {
            node: self._request(node, ctx, payloads[node], args, of_nodes, attempt=self.attempt, train=False)
            for node in nodes
        }
        return RoundPlan(
            ctx, self.bundle, params, requests, payloads, Unchanged(), strategy, metrics, train=False,
            samples=self.samples,
        )  # fmt: skip

    @cached_property
    def _of_data(self) -> SeedTree:
        return self.seeds.child("data")

    def _request(
        self,
        node_id: str,
        ctx: RoundContext,
        payload: NodePayload | None,
        args: dict[str, Any],
        of_nodes: SeedTree,
        *,
        attempt: int,
        train: bool = True,
    ) -> TrainRequest:
        if payload and payload.training_args:
            args = TrainingArgs.from_dict({**args, **payload.training_args}).dict()
        acked = self.acked.get(node_id, Acked(-1))
        return TrainRequest(
            key=TaskKey(experiment_id=self.experiment_id, round=ctx.round, node_id=node_id, attempt=attempt),
            dataset_id=self.datasets[node_id],
            plan_class=self.bundle.class_name,
            model_args=dict(self.model_args),
            training_args=args,
            seed=of_nodes.child(node_id).seed63(),
            data_seed=self._of_data.child(node_id).seed63(),
            acked_round=acked.round,
            acked_state=acked.state_id,
            total_rounds=self.total_rounds,
            aux=tuple(payload.aux) if payload else (),
            train=train,
        )


class Unchanged(Aggregator):
    """The aggregator of a mere test: the model stays what it is."""

    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        """``start``."""
        return start


def _joined(payload: NodePayload | None, extra: Aux) -> NodePayload | None:
    """What a node receives for the aggregator, and for the optimizer of its plan."""
    if not extra:
        return payload
    if payload is None:
        return NodePayload(extra, {})
    if both := payload.aux.keys() & extra.keys():
        raise UsageError(f"Aggregator and agg_optimizer both send extra arrays named {min(both)!r}.")
    return NodePayload({**payload.aux, **extra}, payload.training_args)


def rounds_to_run(rounds: int | None, increase: bool, limit: int | None, current: int) -> tuple[int, int | None]:
    """How many rounds ``Experiment.run(rounds, increase)`` runs, and the round limit from then on.

    Args:
        rounds: How many are asked for; None for all up to the limit.
        increase: Whether the limit may be raised.
        limit: The round limit; None if there is none.
        current: Number of rounds that are complete.

    Raises:
        UsageError: ``rounds`` is not a positive whole number, or neither it nor a limit is given.
    """
    if rounds is None:
        if limit is None:
            raise UsageError(
                "How many rounds? There is no round limit.", cure="Call run(rounds=...) or set_round_limit(...)."
            )
        return limit - current, limit
    if not is_whole(rounds, 1):
        raise UsageError(f"rounds must be a whole number above zero, got {shown(rounds)}.")
    if limit is None:
        return rounds, None
    if increase and current + rounds > limit:
        limit = current + rounds
    return min(rounds, limit - current), limit


def _check_selection(strategy: Strategy, selected: Sequence[str], nodes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(selected, str) or not isinstance(selected, Iterable):
        raise UsageError(
            f"Strategy {type(strategy).__name__} selected {selected!r}.", cure="Its method select must return a list."
        )
    selected = list(selected)
    known = set(nodes)
    unknown = [node for node in selected if node not in known]
    if unknown or not selected:
        raise UsageError(
            f"Strategy {type(strategy).__name__} selected "
            + (f"{unknown[0]!r}, which is not one of the nodes." if unknown else "no node."),
            cure=f"It must choose at least one of: {', '.join(nodes)}.",
        )
    return tuple(sorted(set(selected)))
