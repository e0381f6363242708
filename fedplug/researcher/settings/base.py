"""What all groups of settings share: the attributes, and the small checks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator
from fedplug.core.components import Kind
from fedplug.core.errors import UsageError
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.core.pool import NodePool
from fedplug.core.strategy import DefaultStrategy, Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan
from fedplug.researcher.federated_dataset import FederatedDataset
from fedplug.researcher.monitors import MonitorGroup
from fedplug.researcher.shown import shown

T = TypeVar("T")

QUERIES = itertools.count(1)
"""Numbers of searches. A pool may outlive an experiment, and its nodes know a search by its number."""


class SettingsBase:
    """The attributes that setters set.

    Args:
        host: The plugins that names are looked up in.
        progress: How progress is shown.
    """

    def __init__(self, host: PluginHost, progress: str = "auto") -> None:
        self.host = host
        self._monitors = MonitorGroup(progress)
        self._tags: list[str] | None = None
        self._nodes: list[str] | None = None
        self._training_data: FederatedDataset | None = None
        self._plan_class: type | str | None = None
        self._plan_path: Path | None = None
        self._bundle: PlanBundle | None = None
        self._plan: TrainingPlan | None = None
        self._params: Params | None = None
        self._weights_matter = False  # whether the global parameters are more than an initialisation
        self._model_args: dict[str, Any] = {}
        self._training_args = TrainingArgs()
        self._wanted_tests: set[str] = set()  # tests that were switched on before there was data to test on
        self._aggregator: Aggregator | None = None
        self._agg_optimizer: AggOptimizer | None = None
        self._strategy: Strategy = DefaultStrategy()
        self._round_limit: int | None = None
        self._round_current = 0
        self._tensorboard = False
        self._save_breakpoints = False
        self._retain_full_history = False
        self._folder_name: str | None = None
        self._folder: Path | None = None
        self._min_nodes: int | None = None
        self._connect_timeout = 30.0

    def pool(self) -> NodePool:
        """The nodes, as this experiment reaches them."""
        raise UsageError("These settings are not connected to any node.")

    def experimentation_path(self) -> Path:
        """The experiment's folder; created on first use."""
        raise UsageError("These settings have no folder.")

    def seed(self) -> int:
        """The root of all random streams of this experiment."""
        raise UsageError("These settings have no seed.")

    def _arguments_changed(self, before: TrainingArgs) -> None:
        """The training arguments are others than ``before``: what was made by them may have to be made anew."""

    def _forget_acknowledged(self) -> None:
        """What nodes have kept belongs to a model that is gone."""

    def _made(self, component: type) -> Any:
        """An object of a component's class, made without arguments.

        Raises:
            UsageError: It needs some, or cannot be made.
        """
        try:
            return component()
        except TypeError as error:
            raise UsageError(
                f"{component.__name__} cannot be made without arguments: {error}.",
                cure=f"Make it yourself, and pass the object: {component.__name__}(...).",
            ) from error

    def _component(self, kind: Kind, value: Any, base: type[T]) -> T:
        """The component that ``value`` is, makes, or names."""
        made = self.host.component(kind, value) if isinstance(value, str) else value
        if isinstance(made, type):
            made = self._made(made)
        if not isinstance(made, base):
            raise UsageError(
                f"{shown(value)} is not {'an' if kind[0] in 'aeiou' else 'a'} {kind}.",
                cure=f"Pass an instance or a class that derives from fedplug.{base.__name__}, or the name of an "
                "installed one (fedplug plugins list).",
            )
        return made


def checked_flag(name: str, value: object) -> bool:
    """``value``, if it is a truth value.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, got {shown(value)}.")
    return value


def are_words(values: object) -> bool:
    """Whether there is at least one value, and all are text that is not blank."""
    listed = list(values) if isinstance(values, Iterable) else []
    return bool(listed) and all(isinstance(value, str) and value.strip() for value in listed)
