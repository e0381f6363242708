"""Metrics over optimizer steps as the nodes report them while they train, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

MOST_POINTS = 512
"""Points that one curve holds at most."""

ALL_POINTS = 16_384
"""Points that all curves hold together, but for `FEWEST_POINTS` each."""

FEWEST_POINTS = 4
"""Points that a curve may hold however many curves there are."""

MOST_METRICS = 8
"""Curves of one node: names of metrics come from the network."""

Point = tuple[int, int, float]
"""Round (from 0), optimizer steps of the node over all rounds, value."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Curve(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One metric of one node.

    Attributes:
        points: Round, steps and value of each point.
        seen: How many points were offered.
        stride: Every so-manieth of them is kept.
    """

    points: list[tuple[_Count, _Count, float]] = []
    seen: _Count = 0
    stride: Annotated[int, msgspec.Meta(ge=1, le=2**62)] = 1

    def add(self, point: Point, limit: int) -> None:
        """Take a point in. The newest is always there; of those before it every ``stride``-th."""
        if self.points and self.seen and (self.seen - 1) % self.stride:
            self.points.pop()  # it was kept as the newest only
        self.points.append(point)
        self.seen += 1
        if len(self.points) > limit:
            self.thin(limit)

    def thin(self, limit: int) -> None:
        """Leave out every second point until at most ``limit`` are left."""
        while len(self.points) > max(limit, 2):
            newest = [] if len(self.points) % 2 else self.points[-1:]  # the last of an odd number stays anyway
            self.points = self.points[::2] + newest
            self.stride *= 2


class TrainingCurves:
    """All curves, by node and metric.

    A curve holds at most 512 points, and all curves together about 16,384 (but 4 each): when one is full,
    every second point of it goes, and from then on only every second, fourth, ... report is taken. The newest
    is always there.
    """

    def __init__(self) -> None:
        self._curves: dict[str, dict[str, Curve]] = {}
        self._count = 0  # of curves
        self._limit = _limit(0)  # how many points each may have
        self._longest = 0  # no curve has more points
        self._offsets: dict[str, int] = {}  # optimizer steps of each node in the rounds before this one
        self._steps: dict[str, int] = {}  # and in this one
        self._round: int | None = None  # what a straggler says after its round is left out
        self._last = -1  # the highest round of which there are points

    def begin(self, number: int) -> None:
        """A round begins; what an attempt before it has left of the same round, or of later ones, is forgotten."""
        self._steps.clear()
        self._round = number
        if number <= self._last:
            self._each(lambda curve: _cut(curve, number))
            self._last = number - 1

    def add(self, node_id: str, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Note what a node reports."""
        if number != self._round:
            return
        step = min(max(step, 0), 2**53)
        if step >= self._steps.get(node_id, 0):
            self._steps[node_id] = step
        mine = self._curves.get(node_id)
        if mine is None:
            mine = self._curves[node_id] = {}
        for name, value in metrics.items():
            curve = mine.get(name)
            if curve is None:
                if len(mine) >= MOST_METRICS:
                    continue
                curve = mine[name] = Curve()
                self._set_count(self._count + 1)
            self._last = number
            curve.add((number, self._offsets.get(node_id, 0) + step, float(value)), self._limit)
            self._longest = max(self._longest, len(curve.points))

    def end(self, steps: Mapping[str, int]) -> None:
        """The round is complete; ``steps`` is what each node did according to its reply."""
        for node_id in {*steps, *self._steps}:
            done = max(steps.get(node_id, 0), self._steps.get(node_id, 0))
            self._offsets[node_id] = min(self._offsets.get(node_id, 0) + done, 2**62)
        self._steps.clear()
        self._round = None

    def steps(self) -> dict[str, int]:
        """Node id → optimizer steps that it has made in all complete rounds."""
        return dict(self._offsets)

    def points(self, metric: str) -> dict[str, list[Point]]:
        """Node id → the points of ``metric``, in the order of their steps."""
        return {node: list(mine[metric].points) for node, mine in sorted(self._curves.items()) if metric in mine}

    def to_plain(self) -> dict[str, Any]:
        """Everything that is known, as plain data."""
        return {
            "curves": msgspec.to_builtins(self._curves),
            "offsets": dict(sorted(self._offsets.items())),
        }

    @classmethod
    def from_plain(cls, plain: Any) -> TrainingCurves:
        """The opposite of `to_plain`.

        Raises:
            msgspec.ValidationError: ``plain`` is something else.
        """
        checked = msgspec.convert(plain, _Plain)
        new = cls()
        new._curves, new._offsets = checked.curves, checked.offsets
        curves = [curve for mine in new._curves.values() for curve in mine.values()]
        new._count, new._limit = len(curves), _limit(len(curves))
        new._longest = max((len(curve.points) for curve in curves), default=0)
        new._last = max((curve.points[-1][0] for curve in curves if curve.points), default=-1)
        return new

    def _set_count(self, count: int) -> None:
        """There is a curve more, so each may have fewer points. As long as all are short enough, none is looked at."""
        limit = _limit(count)
        self._count, self._limit = count, limit
        if self._longest > limit:
            self._each(lambda curve: curve.thin(limit))
            self._longest = limit

    def _each(self, change: Callable[[Curve], None]) -> None:
        for mine in self._curves.values():
            for curve in mine.values():
                change(curve)


class _Plain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    curves: dict[str, dict[str, Curve]]
    offsets: dict[str, _Count]


def _limit(curves: int) -> int:
    return max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(curves, 1)))


def _cut(curve: Curve, number: int) -> None:
    before = len(curve.points)
    curve.points = [point for point in curve.points if point[0] < number]
    if len(curve.points) < before:
        curve.seen = (len(curve.points) - 1) * curve.stride + 1 if curve.points else 0
