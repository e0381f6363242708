"""Breakpoints of an experiment: what is written down after a round, and how an experiment goes on from it."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fedplug import __version__
from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import Aggregator
from fedplug.core.crash_points import crash_point
from fedplug.core.errors import BreakpointError, FedplugWarning, SettingsError, UsageError
from fedplug.core.messages import NodeInfo
from fedplug.core.params import Params
from fedplug.core.plain_state import freeze, thaw
from fedplug.core.plan_source import load_plan
from fedplug.core.privacy_ledger import PrivacyLedger
from fedplug.core.strategy import Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.researcher.breakpoints import cannot_save, write_breakpoint
from fedplug.researcher.component_records import bundle_of, component_record, load_state, remake
from fedplug.researcher.experiment_results import ExperimentResults
from fedplug.researcher.federated_dataset import FederatedDataset
from fedplug.researcher.history import History
from fedplug.researcher.node_check import ask_nodes, differences
from fedplug.researcher.privacy_file import load_ledger
from fedplug.researcher.round_journal import RoundJournal
from fedplug.researcher.round_log import LogPlace, RoundLog
from fedplug.researcher.search import usable_nodes
from fedplug.researcher.settings.base import QUERIES
from fedplug.researcher.snapshot import VERSION, Acked, PlanRecord, Saved, Snapshot

T = TypeVar("T")

_UNSAVED = "could not be written down"


class Resumable(ExperimentResults):
    """The part of an experiment that writes breakpoints and takes over what they hold."""

    _seed: int
    _transport: Any
    _acked: dict[str, Acked]
    _privacy: PrivacyLedger
    _log: RoundLog | None = None
    _last_breakpoint: int = -1
    _saved_rounds: int = -1  # so many rounds are in a breakpoint on the disk
    _journal: RoundJournal | None = None
    _kept: dict[int, str]
    _unwritable_told = False

    def _take_history(self, history: History) -> None:
        """Let ``history`` be the experiment's, and follow the training."""
        self.history = self._monitors.replace(getattr(self, "history", None), history)

    def breakpoint(self) -> Path:
        """Save a breakpoint now, and return its folder. ``save_breakpoints`` does it after each round.

        Raises:
            UsageError: Something that the experiment was given cannot be written down, such as an object in
                ``model_args``.
            StoreError: The disk is full, or the folder cannot be written.
        """
        if problems := self._folder_problems():
            raise SettingsError("A breakpoint cannot be saved. Missing:", problems)
        folder = self.experimentation_path()
        if self._log is None:
            self._log = RoundLog(folder)
        history = self.history
        try:
            place = self._log.append(_lines(history.unsaved()), lambda: _lines(history.to_plain()["rounds"]))
        except OSError as error:
            raise cannot_save(folder, error) from error
        self.history.saved()
        snapshot, arrays = self._snapshot(folder.name, place)
        text, number = self._bundle.text if self._bundle else "", self._round_current
        path = write_breakpoint(folder, snapshot, arrays, text, replace=self._last_breakpoint == number)
        crash_point("breakpoint-written")
        self._last_breakpoint = self._saved_rounds = number
        if self._journal is not None:
            self._journal.forget_updates()
        self._tell_unwritable(snapshot)
        return path

    def _folder_problems(self) -> list[str]:
        """Whether breakpoints of another experiment lie where this one's would go."""
        return []

    def _unsaveable(self) -> list[str]:
        """What would keep a breakpoint from being saved, before a round is trained in vain."""
        problems = []
        for what, value in (
            ("model_args", self._model_args),
            ("the strategy's state", self._strategy.state_dict()),
            ("the aggregator's state", self.aggregator().state_dict()),
            ("the optimizer's state", self._agg_optimizer.state_dict() if self._agg_optimizer else {}),
        ):
            try:
                freeze(value, [], what)
            except UsageError as error:
                problems.append(
                    f"something that can be saved: {error.message} set_save_breakpoints(False) does without."
                )
        return problems

    def _tell_unwritable(self, snapshot: Snapshot) -> None:
        """Warn, once, of what the breakpoints cannot make again, while it is easy to mend."""
        if self._unwritable_told:
            return
        for argument, record in (
            ("aggregator", snapshot.aggregator),
            ("node_selection_strategy", snapshot.strategy),
            ("agg_optimizer", snapshot.agg_optimizer),
        ):
            if record is None or record.config is not None:
                continue
            self._unwritable_told = True
            name = record.type.rpartition(".")[2]
            warnings.warn(
                f"Breakpoints cannot say how to make {name} again: {record.problem}\n"
                "Store each argument of its __init__ under its own name (self.k = k for an argument k), as plain data; "
                f"or make the object yourself when you go on: load_breakpoint(..., {argument}=...). What it has learnt "
                "is in the breakpoint either way.",
                FedplugWarning,
                stacklevel=3,
            )

    def _snapshot(self, folder: str, place: LogPlace) -> tuple[Snapshot, list[Params]]:
        arrays: list[Params] = []
        if self._bundle is not None:
            freeze(self.params(), arrays)
        bundle, data, optimizer = self._bundle, self._training_data, self._agg_optimizer
        snapshot = Snapshot(
            version=VERSION,
            fedplug=__version__,
            saved=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            experiment_id=self.id,
            folder=folder,
            seed=str(self._seed),
            round_current=self._round_current,
            round_limit=self._round_limit,
            tags=None if self._tags is None else tuple(self._tags),
            nodes=None if self._nodes is None else tuple(self._nodes),
            training_data={} if data is None else data.data(),
            node_names={} if data is None else data.names(),
            plan=None if bundle is None else PlanRecord(
                class_name=bundle.class_name, source=bundle.source, dependencies=bundle.dependencies,
                helpers=bundle.helpers, hash=bundle.hash,
            ),
            model_args=freeze(self._model_args, arrays, "model_args"),
            training_args=self._training_args.dict(),
            wanted_tests=tuple(sorted(self._wanted_tests)),
            aggregator=component_record("aggregator", self.aggregator(), self.host, arrays),
            agg_optimizer=(
                component_record("agg_optimizer", optimizer, self.host, arrays) if optimizer is not None else None
            ),
            strategy=component_record("strategy", self._strategy, self.host, arrays),
            privacy=freeze(self._privacy.state_dict(), arrays, "the account of privacy"),
            acked=dict(self._acked),
            kept=dict(self._kept),
            weights_matter=self._weights_matter,
            tensorboard=self._tensorboard,
            save_breakpoints=self._save_breakpoints,
            retain_full_history=self._retain_full_history,
            transport=self._transport or "" if isinstance(self._transport, str | None) else None,
            min_nodes=self._min_nodes,
            connect_timeout=self._connect_timeout,
            history=self.history.to_plain(rounds=False),
            rounds=place,
            has_params=bool(self._bundle),
            arrays=len(arrays),
            journal=self._journal.note() if self._journal is not None else None,
        )  # fmt: skip
        return snapshot, arrays

    def _restore(
        self,
        saved: Saved,
        folder: Path,
        aggregator: Any = None,
        agg_optimizer: Any = None,
        node_selection_strategy: Any = None,
    ) -> None:
        """Take over what a breakpoint holds, apart from what was given to the constructor.

        Raises:
            BreakpointError: Something of it cannot be made again.
            JournalError: The journal beside it is damaged.
            StoreError: Another process goes on with the experiment.
            FedplugError: A part of it is refused by its setter.
        """
        snapshot, arrays = saved.snapshot, saved.arrays
        self.id, self._folder, self._folder_name = snapshot.experiment_id, folder, folder.name
        self._round_current, self._round_limit = snapshot.round_current, snapshot.round_limit
        self._saved_rounds = snapshot.round_current
        self._journal = RoundJournal(folder, snapshot.journal)
        self._journal.check(snapshot.round_current)
        self._tags = None if snapshot.tags is None else list(snapshot.tags)
        self._nodes = None if snapshot.nodes is None else list(snapshot.nodes)
        if snapshot.training_data:
            named = {node: NodeInfo(node_id=node, name=name) for node, name in snapshot.node_names.items()}
            self._training_data = FederatedDataset(snapshot.training_data, named)
        self._model_args = thaw(snapshot.model_args, arrays)
        self._training_args = TrainingArgs.from_dict(snapshot.training_args)
        self._wanted_tests = set(snapshot.wanted_tests)
        if snapshot.plan is not None:
            self._bundle = bundle_of(snapshot.plan)
            self._plan_class = load_plan(self._bundle)
        self._params = arrays[0] if snapshot.has_params and arrays else None
        self._kept = dict(snapshot.kept)
        self._weights_matter = snapshot.weights_matter
        load_ledger(self._privacy, folder, self.id, thaw(snapshot.privacy, arrays))
        self._acked = dict(snapshot.acked)
        self.set_tensorboard(snapshot.tensorboard)
        self.set_save_breakpoints(snapshot.save_breakpoints)
        self.set_retain_full_history(snapshot.retain_full_history)
        self._log = RoundLog.go_on(folder, snapshot.rounds, saved.rounds)
        try:
            rounds = [msgspec.json.decode(line) for line in saved.rounds.splitlines()]
        except msgspec.MsgspecError as error:
            raise BreakpointError(f"The rounds of the breakpoint cannot be read: {error}.") from None
        self._take_history(History.from_plain({**snapshot.history, "rounds": rounds}))
        self._aggregator = remake(
            "aggregator", "aggregator", snapshot.aggregator, aggregator,
            Aggregator, self.host,  # type: ignore[type-abstract]
        )  # fmt: skip
        self._strategy = remake(
            "strategy", "node_selection_strategy", snapshot.strategy, node_selection_strategy,
            Strategy, self.host,  # type: ignore[type-abstract]
        )  # fmt: skip
        if snapshot.agg_optimizer is not None:
            record = snapshot.agg_optimizer
            self._agg_optimizer = remake(
                "agg_optimizer", "agg_optimizer", record, agg_optimizer,
                AggOptimizer, self.host,  # type: ignore[type-abstract]
            )  # fmt: skip
            load_state(self._agg_optimizer, record, arrays)
        elif agg_optimizer is not None:
            self.set_agg_optimizer(agg_optimizer)
        load_state(self._aggregator, snapshot.aggregator, arrays)
        load_state(self._strategy, snapshot.strategy, arrays)

    def _tell_differences(self, version: str) -> None:
        """Look for the nodes of a breakpoint, and warn about what is not as it was."""
        found = [] if version == __version__ else [f"FedPlug was {version} and is now {__version__}."]
        data = self._training_data
        if data is not None:
            pool = self.pool()
            wanted = usable_nodes(data, self._nodes, {})
            self._monitors.message(f"Waiting at {pool.description} for {', '.join(wanted)} ...")
            cards = ask_nodes(pool, next(QUERIES), wanted, self._connect_timeout)
            found += differences(data, cards, {node: info.name for node, info in pool.nodes.items()}, self._tags)
        if found:
            listed = "\n".join(f"  - {text}" for text in found)
            warnings.warn(
                f"Since the breakpoint was saved:\n{listed}\nset_training_data(None, from_tags=True) takes the nodes "
                "as they are now; run() goes on with those of the breakpoint, and the strategy decides about nodes "
                "that are away.",
                FedplugWarning,
                stacklevel=3,
            )


def _lines(entries: list[Any]) -> list[bytes]:
    return [msgspec.json.encode(entry) for entry in entries]
