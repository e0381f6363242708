"""The tables of a report: nodes, rounds, privacy, and results that are no pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedplug.researcher import report_parts as parts
from fedplug.researcher.history import History
from fedplug.researcher.history_entries import PRIVACY, NodeEntry, RoundEntry, split_name
from fedplug.researcher.progress.text import duration, is_bound, metric_names, number, plural, size
from fedplug.researcher.series import words

_MOST_METRICS = 6
_MOST_ROUNDS = 100
_MOST_REASONS = 50
_LONGEST_VALUE = 2_000


def nodes_table(history: History) -> str:
    """What each node did, and what of it did not count."""
    entries = [entry for entry in history.entries() if entry.trained] or history.entries()
    names = history.names()
    shown, more = _common_metrics(entries)
    rows: list[list[parts.Cell]] = []
    for node_id, name in names.items():
        done = [entry.nodes[node_id] for entry in entries if node_id in entry.nodes]
        last = done[-1] if done else None
        row: list[parts.Cell] = [
            name if name == node_id else parts.Html(f"{parts.text(name)}<br><small>{parts.text(node_id)}</small>"),
            f"{last.samples:,}" if last else "-",
            f"{sum(node.steps for node in done):,}",
            f"{len(done)} of {len(entries)}",
            duration(sum(_work(node) for node in done)),
        ]
        row += [number(last.metrics.get(metric)) if last else "-" for metric in shown]
        rows.append(row)
    head = ["node", "samples", "steps", "rounds", "time spent", *(_short(name) for name in shown)]
    note = "Metrics are of the last round that a node took part in; its time is its own, without transfer."
    note = f"{note} {more}".rstrip()
    return parts.table(plural(len(rows), "node"), head, rows, note=note, name="people")


def dropped_table(history: History) -> str:
    """Whose work did not count, when and why; empty if all did."""
    names = history.names()
    lost = [
        [names.get(node_id, node_id), str(entry.round + 1) if entry.trained else f"test after {entry.round}", reason]
        for entry in history.entries()
        for node_id, reason in entry.dropped.items()
    ]
    if not lost:
        return ""
    shown = lost[-_MOST_REASONS:]
    note = f"The last {len(shown)} of {len(lost)}." if len(shown) < len(lost) else ""
    head = ("node", "round", "reason")
    return parts.table(
        "Work that did not count", head, shown, words=(2,), kinds={2: "reason"}, note=note, name="people"
    )


def rounds_table(trained: Sequence[RoundEntry]) -> str:
    """What each round took and gave."""
    shown = trained[-_MOST_ROUNDS:]
    metrics, more = _common_metrics(shown, common=True)
    rows = [
        [
            str(entry.round + 1),
            str(len(entry.nodes)),
            str(len(entry.dropped)),
            duration(entry.seconds),
            duration(slowest(entry, "train") + slowest(entry, "setup")),
            size(entry.traffic.get("bytes_sent")),
            size(entry.traffic.get("bytes_received")),
            *(number(entry.metrics.get(name)) for name in metrics),
        ]
        for entry in shown
    ]
    head = ["round", "nodes", "dropped", "time", "slowest node", "sent", "received"]
    left = len(trained) - len(shown)
    note = f"The {left} rounds before these are left out here." if left else ""
    note = f"{note} {more}".strip()
    return parts.table("Round by round", [*head, *(_short(name) for name in metrics)], rows, note=note)


def privacy_section(history: History, accounts: Mapping[str, Mapping[str, Any]]) -> str:
    """What is known of differential privacy, per node; empty if nothing is.

    Args:
        history: Its privacy figures are shown where there are no accounts.
        accounts: What each node has spent, by node id.
    """
    latest: dict[str | None, dict[str, Any]] = {node: dict(account) for node, account in accounts.items()}
    for owner, record in history.owned_records():
        if record["phase"] == PRIVACY and not accounts:
            latest.setdefault(owner, {})[record["metric"]] = record["value"]
    if not latest:
        return ""
    names = history.names()
    columns = sorted({metric for figures in latest.values() for metric in figures}, key=_privacy_order)
    rows = [
        [
            "all nodes together" if owner is None else names.get(owner, owner),
            *(_told(figures.get(column)) for column in columns),
        ]
        for owner, figures in latest.items()
    ]
    note = (
        "After the last round that the node took part in: what is spent grows from round to round. The smaller "
        "epsilon is, the less can be learnt about one sample."
    )
    heads = ["node", *(column.replace("_", " ") for column in columns)]
    body = parts.table("What has been spent", heads, rows, note=note)
    return f"<section>\n<h2>Differential privacy</h2>\n{body}\n</section>"


def other_values(values: Iterable[tuple[str, str, Any]]) -> str:
    """Results that are neither numbers nor matrices which fit the page: title, full name, value."""
    rows: list[list[parts.Cell]] = []
    for title, name, value in values:
        if parts.is_matrix(value):
            told = f"{len(value)} x {len(value)} numbers, too many for this page: history.values({name!r})"
        else:
            told = json.dumps(value, ensure_ascii=False)
        rows.append([title, parts.Html(parts.text(told, _LONGEST_VALUE))])
    if not rows:
        return ""
    return parts.table("Other results, latest", ("result", "value"), rows, words=(1,), name="settings")


def _told(value: Any) -> str:
    """A figure, a count or words."""
    if isinstance(value, str):
        return value
    return number(value) if isinstance(value, float) or value is None else str(value)


def slowest(entry: RoundEntry, what: str) -> float:
    """Seconds of ``what`` at the node that worked longest."""
    longest = max(entry.nodes.values(), key=_work, default=None)
    return _seconds(longest, what) if longest else 0.0


def _work(node: NodeEntry) -> float:
    return _seconds(node, "train") + _seconds(node, "setup")


def _seconds(node: NodeEntry, what: str) -> float:
    """A time as a node reports it, which may be anything."""
    value = node.timing.get(what, 0.0)
    return value if 0 <= value < 1e9 else 0.0


def _common_metrics(entries: Iterable[RoundEntry], *, common: bool = False) -> tuple[list[str], str]:
    """The metrics that most of the table's rows have, the loss first, and a sentence about those left out.

    Privacy has a table of its own.
    """
    times: dict[str, float] = {}
    for entry in entries:
        for metrics in [entry.metrics] if common else [node.metrics for node in entry.nodes.values()]:
            for name in metrics:
                if split_name(name)[0] != PRIVACY and not is_bound(name):
                    times[name] = times.get(name, 0.0) + 1
    most = sorted(times, key=lambda name: (-times[name], name != "loss", name))[:_MOST_METRICS]
    left = len(times) - len(most)
    return metric_names(dict.fromkeys(most, 0.0)), f"And {plural(left, 'more metric')}: see the curves." if left else ""


def _short(name: str) -> str:
    phase, metric = split_name(name)
    where = {"test_global": "global", "test_local": "local"}.get(phase)
    plain = words(metric)
    return f"{plain}, {where}" if where else plain


def _privacy_order(column: str) -> tuple[bool, bool, str]:
    return column != "epsilon", column != "delta", column
