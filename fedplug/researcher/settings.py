"""The settings of an experiment: each with a setter that checks, and a getter.

An experiment can be made empty and configured step by step; `missing` says what is still needed to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fedplug.core.aggregator import Aggregator
from fedplug.core.components import Kind
from fedplug.core.errors import UsageError
from fedplug.core.messages import DatasetCard
from fedplug.core.plan_errors import plan_errors
from fedplug.core.plan_source import PlanBundle, bundle_plan, load_plan
from fedplug.core.plugins import PluginHost
from fedplug.core.pool import NodePool
from fedplug.core.strategy import DefaultStrategy, Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan
from fedplug.researcher.federated_dataset import FederatedDataset

T = TypeVar("T")


class ExperimentSettings:
    """What an experiment is told. `Experiment` adds what it does.

    Args:
        host: The plugins that names are looked up in.
    """

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self._tags: list[str] | None = None
        self._nodes: list[str] | None = None
        self._training_data: FederatedDataset | None = None
        self._plan_class: type | None = None
        self._bundle: PlanBundle | None = None
        self._plan: TrainingPlan | None = None
        self._model_args: dict[str, Any] = {}
        self._training_args = TrainingArgs()
        self._aggregator: Aggregator | None = None
        self._strategy: Strategy = DefaultStrategy()
        self._round_limit: int | None = None
        self._round_current = 0

    # the data ----------------------------------------------------------------------------------------------

    def set_tags(self, tags: str | Sequence[str]) -> list[str]:
        """Choose the data by tags and search for it at once. A single tag may be a plain string.

        Raises:
            UsageError: There is no tag, or one is not a string.
            TransportError: No node connects in time.
            DatasetError: No data set carries all tags, or on some node more than one does.
        """
        before, self._tags = self._tags, _check_tags(tags)
        try:
            self.set_training_data(None, from_tags=True)
        except BaseException:
            self._tags = before
            raise
        return list(self._tags)

    def tags(self) -> list[str] | None:
        """The tags; None if the data was not chosen by tags."""
        return None if self._tags is None else list(self._tags)

    def set_nodes(self, nodes: Sequence[str] | None) -> list[str] | None:
        """Restrict the experiment to these nodes (ids or names); None for all.

        This does not search again; ``set_training_data(None, from_tags=True)`` does.

        Raises:
            UsageError: ``nodes`` is empty or holds something else than strings.
        """
        if nodes is not None and (isinstance(nodes, str) or not _are_words(nodes)):
            raise UsageError(f"nodes must be a list of node ids or names, got {nodes!r}.", cure="None means all.")
        self._nodes = None if nodes is None else list(dict.fromkeys(nodes))
        return self.nodes()

    def nodes(self) -> list[str] | None:
        """The nodes the experiment is restricted to; None for all."""
        return None if self._nodes is None else list(self._nodes)

    def set_training_data(
        self,
        training_data: FederatedDataset | Mapping[str, DatasetCard] | None,
        from_tags: bool = False,
    ) -> FederatedDataset:
        """Set the federated data set by hand, or search for it by the experiment's tags.

        Args:
            training_data: The data sets, one per node; None together with ``from_tags``.
            from_tags: Search with the experiment's tags (and nodes).

        Raises:
            UsageError: Not exactly one of the two is given, or there are no tags to search by.
        """
        if (training_data is None) != from_tags:
            raise UsageError(
                "set_training_data needs either training_data or from_tags=True.",
                cure="set_training_data(None, from_tags=True) searches with the experiment's tags.",
            )
        if training_data is None:
            if self._tags is None:
                raise UsageError("There are no tags to search by.", cure="Call set_tags first.")
            self._training_data = self._search()
        else:
            self._training_data = (
                training_data if isinstance(training_data, FederatedDataset) else FederatedDataset(training_data)
            )
            self._tags = None
        return self._training_data

    def training_data(self) -> FederatedDataset | None:
        """The federated data set, once it is known."""
        return self._training_data

    def _search(self) -> FederatedDataset:
        raise UsageError("These settings are not connected to any node.")

    # the plan ----------------------------------------------------------------------------------------------

    def set_training_plan_class(self, training_plan_class: type | None) -> type | None:
        """Set what is trained: a training plan class, or a bare model class that a plugin can wrap.

        The plan's source is looked up and executed once here, as a node would, so that what cannot travel
        is found now. The model starts anew.

        Raises:
            UsageError: It is not a class, or no plugin knows what to do with it.
            PlanSourceError: Its source cannot be found or executed.
        """
        bundle = None
        if training_plan_class is not None:
            if not isinstance(training_plan_class, type):
                raise UsageError(
                    f"training_plan_class must be a class, got {training_plan_class!r}.",
                    cure="Pass the class itself, not an instance of it.",
                )
            if issubclass(training_plan_class, TrainingPlan):
                bundle = bundle_plan(training_plan_class)
            else:
                bundle = self.host.wrap_model(training_plan_class)
        self._plan_class, self._bundle = training_plan_class, bundle
        self._forget_model()
        return training_plan_class

    def training_plan_class(self) -> type | None:
        """The class that was set."""
        return self._plan_class

    def training_plan_bundle(self) -> PlanBundle | None:
        """The plan as it travels to the nodes; ``.hash`` is its identity, ``.code`` its text."""
        return self._bundle

    def set_model_args(self, model_args: Mapping[str, Any] | None) -> dict[str, Any]:
        """Arguments for the plan's ``init_model``. The model starts anew.

        Raises:
            UsageError: Not a dictionary with string keys.
        """
        args: object = {} if model_args is None else model_args
        if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
            raise UsageError(f"model_args must be a dictionary with string keys, got {model_args!r}.")
        self._model_args = dict(args)
        self._forget_model()
        return self.model_args()

    def model_args(self) -> dict[str, Any]:
        """The model arguments."""
        return dict(self._model_args)

    def set_training_args(self, training_args: Mapping[str, Any] | TrainingArgs | None) -> dict[str, Any]:
        """Arguments for the training at the nodes; a change takes effect in the next round.

        Raises:
            TrainingArgsError: With everything that is wrong.
        """
        if isinstance(training_args, TrainingArgs):
            self._training_args = training_args
        else:
            self._training_args = TrainingArgs.from_dict(training_args or {})
        return self.training_args()

    def training_args(self) -> dict[str, Any]:
        """The training arguments in force, defaults included."""
        return self._training_args.dict()

    # the federation ----------------------------------------------------------------------------------------

    def set_aggregator(self, aggregator: str | type[Aggregator] | Aggregator | None = None) -> Aggregator:
        """How updates become the next model: an aggregator, its class, or its name; None for FedAverage.

        Raises:
            UsageError: It is none of these.
            UnknownNameError: No installed plugin offers an aggregator of that name.
        """
        # the full name: another plugin may call one of its aggregators "fedaverage" too
        chosen = "scaffold:fedaverage" if aggregator is None else aggregator
        self._aggregator = self._component("aggregator", chosen, Aggregator)  # type: ignore[type-abstract]
        return self._aggregator

    def aggregator(self) -> Aggregator:
        """The aggregator."""
        return self._aggregator or self.set_aggregator(None)

    def set_strategy(self, node_selection_strategy: str | type[Strategy] | Strategy | None = None) -> Strategy:
        """Who trains, and what happens if somebody does not: a strategy, its class or its name; None for all.

        Raises:
            UsageError: It is none of these.
            UnknownNameError: No installed plugin offers a strategy of that name.
        """
        chosen = DefaultStrategy() if node_selection_strategy is None else node_selection_strategy
        self._strategy = self._component("strategy", chosen, Strategy)  # type: ignore[type-abstract]
        return self._strategy

    def strategy(self) -> Strategy:
        """The node selection strategy."""
        return self._strategy

    def _component(self, kind: Kind, value: Any, base: type[T]) -> T:
        """The component that ``value`` is, makes, or names."""
        made = self.host.component(kind, value) if isinstance(value, str) else value
        if isinstance(made, type):
            made = made()
        if not isinstance(made, base):
            raise UsageError(
                f"{value!r} is not {'an' if kind[0] in 'aeiou' else 'a'} {kind}.",
                cure=f"Pass an instance or a class that derives from fedplug.{base.__name__}, or the name of an "
                "installed one (fedplug plugins list).",
            )
        return made

    # rounds ------------------------------------------------------------------------------------------------

    def set_round_limit(self, round_limit: int | None) -> int | None:
        """The number of rounds after which ``run`` stops; None for no limit.

        Raises:
            UsageError: It is not a whole number, or more rounds than that are done already.
        """
        if round_limit is not None:
            if not is_whole_number(round_limit, 0):
                raise UsageError(f"round_limit must be a whole number or None, got {round_limit!r}.")
            if round_limit < self._round_current:
                raise UsageError(f"round_limit cannot be {round_limit}: {self._round_current} rounds are done.")
        self._round_limit = round_limit
        return round_limit

    def round_limit(self) -> int | None:
        """The round limit; None if there is none."""
        return self._round_limit

    def round_current(self) -> int:
        """Number of rounds that are complete."""
        return self._round_current

    def missing(self) -> list[str]:
        """What is still needed to run, each with the setter that mends it."""
        problems = []
        if self._training_data is None:
            problems.append("training data: set_tags(...) or set_training_data(...)")
        if self._bundle is None:
            problems.append("a training plan: set_training_plan_class(...)")
        return problems

    def training_plan(self) -> TrainingPlan:
        """The researcher's own instance of the plan, holding the global model.

        Raises:
            UsageError: No training plan class is set.
            PlanRunError: The plan raised while its model was made.
        """
        if self._plan is None:
            if self._bundle is None:
                raise UsageError("There is no training plan yet.", cure="Call set_training_plan_class first.")
            plan_class = load_plan(self._bundle)
            with plan_errors(self._bundle, "init_model"):
                self._plan = self._make_plan(plan_class)
        return self._plan

    def _make_plan(self, plan_class: type[TrainingPlan]) -> TrainingPlan:
        raise UsageError("These settings have no seed to make a model with.")

    def _forget_model(self) -> None:
        self._plan = None


def is_whole_number(value: object, least: int) -> bool:
    """Whether a user's value is an integer (not a truth value) of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_arguments(min_nodes: object, connect_timeout: object, seed: object, transport: object) -> None:
    """Refuse arguments of `Experiment` that have no setter and cannot be what they are said to be.

    Raises:
        UsageError: One is of a wrong kind or out of range; it is named.
    """
    if min_nodes is not None and not is_whole_number(min_nodes, 1):
        raise UsageError(f"min_nodes must be a whole number above zero or None, got {min_nodes!r}.")
    if isinstance(connect_timeout, bool) or not isinstance(connect_timeout, int | float) or not connect_timeout >= 0:
        raise UsageError(f"connect_timeout must be a number of seconds, got {connect_timeout!r}.")
    if seed is not None and not isinstance(seed, int):
        raise UsageError(f"seed must be a whole number or None, got {seed!r}.")
    if transport is not None and not isinstance(transport, str | NodePool):
        raise UsageError(f"transport must be an address or a federation, got {transport!r}.")


def _are_words(values: Iterable[object]) -> bool:
    listed = list(values)
    return bool(listed) and all(isinstance(value, str) and value.strip() for value in listed)


def _check_tags(tags: str | Sequence[str]) -> list[str]:
    listed = [tags] if isinstance(tags, str) else list(tags or [])
    if not _are_words(listed):
        raise UsageError(f"tags must be a string or a list of strings, got {tags!r}.", cure="E.g. ['#breast', '#csv'].")
    return listed
