"""The Experiment: federated training as the researcher sees it.

with Experiment(tags="#breast", training_plan_class=MyPlan, round_limit=5) as exp:
    exp.run()
    model = exp.training_plan().model()
"""

from __future__ import annotations

import itertools
import os
import secrets
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedplug.core.aggregator import Aggregator
from fedplug.core.closing import Closing
from fedplug.core.context import RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import DatasetCard, LogLine, Progress
from fedplug.core.monitor import Monitor
from fedplug.core.params import Params
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.pool import NodePool
from fedplug.core.privacy_ledger import PrivacyLedger
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup, TrainingPlan
from fedplug.core.transport import TransportOptions
from fedplug.researcher.federated_dataset import FederatedDataset
from fedplug.researcher.folders import make_experiment_folder
from fedplug.researcher.monitors import MonitorGroup
from fedplug.researcher.results import reply_record, save_model
from fedplug.researcher.round import Round, RoundPlan
from fedplug.researcher.schedule import Schedule, rounds_to_run
from fedplug.researcher.search import NodeSearch, await_nodes, usable_nodes
from fedplug.researcher.settings import ExperimentSettings, check_arguments
from fedplug.researcher.spool import Spool

DEFAULT_TRANSPORT = "zmq://127.0.0.1:7400"
"""Where the researcher listens if neither ``transport`` nor ``FEDPLUG_TRANSPORT`` says otherwise."""

_QUERIES = itertools.count(1)
"""Numbers of searches. A pool may outlive an experiment, and its nodes know a search by its number."""

MEMORY_BUDGET = 16 * 1024 * 1024
"""Bytes of memory that updates which wait for their turn may take together."""


