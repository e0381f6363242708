"""One HTML file that tells what an experiment did: readable offline, without scripts, for archives and reviewers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from fedplug.core.errors import StoreError, UsageError
from fedplug.core.whole_file import whole_file
from fedplug.researcher import report_charts as charts
from fedplug.researcher import report_parts as parts
from fedplug.researcher.history import History
from fedplug.researcher.history_entries import PRIVACY, TEST_GLOBAL, TEST_LOCAL, RoundEntry, split_name
from fedplug.researcher.plot import load_matplotlib
from fedplug.researcher.progress.text import count, duration, is_bound, number, plural, size
from fedplug.researcher.report_tables import (
    dropped_table,
    nodes_table,
    other_values,
    privacy_section,
    rounds_table,
    slowest,
)
from fedplug.researcher.series import NODES_DRAWN, Series, all_series, words

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_FIGURES = 6
_MOST_CHARTS = 24


def write_report(
    path: str | os.PathLike[str],
    history: History,
    settings: Mapping[str, Any],
    *,
    title: str = "Experiment",
    planned_rounds: int | None = None,
    plan_source: str = "",
    privacy: Mapping[str, Mapping[str, Any]] | None = None,
    generated: datetime | None = None,
) -> Path:
    """Write a report. It is replaced at once: a reader sees the old one or the new one, never half.

    The same arguments give the same bytes.

    Args:
        path: The file, ``.html`` or ``.htm``; without either it gets ``.html``; an existing folder ``report.html``.
        history: What the experiment did; it may still be running.
        settings: How it was set: a mapping becomes a table under its name, all else a row of the first table.
        title: The headline.
        planned_rounds: The round limit, if there is one.
        plan_source: Source of the training plan.
        privacy: What each node has spent (``epsilon``, ``delta``, ``sample_rate``, ...), by node id; None or empty
            for what the nodes' own metrics say.
        generated: Time stamp of the report; now unless given.

    Returns:
        Where it is.

    Raises:
        UsageError: matplotlib is not installed; or the name has another ending, or there is no such folder.
        StoreError: The file cannot be written.
    """
    target = _target(path)
    load_matplotlib()
    stamp = (generated or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    page = _page(history, settings, title, planned_rounds, plan_source, privacy or {}, stamp)
    try:
        with whole_file(target) as draft:
            draft.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise StoreError(
            f"The report cannot be saved as {target}: {error.strerror or error}.",
            cure="Free some disk space, or choose another place.",
        ) from error
    return target


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path).expanduser().absolute()
    if target.is_dir():
        return target / "report.html"
    if target.suffix and target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"A report is an HTML file, and {target.name!r} ends like something else.",
            cure=f"Name it {target.stem + '.html'!r}; a browser prints it as a PDF file.",
        )
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", cure="Make it first, or give another path.")
    return target if target.suffix else target.with_name(f"{target.name}.html")


def _page(
    history: History,
    settings: Mapping[str, Any],
    title: str,
    planned: int | None,
    source: str,
    privacy: Mapping[str, Mapping[str, Any]],
    stamp: str,
) -> str:
    style = resources.files("fedplug.researcher").joinpath("report.css").read_text(encoding="utf-8")
    trained = [entry for entry in history.entries() if entry.trained]
    sections = [
        _summary(history, trained, planned),
        _curves(history),
        _matrices(history),
        _section("Nodes", nodes_table(history), dropped_table(history)) if history else "",
        _times(trained),
        privacy_section(history, privacy),
        _settings(settings, source),
    ]
    state = _state(len(trained), planned)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{parts.text(title, 120)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{parts.text(title, 120)}</h1>\n<p>{state} Report of {parts.text(stamp)}.</p>\n</header>\n"
        "<main>\n"
        + "\n".join(filter(None, sections))
        + "\n<footer>Written by FedPlug. Rounds are counted from 1. Names and reasons are as the nodes sent "
        "them.</footer>\n</main>\n</body>\n</html>\n"
    )


def _state(done: int, planned: int | None) -> str:
    if planned is None:
        return f"{plural(done, 'round')} done."
    return f"{done} of {plural(planned, 'round')} done."


def _section(title: str, *content: str, note: str = "") -> str:
    found = [each for each in content if each]
    if not found:
        return ""
    about = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{parts.text(title)}</h2>\n{about}" + "\n".join(found) + "\n</section>"


def _summary(history: History, trained: list[RoundEntry], planned: int | None) -> str:
    limit = f" <small>of {planned}</small>" if planned is not None else ""
    pairs: list[tuple[str, parts.Cell]] = [
        ("rounds", parts.Html(f"{len(trained)}{limit}")),
        ("nodes", str(len(history.names()))),
    ]
    if trained:
        last = trained[-1]
        pairs.append(("samples, last round", f"{sum(node.samples for node in last.nodes.values()):,}"))
        pairs.append(("time of all rounds", duration(sum(entry.seconds for entry in trained))))
        if any(entry.traffic for entry in trained):  # a simulation sends nothing
            pairs.append(("sent", size(_traffic(trained, "bytes_sent"))))
            pairs.append(("received", size(_traffic(trained, "bytes_received"))))
    ends: dict[tuple[str, str], float] = {}
    for entry in history.entries():
        ends |= {split_name(name): value for name, value in entry.metrics.items() if not name.startswith("dp_")}
    order = {"train": 0, TEST_GLOBAL: 1, TEST_LOCAL: 2}
    told = sorted(
        (key for key in ends if not is_bound(key[1])), key=lambda key: (order.get(key[0], 3), key[1] != "loss", key[1])
    )
    for phase, metric in told[:_MOST_FIGURES]:
        title = Series(phase, metric).title.replace(words(metric).capitalize(), words(metric), 1)
        pairs.append((f"final {title}", number(ends[phase, metric])))
    empty = "" if history else '<p class="note">No round is finished yet.</p>'
    left = len(told) - _MOST_FIGURES
    more = f'<p class="note more">and {plural(left, "more metric")}: the curves show them.</p>' if left > 0 else ""
    return f'<section aria-label="Summary">{empty}{parts.figures(pairs)}{more}</section>'


def _curves(history: History) -> str:
    found = []
    series_of_all = [each for each in all_series(history) if each.phase != PRIVACY or each.metric == "epsilon"]
    every = [each for each in series_of_all if not is_bound(each.metric)]
    for place, series in enumerate(every[:_MOST_CHARTS]):
        svg = charts.series_chart(f"curve-{place}", series, history)
        bounds = (each for each in series_of_all if _is_bound_of(each, series))
        found.append(parts.chart(series.title, svg, _spoken(series), note=_exactness(next(bounds, None))))
    if curves := history.curves("loss"):
        steps = max(step for points in curves.values() for _, step, _ in points)
        spoken = f"Loss of {plural(len(curves), 'node')} over {count(steps)} optimizer steps."
        note = "as the nodes reported it"
        if len(curves) > NODES_DRAWN:
            note += ", in 40 stretches"
        chart = parts.chart("Loss step by step", charts.training_chart("steps", history), spoken, note=note)
        found.insert(1, chart)
    if not found:
        return ""
    note = (
        "The horizontal axis counts the rounds that have made the model: a test of the global model at 0 is one of "
        "the model before any training."
    )
    if len(every) > _MOST_CHARTS:
        note += f" {len(every) - _MOST_CHARTS} more metrics are not drawn: history.records() holds all."
    names = history.names() or {node: node for node in history.curves("loss")}
    legend = parts.legend_of_nodes(names)
    return _section("Curves", legend, f'<div class="charts">{"".join(found)}</div>', note=note)


def _is_bound_of(bound: Series, series: Series) -> bool:
    return is_bound(bound.metric) and (bound.phase, bound.metric) == (series.phase, f"{series.metric}_error_bound")


def _exactness(bound: Series | None) -> str:
    """How exact the last point of a curve is, if a metric says so."""
    points = [y for _, y in bound.together if math.isfinite(y)] if bound else []
    return f"last point exact to ±{number(points[-1])}" if points else ""


def _spoken(series: Series) -> str:
    """A curve in words."""
    points = [point for point in series.together if math.isfinite(point[1])]
    if not points:
        return f"{series.title} of {plural(len(series.nodes), 'node')}."
    (first, start), (last, end) = points[0], points[-1]
    after = [plural(round(x), "round") for x in (first, last)]
    return f"{series.title}, all nodes together: {number(start)} after {after[0]}, {number(end)} after {after[1]}."


def _matrices(history: History) -> str:
    found, others = [], []
    for name in history.value_names():
        value = history.values(name)
        phase, metric = split_name(name)
        title = Series(phase, metric).title
        drawn = parts.matrix(f"{title}, latest", value)
        if drawn:
            found.append(drawn)
        else:
            others.append((title, name, value))
    tables = f'<div class="tables">{"".join(found)}</div>' if found else ""
    return _section("Confusion matrix" if found else "Other results", tables, other_values(others))


def _times(trained: list[RoundEntry]) -> str:
    if not trained:
        return ""
    xs = [entry.round + 1 for entry in trained]
    times = {
        "training of the slowest node": [slowest(entry, "train") for entry in trained],
        "its preparation": [slowest(entry, "setup") for entry in trained],
    }
    known = [sum(each) for each in zip(*times.values(), strict=True)]
    times["transfer and all else"] = [
        max(entry.seconds - amount, 0.0) for entry, amount in zip(trained, known, strict=True)
    ]
    traffic = {
        "sent to nodes": [entry.traffic.get("bytes_sent", 0) / 1e6 for entry in trained],
        "received from nodes": [entry.traffic.get("bytes_received", 0) / 1e6 for entry in trained],
    }
    found = [
        _stack("times", "Time of each round", "seconds", xs, times, duration(sum(entry.seconds for entry in trained))),
    ]
    if any(entry.traffic for entry in trained):
        found.append(_stack("traffic", "Traffic of each round", "MB", xs, traffic, size(_traffic(trained, None))))
    note = (
        "What is not the slowest node's own time is transfer, waiting, aggregation and, in a simulation, the other "
        "nodes, which train one after the other."
    )
    return _section("Rounds", f'<div class="charts wide">{"".join(found)}</div>', rounds_table(trained), note=note)


def _stack(name: str, title: str, unit: str, xs: list[int], amounts: Mapping[str, list[float]], total: str) -> str:
    svg = charts.stacked_chart(name, xs, amounts, unit)
    spoken = f"{title} in {unit}: {total} in {plural(len(xs), 'round')}."
    return parts.chart(title, svg, spoken, legend=parts.legend_of_parts(amounts))


def _settings(settings: Mapping[str, Any], source: str) -> str:
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    tables = [parts.settings_table("Experiment", single)] if single else []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            tables.append(parts.settings_table(name, value))
    code = parts.source("Source of the training plan", source) if source else ""
    grid = f'<div class="columns">{"".join(tables)}</div>' if tables else ""
    return _section("Settings", grid, code)


def _traffic(entries: Iterable[RoundEntry], name: str | None) -> int:
    names = (name,) if name else ("bytes_sent", "bytes_received")
    return sum(entry.traffic.get(each, 0) for entry in entries for each in names)
