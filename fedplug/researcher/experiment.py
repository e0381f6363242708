"""The Experiment: federated training as the researcher sees it.

with Experiment(tags="#breast", training_plan_class=MyPlan, round_limit=5) as exp:
    exp.run()
    model = exp.training_plan().model()
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator
from fedplug.core.closing import Closing
from fedplug.core.errors import BreakpointError, FedplugError, SettingsError
from fedplug.core.monitor import Monitor
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.pool import NodePool
from fedplug.core.privacy_ledger import PrivacyLedger
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup, TrainingPlan
from fedplug.core.transport import TransportOptions
from fedplug.researcher.breakpoints import find_breakpoints, read_latest
from fedplug.researcher.federated_dataset import FederatedDataset
from fedplug.researcher.folders import make_experiment_folder
from fedplug.researcher.history import History
from fedplug.researcher.info import ExperimentInfo, describe
from fedplug.researcher.round_loop import RoundLoop
from fedplug.researcher.settings import check_arguments, known_arguments
from fedplug.researcher.settings.arguments import Problems
from fedplug.researcher.status import StatusMonitor


class Experiment(RoundLoop, Closing):
    """Trains one model over many nodes, round after round.

    Every argument can also be set later, by the setter of its name; `info` says what is set, and `run` what is missing.

    Args:
        tags: Tags that the data sets must carry; given tags are searched for at once.
        nodes: Ids or names of the nodes to use; None for all that hold such data.
        training_data: The federated data set by hand, instead of ``tags``.
        training_plan_class: What is trained; a plan class, or a bare model class a plugin can wrap; or the
            name of a class in ``training_plan_path``.
        model_args: For the plan's ``init_model``.
        training_args: See ``TrainingArgs.help()``.
        aggregator: An aggregator, its class or its name; None for FedAverage.
        node_selection_strategy: A strategy, its class or its name; None for all nodes.
        round_limit: Rounds after which `run` stops; None for no limit.
        tensorboard: Write TensorBoard logs into the experiment's folder.
        save_breakpoints: Save a breakpoint after each round, from which `load_breakpoint` goes on.
        experimentation_folder: Name of the experiment's folder; None for ``Experiment_0001`` and so on.
        training_plan_path: A Python file with the training plan.
        agg_optimizer: How far the global model moves towards the aggregate: an optimizer, its class or its name; None:
            all the way.
        test_ratio: Part of each node's data that is held out for tests.
        test_metric: What a test measures: names of `fedplug.MetricTypes`.
        test_metric_args: Arguments of the metrics.
        test_on_local_updates: Test each node's own model after local training.
        test_on_global_updates: Test the global model before local training, and after the last round.
        retain_full_history: Keep the global parameters of every round on disk, for `aggregated_params`.
        monitor: A monitor of your own, told about everything.
        transport: An address to listen at (``zmq://...``), or a federation such as
            `fedplug.simulation.Federation`; None for ``$FEDPLUG_TRANSPORT``, else ``zmq://127.0.0.1:7400``.
        seed: Root of all random streams; None draws one. With the same seed, data and versions the result
            is the same to the last bit.
        min_nodes: How many nodes with data to wait for; None waits until no more nodes connect.
        connect_timeout: Seconds to wait for nodes.
        progress: ``"auto"``, ``"live"``, ``"notebook"``, ``"plain"``, ``"quiet"`` or ``"json"``.
        transport_options: E.g. ``TransportOptions(insecure_plaintext=True)``. Keys need not be among them: those in
            ``$FEDPLUG_DIR`` are used, which ``fedplug researcher init`` makes.
        host: The plugins to use; all installed ones by default.

    Attributes:
        id: Unique; nodes know what they keep between rounds by it.
        history: What the experiment has done, as records.

    Raises:
        FedplugError: An argument is wrong, no node connects, or no data set matches. If several arguments are
            wrong, it is a `SettingsError` that lists them all.
    """

    @known_arguments
    def __init__(
        self,
        tags: str | Sequence[str] | None = None,
        nodes: Sequence[str] | None = None,
        training_data: FederatedDataset | Mapping[str, Any] | None = None,
        training_plan_class: type | str | None = None,
        model_args: Mapping[str, Any] | None = None,
        training_args: Mapping[str, Any] | TrainingArgs | None = None,
        aggregator: str | type[Aggregator] | Aggregator | None = None,
        node_selection_strategy: str | type[Strategy] | Strategy | None = None,
        round_limit: int | None = None,
        tensorboard: bool = False,
        save_breakpoints: bool = False,
        experimentation_folder: str | None = None,
        *,
        training_plan_path: str | os.PathLike[str] | None = None,
        agg_optimizer: str | type[AggOptimizer] | AggOptimizer | None = None,
        test_ratio: float | None = None,
        test_metric: str | Sequence[str] | None = None,
        test_metric_args: Mapping[str, Any] | None = None,
        test_on_local_updates: bool | None = None,
        test_on_global_updates: bool | None = None,
        retain_full_history: bool = False,
        monitor: Monitor | None = None,
        transport: str | NodePool | None = None,
        seed: int | None = None,
        min_nodes: int | None = None,
        connect_timeout: float = 30.0,
        progress: str = "auto",
        transport_options: TransportOptions | None = None,
        host: PluginHost | None = None,
    ) -> None:
        problems = check_arguments(
            tags=tags, training_data=training_data, min_nodes=min_nodes, connect_timeout=connect_timeout, seed=seed,
            transport=transport, transport_options=transport_options,
        )  # fmt: skip
        try:
            super().__init__(host or default_host(), progress)
        except FedplugError as error:
            problems.append(("progress", error))
            super().__init__(host or default_host(), "quiet")  # for as long as it takes to look at the others
        if any(name == "seed" for name, _ in problems):
            seed = None
        self.id = uuid.uuid4().hex
        self._seed = secrets.randbits(63) if seed is None else seed
        self._seeds = SeedTree.root(self._seed)
        self._min_nodes, self._connect_timeout = min_nodes, connect_timeout
        self._transport, self._transport_options = transport, transport_options or TransportOptions()
        self._pool: NodePool | None = None
        self._first_attempt = self._attempt = 0
        self._given_up = set[str]()
        self._privacy = PrivacyLedger()
        self._acked = {}
        self._kept = {}
        self._plan_path = None if training_plan_path is None else Path(training_plan_path)
        self._take_history(History())
        self._monitors.add(StatusMonitor(lambda: self.pool().traffic(), lambda: self.pool().description))
        self._apply(
            problems,
            ("tensorboard", tensorboard, self.set_tensorboard),
            ("monitor", monitor, self.set_monitor),
            ("save_breakpoints", save_breakpoints, self.set_save_breakpoints),
            ("retain_full_history", retain_full_history, self.set_retain_full_history),
            ("experimentation_folder", experimentation_folder, self.set_experimentation_folder),
            ("model_args", model_args, self.set_model_args),
            (
                "training_plan_path",
                None if training_plan_class is not None else training_plan_path,
                self.set_training_plan_path,
            ),
            ("training_plan_class", training_plan_class, self.set_training_plan_class),
            ("training_args", training_args, self.set_training_args),
            ("test_ratio", test_ratio, lambda ratio: self.set_test_ratio(ratio, self.test_ratio()[1])),
            ("test_metric", test_metric, lambda metric: self.set_test_metric(metric, **(test_metric_args or {}))),
            ("test_metric_args", None if test_metric is not None else test_metric_args, self.set_test_metric_args),
            ("test_on_local_updates", test_on_local_updates, self.set_test_on_local_updates),
            ("test_on_global_updates", test_on_global_updates, self.set_test_on_global_updates),
            ("strategy", node_selection_strategy, self.set_strategy),
            ("agg_optimizer", agg_optimizer, self.set_agg_optimizer),
            ("aggregator", aggregator, self.set_aggregator),
            ("round_limit", round_limit, self.set_round_limit),
            ("nodes", nodes, self.set_nodes),
            ("training_data", training_data, self.set_training_data),
        )
        if tags is not None:
            try:
                self.set_tags(tags)
            except BaseException:
                self.close()  # a constructor that fails must not keep the port
                raise

    def _apply(self, problems: Problems, *settings: tuple[str, Any, Callable[[Any], object]]) -> None:
        """Call the setters of all arguments that were given, and tell all that is wrong at once, ``problems`` too."""
        for name, value, setter in settings:
            if value is not None:
                try:
                    setter(value)
                except FedplugError as error:
                    problems.append((name, error))
        if not problems:
            return
        self.close()
        if len(problems) == 1:
            raise problems[0][1]
        texts = [
            f"{error.message} {error.cure}".strip() + (f" (set_{name})" if hasattr(self, f"set_{name}") else "")
            for name, error in problems
        ]
        raise SettingsError("The experiment cannot be set up:", texts) from problems[0][1]

    # what can be looked at ---------------------------------------------------------------------------------

    def seed(self) -> int:
        """The root of all random streams of this experiment."""
        return self._seed

    def pool(self) -> NodePool:
        """The nodes, as this experiment reaches them; opened on first use.

        Raises:
            AddressError: The address cannot be used, or no installed plugin offers this kind of transport.
            KeysError: Your keys cannot be used.
        """
        if self._pool is None:
            if isinstance(self._transport, NodePool):
                self._pool = self._transport
            else:
                # the network is needed only now; a simulation never loads it
                from fedplug.researcher.keys import usual_address
                from fedplug.researcher.listening import listen

                self._pool = listen(self._transport or usual_address(), self.host, self._transport_options)
        return self._pool

    def experimentation_path(self) -> Path:
        """The experiment's folder; created on first use."""
        if self._folder is None:
            self._folder = make_experiment_folder(self._folder_name)
        return self._folder

    @property
    def tensorboard_results_path(self) -> Path:
        """Where TensorBoard logs go: ``tensorboard --logdir`` takes it."""
        return self.experimentation_path() / "runs"

    def info(self) -> ExperimentInfo:
        """Print all settings as a table, with what is missing to run, and return it.

        The table is a dict of setting → value with an attribute ``missing``; ``str`` of it is what was printed.
        """
        found = describe(self)
        print(found)  # noqa: T201 - this is what it is for
        return found

    # what the settings need --------------------------------------------------------------------------------

    def _make_plan(self, plan_class: type[TrainingPlan]) -> TrainingPlan:
        """A plan whose model is initialised from the experiment's seed."""
        plan = plan_class()
        given = self._training_args.random_seed
        with plan_class.seeded(self._seeds.child("init").seed63() if given is None else given):
            plan.setup(PlanSetup(self._model_args, self._training_args), with_optimizer=False)
        return plan

    # breakpoints -------------------------------------------------------------------------------------------

    @classmethod
    @known_arguments
    def load_breakpoint(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        transport: str | NodePool | None = None,
        aggregator: str | type[Aggregator] | Aggregator | None = None,
        agg_optimizer: str | type[AggOptimizer] | AggOptimizer | None = None,
        node_selection_strategy: str | type[Strategy] | Strategy | None = None,
        monitor: Monitor | None = None,
        min_nodes: int | None = None,
        connect_timeout: float | None = None,
        progress: str = "auto",
        transport_options: TransportOptions | None = None,
        host: PluginHost | None = None,
        trusted: bool = False,
    ) -> Experiment:
        """The experiment as it was after a round, ready to run on; to the bit as if undisturbed.

        It keeps its folder, its id and its seed. The nodes are looked for; what differs there from what the
        breakpoint says is told in a warning (`FedplugWarning`) and changes nothing.

        Args:
            path: A breakpoint's folder; or an experiment's folder, or its name, for its last breakpoint; None
                for the last breakpoint of the experiment that was saved last.
            transport: As for `Experiment`; by default the address that the experiment listened at.
            aggregator: Needed only where the breakpoint cannot say how to make it: an object or class that no
                installed plugin offers.
            agg_optimizer: Likewise.
            node_selection_strategy: Likewise.
            monitor: As for `Experiment`.
            min_nodes: As for `Experiment`; by default as it was.
            connect_timeout: As for `Experiment`; by default as it was.
            progress: As for `Experiment`.
            transport_options: As for `Experiment`.
            host: As for `Experiment`.
            trusted: Whether to load a breakpoint that other users of this machine could have written. It holds the
                source of the training plan, which is executed.

        Raises:
            BreakpointError: There is none, it is damaged, or something in it cannot be made again.
            TransportError: The address cannot be used.
        """
        place, saved = read_latest(find_breakpoints(path), trusted=trusted)
        snapshot = saved.snapshot
        if transport is None and snapshot.transport is None:
            raise BreakpointError(
                "The experiment of this breakpoint reached its nodes through an object, such as a simulation's "
                "Federation, which a breakpoint cannot hold.",
                cure="Make it again, and call load_breakpoint(..., transport=...).",
            )
        transport = (snapshot.transport or None) if transport is None else transport
        experiment = cls(
            transport=transport, seed=int(snapshot.seed), monitor=monitor, progress=progress, host=host,
            min_nodes=snapshot.min_nodes if min_nodes is None else min_nodes,
            connect_timeout=snapshot.connect_timeout if connect_timeout is None else connect_timeout,
            transport_options=transport_options,
        )  # fmt: skip
        try:
            experiment._restore(saved, place.parent, aggregator, agg_optimizer, node_selection_strategy)
            # Nodes have seen numbers of before, for any round that another way from this breakpoint has reached: none
            # of them may be used again, now or later.
            experiment._first_attempt = experiment._attempt = 1 + secrets.randbelow(2**30)
            experiment._tell_differences(snapshot.fedplug)
        except BaseException:
            experiment.close()
            raise
        return experiment

    def _forget_acknowledged(self) -> None:
        self._acked = {}

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
        plan = self._bundle.class_name if self._bundle else "no training plan"
        limit = "no limit" if self._round_limit is None else self._round_limit
        return f"Experiment({plan}, {self._round_current} of {limit} rounds, {len(self._training_data or ())} nodes)"
