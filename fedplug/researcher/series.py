"""Curves over rounds, as pictures and reports draw them: each node's, and that of all nodes together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fedplug.core.errors import UnknownNameError
from fedplug.researcher.history import History, rounds_behind
from fedplug.researcher.history_entries import PRIVACY, TEST_GLOBAL, TEST_LOCAL, TRAIN
from fedplug.researcher.progress.text import is_bound, one_line

NODES_DRAWN = 7
"""More nodes than these are drawn as a band, in which four fifths of them lie."""

_LARGEST = 1e150
"""What is larger cannot be drawn: the axis itself would overflow."""

_PHASES = (TRAIN, TEST_GLOBAL, TEST_LOCAL, PRIVACY)
_ACRONYMS = {name: name.upper() for name in ("auc", "f1", "mse", "mae", "rmse", "roc")} | {"r2": "R²"}
_TITLES = {TRAIN: "while training", TEST_GLOBAL: "of the global model", TEST_LOCAL: "after local training"}

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One metric over rounds. The x of a point is the number of rounds that have made the model it is about.

    Attributes:
        phase: E.g. ``"test_global"``.
        metric: E.g. ``"accuracy"``.
        together: Over all nodes; empty if there is no such figure.
        nodes: Node id → its points.
    """

    phase: str
    metric: str
    together: Points = field(default_factory=list)
    nodes: dict[str, Points] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it shows, for people."""
        if self.phase == PRIVACY:
            return f"Privacy: {words(self.metric)}"
        what = words(self.metric)
        return f"{what[:1].upper()}{what[1:]} {_TITLES.get(self.phase, '')}".rstrip()

    def bands(self) -> list[tuple[float, float, float]]:
        """Round, and the values between which the middle 80 % of the nodes lie (nearest-rank quantiles)."""
        at: dict[float, list[float]] = {}
        for points in self.nodes.values():
            for x, y in points:
                if math.isfinite(y):
                    at.setdefault(x, []).append(y)
        return [(x, _quantile(values, 0.1), _quantile(values, 0.9)) for x, values in sorted(at.items())]


def all_series(history: History) -> list[Series]:
    """Every metric of the history: training first (and its loss before all), then tests, then privacy."""
    found: dict[tuple[str, str], Series] = {}
    for owner, record in history.owned_records():
        phase, metric, value = record["phase"], record["metric"], record["value"]
        if phase not in _PHASES or not isinstance(value, int | float):
            continue
        series = found.setdefault((phase, metric), Series(phase, metric))
        points = series.together if owner is None else series.nodes.setdefault(owner, [])
        points.append((float(rounds_behind(phase, record["round"])), drawable(float(value))))
    order = {phase: place for place, phase in enumerate(_PHASES)}
    return sorted(found.values(), key=lambda each: (order[each.phase], each.metric != "loss", each.metric))


def chosen_series(history: History, metrics: list[str] | None) -> list[Series]:
    """The series of some metrics, by short names (``accuracy``) or full ones (``test_global_accuracy``).

    Raises:
        UnknownNameError: The history holds no such metric.
    """
    every = all_series(history)
    if metrics is None:
        told = [each for each in every if each.phase != PRIVACY and not is_bound(each.metric)]
        return [each for each in told if each.phase != TRAIN or each.metric == "loss"]
    chosen: list[Series] = []
    for name in metrics:
        fits = [each for each in every if name in (each.metric, f"{each.phase}_{each.metric}")]
        if not fits:
            raise UnknownNameError("metric", str(name), {each.metric for each in every})
        chosen += [each for each in fits if each not in chosen]
    return chosen


def words(metric: str) -> str:
    """The name of a metric for people: ``f1_score`` → ``F1 score``."""
    plain = one_line(metric, 40).replace("_", " ")
    return " ".join(_ACRONYMS.get(word.casefold(), word) for word in plain.split(" "))


def drawable(value: float) -> float:
    """``value``, or NaN (a gap) if it cannot stand in a picture."""
    return value if math.isfinite(value) and abs(value) < _LARGEST else math.nan


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(round(part * (len(ordered) - 1)), len(ordered) - 1)]
