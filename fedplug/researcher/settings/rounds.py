"""Settings of the rounds: who trains, what becomes of the updates, how many rounds, what is kept and shown."""

from __future__ import annotations

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator
from fedplug.core.errors import UsageError
from fedplug.core.monitor import Monitor
from fedplug.core.numbers import is_whole
from fedplug.core.strategy import DefaultStrategy, Strategy
from fedplug.researcher.folders import check_folder_name
from fedplug.researcher.monitors import MonitorGroup
from fedplug.researcher.settings.base import SettingsBase, checked_flag
from fedplug.researcher.shown import shown


class RoundSettings(SettingsBase):
    """What happens in a round, and around it."""

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

    def set_agg_optimizer(
        self, agg_optimizer: str | type[AggOptimizer] | AggOptimizer | None = None
    ) -> AggOptimizer | None:
        """How far the global model moves towards the aggregate: an optimizer, its class or its name; None: all the way.

        Raises:
            UsageError: It is no such optimizer.
            UnknownNameError: No installed plugin offers an optimizer of that name.
        """
        chosen: object = agg_optimizer
        if isinstance(chosen, str):
            chosen = self.host.component("agg_optimizer", chosen)
        made = self._made(chosen) if isinstance(chosen, type) else chosen
        if made is not None and not isinstance(made, AggOptimizer):
            raise UsageError(
                f"agg_optimizer must be an optimizer for the researcher or None, got {shown(agg_optimizer)}.",
                cure="Use fedplug_declearn.Optimizer, or derive from fedplug.AggOptimizer; an optimizer of the nodes "
                "goes into the plan's init_optimizer.",
            )
        self._agg_optimizer = made
        return made

    def agg_optimizer(self) -> AggOptimizer | None:
        """The researcher's optimizer; None if there is none."""
        return self._agg_optimizer

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

    # rounds ------------------------------------------------------------------------------------------------

    def set_round_limit(self, round_limit: int | None) -> int | None:
        """The number of rounds after which ``run`` stops; None for no limit.

        Raises:
            UsageError: It is not a whole number, or more rounds than that are done already.
        """
        if round_limit is not None:
            if not is_whole(round_limit, 0):
                raise UsageError(f"round_limit must be a whole number or None, got {shown(round_limit)}.")
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

    # what is kept ------------------------------------------------------------------------------------------

    def set_save_breakpoints(self, save_breakpoints: bool) -> bool:
        """Whether a breakpoint is saved after each round from now on; see ``load_breakpoint``.

        Raises:
            UsageError: Not a boolean.
        """
        self._save_breakpoints = checked_flag("save_breakpoints", save_breakpoints)
        return save_breakpoints

    def save_breakpoints(self) -> bool:
        """Whether a breakpoint is saved after each round."""
        return self._save_breakpoints

    def set_retain_full_history(self, retain_full_history: bool) -> bool:
        """Whether the global parameters of every round from now on stay on disk, for ``aggregated_params``.

        Raises:
            UsageError: Not a boolean.
        """
        self._retain_full_history = checked_flag("retain_full_history", retain_full_history)
        return retain_full_history

    def retain_full_history(self) -> bool:
        """Whether the global parameters of every round stay on disk."""
        return self._retain_full_history

    def set_experimentation_folder(self, experimentation_folder: str | None = None) -> str | None:
        """The name of the experiment's folder; None for the next free ``Experiment_0001`` and so on.

        Raises:
            UsageError: It cannot be the name of a folder, or the experiment has a folder already.
        """
        if experimentation_folder is not None:
            if not isinstance(experimentation_folder, str):
                raise UsageError(f"experimentation_folder must be a name, got {shown(experimentation_folder)}.")
            check_folder_name(experimentation_folder)
        if self._folder is not None and experimentation_folder != self._folder.name:
            raise UsageError(
                f"The experiment keeps its files in {self._folder} already.",
                cure="Set the folder before the first run.",
            )
        self._folder_name = experimentation_folder
        return experimentation_folder

    def experimentation_folder(self) -> str | None:
        """The name of the experiment's folder; None while it is not decided."""
        return self._folder_name if self._folder is None else self._folder.name

    # what is shown -----------------------------------------------------------------------------------------

    def set_tensorboard(self, tensorboard: bool) -> bool:
        """Whether TensorBoard logs are written, from the next ``run`` on.

        Raises:
            UsageError: Not a boolean.
        """
        self._tensorboard = checked_flag("tensorboard", tensorboard)
        return tensorboard

    def tensorboard(self) -> bool:
        """Whether TensorBoard logs are written."""
        return self._tensorboard

    def set_monitor(self, tensorboard: bool | Monitor = True) -> MonitorGroup:
        """Switch TensorBoard logs on or off; or have a monitor of your own told about everything from now on.

        Raises:
            UsageError: It is neither a boolean nor a monitor.
        """
        if isinstance(tensorboard, Monitor):
            self.add_monitor(tensorboard)
        elif not isinstance(tensorboard, bool):
            raise UsageError(
                f"monitor must be a monitor, or True or False for TensorBoard logs, got {shown(tensorboard)}.",
                cure="Derive a monitor of your own from fedplug.Monitor.",
            )
        else:
            self.set_tensorboard(tensorboard)
        return self.monitor()

    def add_monitor(self, monitor: Monitor) -> None:
        """Have ``monitor`` told about everything from now on.

        Raises:
            UsageError: It is not a monitor.
        """
        self._monitors.add(monitor)

    def monitor(self) -> MonitorGroup:
        """All monitors of this experiment, as one."""
        return self._monitors
