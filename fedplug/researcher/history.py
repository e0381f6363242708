"""What an experiment has done, as records: every metric, time and count of every node and round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import CodecError, UsageError
from fedplug.core.messages import Progress
from fedplug.core.monitor import Monitor
from fedplug.core.plain_state import freeze, thaw
from fedplug.researcher.history_entries import (
    TEST_GLOBAL,
    NodeEntry,
    RoundEntry,
    split_name,
)
from fedplug.researcher.progress.text import duration, metric_names, metrics_line, number, one_line, plural
from fedplug.researcher.training_curves import Point, TrainingCurves

if TYPE_CHECKING:
    from pandas import DataFrame

ALL = "all"
"""The ``node_id`` of records about all nodes together. A node's own id is longer, and has its name beside it."""

_VERSION = 1
_COLUMNS = ("round", "node_id", "node", "phase", "metric", "value", "samples", "steps")
_ROUNDS_SHOWN = 20
_METRICS_SHOWN = 6

Record = dict[str, Any]


class History(Monitor):
    """All that is known of the rounds of an experiment. ``Experiment.history`` is one.

    Rounds are counted from 0 here, as in ``Experiment.training_replies()``; texts, pictures and reports for
    people count from 1. Tests of phase ``test_global`` of round r measure the global model with which round r
    began, that is the one that r rounds have made; those of ``test_local`` the node's own model after the
    training of round r.

    It is a monitor as well: through `progress` it keeps the training curves of the nodes, at most 512 points
    of each curve and about 16,384 in all; see `TrainingCurves`. Values that are no single numbers (confusion
    matrices) are kept per node of the latest round only, and over all nodes of all rounds unless they hold
    more than 10,000 numbers.
    """

    def __init__(self) -> None:
        self._rounds: dict[tuple[int, bool], RoundEntry] = {}  # round, trained
        self._latest = (-1, True)  # the entry that was added last; all others are slim
        self._names: dict[str, str] = {}
        self._curves = TrainingCurves()
        self._unsaved: list[tuple[int, bool]] = []

    # filling -----------------------------------------------------------------------------------------------

    def add_round(
        self, ctx: RoundContext, result: RoundResult, names: Mapping[str, str] | None = None, *, trained: bool = True
    ) -> None:
        """Note a finished round. One that is there already is replaced.

        Args:
            ctx: Which round.
            result: What came out of it.
            names: Node id → name, as far as names are known.
            trained: False for an evaluation without training; ``ctx.round`` is then the round that would come next.
        """
        entry = RoundEntry.build(ctx, result, trained)
        self._names.update({node: str(name) for node, name in (names or {}).items() if name})
        if self._latest in self._rounds:
            self._rounds[self._latest] = self._rounds[self._latest].slim()
        self._latest = ctx.round, trained
        is_last = not self._rounds or self._latest > next(reversed(self._rounds))
        self._rounds[self._latest] = entry
        self._unsaved.append(self._latest)
        if not is_last:
            self._rounds = dict(sorted(self._rounds.items()))
        if trained:
            self._curves.end({node: reply.steps for node, reply in entry.nodes.items()})

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Get ready for the training curves of a round."""
        self._curves.begin(ctx.round)

    def progress(self, node_id: str, progress: Progress) -> None:
        """Note a point of a node's training curves."""
        if progress.phase == "train":
            self._curves.add(node_id, progress.key.round, progress.step, progress.metrics)

    # reading -----------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Everything, flat: one dict for each round, node (or ``"all"``), phase and metric.

        The keys are ``round`` (from 0), ``node_id`` (``"all"`` for all nodes together), ``node`` (its name),
        ``phase`` (``train``, ``test_global``, ``test_local``, ``timing``, ``traffic``, ``privacy``), ``metric``,
        ``value`` (a number; a list of lists for a confusion matrix), ``samples`` and ``steps``. Times are in
        seconds, traffic in bytes.

        A test of an evaluation without training is left out where the round of that number has measured
        the same.
        """
        return [record for _, record in self.owned_records()]

    def owned_records(self) -> list[tuple[str | None, Record]]:
        """The records, each with the id of its node, or None for all nodes together (a node may be called "all")."""
        found: dict[tuple[Any, ...], tuple[str | None, Record]] = {}
        for entry in self._rounds.values():  # an evaluation stands before the training of the same number
            for record in _node_records(entry, self._names):
                found[_place(record)] = record["node_id"], record
            for record in _common_records(entry):
                found[(*_place(record), ALL)] = None, record
        return list(found.values())

    def rounds(self) -> list[Record]:
        """A summary of each round.

        The keys are ``round`` (from 0), ``trained`` (false for an evaluation), ``nodes`` (ids that count),
        ``dropped`` (id → reason), ``samples``, ``steps``, ``seconds``, ``traffic`` (bytes by name), ``metrics``
        (over all nodes, by their full names such as ``test_global_accuracy``) and ``roll`` (what happened to the
        nodes, one after the other: ``seconds`` since the round began, ``node_id``, ``event``, ``reason``).
        """
        return [
            {
                "round": entry.round,
                "trained": entry.trained,
                "nodes": list(entry.nodes),
                "dropped": dict(entry.dropped),
                "samples": _total(entry, "samples"),
                "steps": _total(entry, "steps"),
                "seconds": entry.seconds,
                "traffic": dict(entry.traffic),
                "metrics": dict(entry.metrics),
                "roll": [msgspec.structs.asdict(row) for row in entry.roll],
            }
            for entry in self._rounds.values()
        ]

    def frame(self) -> DataFrame:
        """The records that are numbers as a pandas frame, a column for each key.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError(
                f"history.frame() needs pandas, which cannot be imported ({error}).",
                cure="pip install pandas, or use history.records(), which needs nothing.",
            ) from error
        rows = [record for record in self.records() if isinstance(record["value"], int | float)]
        table = pd.DataFrame(rows, columns=list(_COLUMNS))
        kinds = dict.fromkeys(("round", "samples", "steps"), "int64") | {"value": "float64"}
        return table.astype(kinds)

    def names(self) -> dict[str, str]:
        """Node id → name of every node that has taken part; the id where no name is known."""
        ids = {node for entry in self._rounds.values() for node in (*entry.nodes, *entry.dropped)}
        return {node: self._names.get(node) or node for node in sorted(ids)}

    def curves(self, metric: str = "loss") -> dict[str, list[Point]]:
        """Training curves: node id → (round, optimizer steps of the node over all rounds, value) in order."""
        return self._curves.points(metric)

    def steps(self) -> dict[str, int]:
        """Node id → optimizer steps that it has made in all complete rounds."""
        return self._curves.steps()

    def values(self, name: str) -> Any:
        """The latest value over all nodes of that full name, such as ``test_global_confusion_matrix``; or None."""
        return next((entry.values[name] for entry in reversed(self._rounds.values()) if name in entry.values), None)

    def value_names(self) -> list[str]:
        """The full names of all values over all nodes that are no single numbers."""
        return sorted({name for entry in self._rounds.values() for name in entry.values})

    # for breakpoints ---------------------------------------------------------------------------------------

    def unsaved(self) -> list[Any]:
        """The rounds and evaluations that were added since `saved`, each as data that JSON can hold, in order."""
        return [freeze(msgspec.to_builtins(self._rounds[key]), []) for key in self._unsaved]

    def saved(self) -> None:
        """What `unsaved` gave lies on a disk."""
        self._unsaved.clear()

    def to_plain(self, *, rounds: bool = True) -> dict[str, Any]:
        """Everything as data that JSON can hold; NaN and infinity too.

        Args:
            rounds: Whether with the rounds; if not, `from_plain` needs them, under this name, of `unsaved`.
        """
        plain = {
            "version": _VERSION,
            "latest": list(self._latest),
            "names": dict(sorted(self._names.items())),
            "training": freeze(self._curves.to_plain(), []),
        }
        if rounds:
            plain["rounds"] = [freeze(msgspec.to_builtins(entry), []) for entry in self._rounds.values()]
        return plain

    @classmethod
    def from_plain(cls, plain: Any) -> History:
        """The history that `to_plain` was called of.

        Raises:
            CodecError: ``plain`` is something else.
        """
        try:
            checked = msgspec.convert(thaw(plain, ()), _Plain)
            curves = TrainingCurves.from_plain(checked.training)
        except msgspec.ValidationError as error:
            raise CodecError(f"This is no history: {error}.", cure="Was the file changed by hand?") from None
        new = cls()
        new._latest = checked.latest
        entries = {(entry.round, entry.trained): entry for entry in checked.rounds}
        new._rounds = {key: e if key == new._latest else e.slim() for key, e in sorted(entries.items())}
        new._names, new._curves = checked.names, curves
        return new

    def replies(self) -> dict[int, dict[str, dict[str, Any]]]:
        """What nodes replied in the rounds of training: round → node id → record."""
        return {
            number: {node: part.record(node, number) for node, part in entry.nodes.items()}
            for (number, trained), entry in self._rounds.items()
            if trained
        }

    # for people --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of rounds of training."""
        return sum(entry.trained for entry in self._rounds.values())

    def __bool__(self) -> bool:
        return bool(self._rounds)

    def __repr__(self) -> str:
        if not self._rounds:
            return "History(no rounds yet)"
        latest: dict[str, float] = {}  # a test without training has no loss: that of the last round stands
        for entry in list(self._rounds.values())[-2:]:
            latest |= entry.metrics
        metrics = f"; last {metrics_line(latest)}" if latest else ""
        return f"History({plural(len(self), 'round')}, {plural(len(self.names()), 'node')}{metrics})"

    def _repr_html_(self) -> str:
        """A table of the last rounds, for notebooks."""
        shown = list(self._rounds.values())[-_ROUNDS_SHOWN:]
        every = metric_names({name: 0.0 for entry in shown for name in entry.metrics})
        names = every[:_METRICS_SHOWN]
        head = ["round", "nodes", "dropped", "time", *(one_line(name, 40) for name in names)]
        rows = [
            [
                f"{entry.round + 1}" if entry.trained else f"test after {entry.round}",
                f"{len(entry.nodes)}",
                f"{len(entry.dropped)}",
                duration(entry.seconds),
                *(number(entry.metrics.get(name)) for name in names),
            ]
            for entry in shown
        ]
        left = len(self._rounds) - len(shown)
        note = f"<p>{plural(left, 'earlier round')} not shown</p>" if left else ""
        if more := len(every) - len(names):
            note += f"<p>and {plural(more, 'more metric')}: records() has all</p>"
        return (
            f"<p>{escape(repr(self))}</p>{note}<table><thead><tr>"
            + "".join(f"<th>{escape(cell)}</th>" for cell in head)
            + "</tr></thead><tbody>"
            + "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            + "</tbody></table>"
        )

    def entries(self) -> list[RoundEntry]:
        """The rounds and evaluations as they are kept, in order."""
        return list(self._rounds.values())