class Experiment(ExperimentSettings, Closing):
    """Trains one model over many nodes, round after round.

    Every argument can also be set later, by the setter of its name; `run` says what is missing.

    Args:
        tags: Tags that the data sets must carry; given tags are searched for at once.
        nodes: Ids or names of the nodes to use; None for all that hold such data.
        training_data: The federated data set by hand, instead of ``tags``.
        training_plan_class: What is trained; a plan class, or a bare model class a plugin can wrap.
        model_args: For the plan's ``init_model``.
        training_args: See ``TrainingArgs.help()``.
        aggregator: An aggregator, its class or its name; None for FedAverage.
        node_selection_strategy: A strategy, its class or its name; None for all nodes.
        round_limit: Rounds after which `run` stops; None for no limit.
        tensorboard: Write TensorBoard logs into the experiment's folder.
        save_breakpoints: Not available yet.
        experimentation_folder: Name of the experiment's folder; None for ``Experiment_0001`` and so on.
        transport: An address to listen at (``zmq://...``), or a federation such as
            `fedplug.simulation.Federation`; None for ``$FEDPLUG_TRANSPORT``, else ``zmq://127.0.0.1:7400``.
        seed: Root of all random streams; None draws one. With the same seed, data and versions the result
            is the same to the last bit.
        min_nodes: How many nodes with data to wait for; None waits until no more nodes connect.
        connect_timeout: Seconds to wait for nodes.
        progress: ``"auto"``, ``"live"``, ``"notebook"``, ``"plain"``, ``"quiet"`` or ``"json"``.
        transport_options: E.g. ``TransportOptions(insecure_plaintext=True)``.
        host: The plugins to use; all installed ones by default.

    Raises:
        FedplugError: An argument is wrong, no node connects, or no data set matches.
    """

    def __init__(
        self,
        tags: str | Sequence[str] | None = None,
        nodes: Sequence[str] | None = None,
        training_data: FederatedDataset | Mapping[str, DatasetCard] | None = None,
        training_plan_class: type | None = None,
        model_args: Mapping[str, Any] | None = None,
        training_args: Mapping[str, Any] | TrainingArgs | None = None,
        aggregator: str | type[Aggregator] | Aggregator | None = None,
        node_selection_strategy: str | type[Strategy] | Strategy | None = None,
        round_limit: int | None = None,
        tensorboard: bool = False,
        save_breakpoints: bool = False,
        experimentation_folder: str | None = None,
        *,
        transport: str | NodePool | None = None,
        seed: int | None = None,
        min_nodes: int | None = None,
        connect_timeout: float = 30.0,
        progress: str = "auto",
        transport_options: TransportOptions | None = None,
        host: PluginHost | None = None,
    ) -> None:
        super().__init__(host or default_host())
        if save_breakpoints:
            raise UsageError("save_breakpoints is not available in this version.", cure="Leave it out.")
        if tags is not None and training_data is not None:
            raise UsageError("Give either tags or training_data, not both.")
        check_arguments(min_nodes, connect_timeout, seed, transport)
        self.id = uuid.uuid4().hex
        self._seed = secrets.randbits(63) if seed is None else seed
        self._seeds = SeedTree.root(self._seed)
        self._min_nodes, self._connect_timeout = min_nodes, connect_timeout
        self._transport, self._transport_options = transport, transport_options or TransportOptions()
        self._pool: NodePool | None = None
        self._attempt = 0
        self._privacy = PrivacyLedger()
        self._acked: dict[str, int] = {}
        self._folder_name = experimentation_folder
        self._folder: Path | None = None
        self._params: Params | None = None
        self._replies: dict[int, dict[str, dict[str, Any]]] = {}
        self._monitors = MonitorGroup(progress)
        self.set_tensorboard(tensorboard)
        self.set_training_plan_class(training_plan_class)
        self.set_model_args(model_args)
        self.set_training_args(training_args)
        self.set_strategy(node_selection_strategy)
        self.set_round_limit(round_limit)
        self.set_nodes(nodes)
        if aggregator is not None:
            self.set_aggregator(aggregator)
        if training_data is not None:
            self.set_training_data(training_data)
        if tags is not None:
            try:
                self.set_tags(tags)
            except BaseException:
                self.close()  # a constructor that fails must not keep the port
                raise

    # what can be looked at ---------------------------------------------------------------------------------

    def seed(self) -> int:
        """The root of all random streams of this experiment."""
        return self._seed

    def pool(self) -> NodePool:
        """The nodes, as this experiment reaches them; opened on first use.

        Raises:
            AddressError: The address cannot be used.
            UnknownNameError: No installed plugin offers this kind of transport.
        """
        if self._pool is None:
            if isinstance(self._transport, NodePool):
                self._pool = self._transport
            else:
                # the network is needed only now; a simulation never loads it
                from fedplug.protocol import ResearcherEndpoint
                from fedplug.transports.registry import open_transport

                url = self._transport or os.environ.get("FEDPLUG_TRANSPORT") or DEFAULT_TRANSPORT
                self._pool = ResearcherEndpoint(open_transport(url, self.host), url, self._transport_options)
        return self._pool

    def experimentation_path(self) -> Path:
        """The experiment's folder; created on first use."""
        if self._folder is None:
            self._folder = make_experiment_folder(self._folder_name)
        return self._folder

    def training_replies(self) -> dict[int, dict[str, dict[str, Any]]]:
        """What the nodes replied, without arrays: round → node id → record."""
        return {number: dict(replies) for number, replies in self._replies.items()}

    def aggregated_params(self) -> dict[int, dict[str, Params]]:
        """The global parameters of the last complete round: ``{round: {"params": Params}}``."""
        if self._params is None or self._round_current == 0:
            return {}
        return {self._round_current - 1: {"params": self._params}}

    def params(self) -> Params:
        """The global parameters now: of the last round, or the initial ones."""
        if self._params is None:
            self._params = self.training_plan().get_params()
        return self._params

    def training_plan(self) -> TrainingPlan:
        """The researcher's own instance of the plan, holding the global model.

        Raises:
            UsageError: No training plan class is set.
        """
        fresh = self._plan is None
        plan = super().training_plan()
        if fresh and self._params is not None:
            plan.set_params(self._params)
        return plan

    def set_tensorboard(self, tensorboard: bool) -> bool:
        """Whether TensorBoard logs are written, from the next `run` on.

        Raises:
            UsageError: Not a boolean.
        """
        if not isinstance(tensorboard, bool):
            raise UsageError(f"tensorboard must be True or False, got {tensorboard!r}.")
        self._tensorboard = tensorboard
        return tensorboard

    def add_monitor(self, monitor: Monitor) -> None:
        """Have ``monitor`` told about everything from now on."""
        self._monitors.add(monitor)

    # running -----------------------------------------------------------------------------------------------

    def run(self, rounds: int | None = None, increase: bool = False) -> int:
        """Run rounds.

        Args:
            rounds: How many; None for all up to the round limit. They do not pass the limit.
            increase: Raise the round limit where ``rounds`` would pass it.

        Returns:
            The number of rounds that were run; 0 if the limit is reached.

        Raises:
            UsageError: Settings are missing, or neither ``rounds`` nor a round limit is given.
            RoundError: A round could not be completed. Earlier rounds count; the next `run` goes on from there.
        """
        count, limit = rounds_to_run(rounds, increase, self._round_limit, self._round_current)
        if count == 0:
            self._monitors.message(
                f"The round limit of {self._round_limit} is reached; run(rounds=1, increase=True) goes beyond it."
            )
            return 0
        if problems := self.missing():
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise UsageError(f"The experiment cannot run yet. Missing:\n{listed}")
        path, first = self.experimentation_path(), self._round_current
        self._monitors.set_tensorboard(path / "runs" if self._tensorboard else None)
        self._round_limit = limit
        error: BaseException | None = None
        try:
            self._monitors.started(path, self.pool().nodes, count)
            try:
                for _ in range(count):
                    self._run_round()
            finally:
                if self._round_current > first:
                    save_model(self.params(), path / "model.safetensors")
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._monitors.stopped(self._round_current - first, error)
        return count

    def privacy(self) -> dict[str, dict[str, Any]]:
        """What the rounds have spent of the nodes' privacy; see `PrivacyLedger.report`."""
        return self._privacy.report()

    def run_once(self, increase: bool = False) -> int:
        """Run one round: ``run(rounds=1, increase=increase)``."""
        return self.run(rounds=1, increase=increase)

    def _run_round(self) -> RoundResult:
        number = self._round_current
        job = self._plan_round(number)
        ctx = job.ctx
        self.host.round_start(ctx, ctx.node_ids)
        self._monitors.round_started(ctx, ctx.node_ids)
        spool = Spool(self.experimentation_path(), MEMORY_BUDGET)
        self._attempt += 1  # whatever becomes of it, this attempt is used up
        result = self._privacy.note(ctx, Round(self.pool(), job, spool, self._watch, self._monitors).run())
        self._params, self._round_current, self._attempt = result.params, number + 1, 0
        self._acked.update(dict.fromkeys(result.replies, number))
        self._replies[number] = {node: reply_record(reply) for node, reply in result.replies.items()}
        if self._plan is not None:
            self._plan.set_params(result.params)
        self._monitors.round_ended(ctx, result)
        self.host.round_end(ctx, result)
        return result

    def _plan_round(self, number: int) -> RoundPlan:
        """Decide everything about a round before anything is sent."""
        if self._training_data is None or self._bundle is None:
            raise UsageError("The experiment cannot run yet.", cure="Missing: " + "; ".join(self.missing()))
        self.training_plan().check_privacy(self._training_args)
        nodes = usable_nodes(self._training_data, self._nodes, self.pool().nodes)
        await_nodes(self.pool(), nodes, self._connect_timeout, self._monitors.message, self._watch)
        schedule = Schedule(
            experiment_id=self.id,
            seeds=self._seeds,
            bundle=self._bundle,
            model_args=self._model_args,
            training_args=self._training_args,
            datasets={node: card.dataset_id for node, card in self._training_data.data().items()},
            acked=self._acked,
            attempt=self._attempt,
            total_rounds=self._round_limit or 0,
        )
        return schedule.plan_round(number, nodes, self.params(), self.aggregator(), self._strategy)

    def _watch(self, sign: Progress | LogLine, node_id: str) -> None:
        if isinstance(sign, Progress):
            self._monitors.progress(node_id, sign)
        else:
            self._monitors.log(node_id, sign)

    # what the settings need --------------------------------------------------------------------------------

    def _search(self) -> FederatedDataset:
        say = self._monitors.message
        search = NodeSearch(self.pool(), self._tags or (), self._nodes, self._min_nodes, self._connect_timeout, say)
        return search.run(next(_QUERIES))

    def _make_plan(self, plan_class: type[TrainingPlan]) -> TrainingPlan:
        """A plan whose model is initialised from the experiment's seed."""
        plan = plan_class()
        given = self._training_args.random_seed
        with plan_class.seeded(self._seeds.child("init").seed63() if given is None else given):
            plan.setup(PlanSetup(self._model_args, self._training_args), with_optimizer=False)
        return plan

    def _forget_model(self) -> None:
        super()._forget_model()
        self._params = None
        self._acked = {}  # what nodes have kept belongs to the model that is gone

    # the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye to the nodes, free the port, close the logs. May be called twice."""
        pool, self._pool = self._pool, None
        try:
            if pool is not None and pool is not self._transport:
                pool.close()
        finally:
            self._monitors.close()

    def __repr__(self) -> str:
        plan = self._plan_class.__name__ if self._plan_class else "no training plan"
        limit = "no limit" if self._round_limit is None else self._round_limit
        return f"Experiment({plan}, {self._round_current} of {limit} rounds, {len(self._training_data or ())} nodes)"
