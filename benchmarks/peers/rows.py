"""What a peer's process tells: one row for each figure, as a line of JSON on its standard output."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

MARK = "bench-peers: "
"""Lines that begin with this are ours; frameworks write to the same output."""


@dataclass(frozen=True)
class Row:
    """One framework at one workload.

    Attributes:
        workload: E.g. ``"S1"``.
        framework: Its name, as its authors write it.
        version: Its version; empty if it is not there.
        how: What was set, in a few words.
        cpu: CPU time of a round, in all its processes, over that of the plain loop; None without a plain loop.
        wall: The same of the time that passed.
        cpu_ms: CPU time of a round in milliseconds.
        wall_ms: The time that passes in a round, in milliseconds.
        problem: Why there are no figures; empty if there are.
        details: Whatever else was seen.
    """

    workload: str
    framework: str
    version: str = ""
    how: str = ""
    cpu: float | None = None
    wall: float | None = None
    cpu_ms: float | None = None
    wall_ms: float | None = None
    problem: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """This row for the process that started this one."""
        return MARK + json.dumps(asdict(self))


def read_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The rows among the lines that a process has written."""
    for line in lines:
        if line.startswith(MARK):
            yield Row(**json.loads(line.removeprefix(MARK)))


def versions(*names: str) -> dict[str, str]:
    """Versions of Python and of distributions, those that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def row_of_times(
    workload: str,
    framework: str,
    version: str,
    how: str,
    rounds: Sequence[tuple[float, float]],
    plain: Sequence[tuple[float, float]] = (),
    **details: Any,
) -> Row:
    """A row out of the seconds (CPU, wall) of rounds and, in the same order, of the plain loop's, if there is one."""
    cpu, wall = ([1000 * pair[side] for pair in rounds] for side in (0, 1))
    ratios: list[list[float]] = []
    if plain:
        ratios = [[a[side] / b[side] for a, b in zip(rounds, plain, strict=True)] for side in (0, 1)]
        details["ratios"] = [[round(ratio, 3) for ratio in side] for side in ratios]
        details["plain_ms"] = [round(1000 * statistics.median(each[side] for each in plain), 3) for side in (0, 1)]
    return Row(
        workload, framework, version, how,
        cpu=statistics.median(ratios[0]) if ratios else None,
        wall=statistics.median(ratios[1]) if ratios else None,
        cpu_ms=statistics.median(cpu), wall_ms=statistics.median(wall), details={"rounds": len(rounds), **details},
    )  # fmt: skip


def arguments(description: str | None) -> tuple[str, bool]:
    """The workload, and whether it is to be quick, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("workload")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    return options.workload, options.quick