class _Plain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=_VERSION, le=_VERSION)]
    latest: tuple[int, bool]
    names: dict[str, str]
    rounds: list[RoundEntry]
    training: Any


def _node_records(entry: RoundEntry, names: Mapping[str, str]) -> Iterator[Record]:
    for node_id, node in entry.nodes.items():
        about = {"node_id": node_id, "node": names.get(node_id) or node_id}
        counts = {"samples": node.samples, "steps": node.steps}
        for phase, metric, value in _figures(node):
            yield _record(entry, about, phase, metric, value, counts)


def _common_records(entry: RoundEntry) -> Iterator[Record]:
    about = {"node_id": ALL, "node": ALL}
    counts = {"samples": _total(entry, "samples"), "steps": _total(entry, "steps")}
    for name, value in {**entry.metrics, **entry.values}.items():
        phase, metric = split_name(name)
        yield _record(entry, about, phase, metric, value, counts)
    yield _record(entry, about, "timing", "round", entry.seconds, counts)
    for name, size in entry.traffic.items():
        yield _record(entry, about, "traffic", name, size, counts)


def _figures(node: NodeEntry) -> Iterator[tuple[str, str, Any]]:
    for name, value in {**node.metrics, **node.values}.items():
        yield *split_name(name), value
    for name, value in node.timing.items():
        yield "timing", name, value


def _record(
    entry: RoundEntry, about: Mapping[str, str], phase: str, metric: str, value: Any, counts: Mapping[str, int]
) -> Record:
    return {"round": entry.round, **about, "phase": phase, "metric": metric, "value": value, **counts}


def _place(record: Record) -> tuple[Any, ...]:
    return record["round"], record["node_id"], record["phase"], record["metric"]


def _total(entry: RoundEntry, what: str) -> int:
    return sum(getattr(node, what) for node in entry.nodes.values())


def rounds_behind(phase: str, number: int) -> int:
    """Where a figure of round ``number`` (from 0) stands on an axis of rounds: how many rounds have made the model."""
    return number if phase == TEST_GLOBAL else number + 1
