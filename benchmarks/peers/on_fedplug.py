"""The same workloads on FedPlug: what ``make bench`` measures, as rows of this table."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks import cnn, simulation, small_rounds
from benchmarks.common import Result
from benchmarks.peers.rows import Row, arguments, versions

RUNS: dict[str, Callable[[bool], list[Result]]] = {
    "S1": simulation.run_s1,
    "S2": cnn.run,
    "S3": simulation.run_s3,
    "R1": small_rounds.run_inproc,
    "R2": small_rounds.run_zmq,
}


def row(result: Result) -> Row:
    """A result as a row of this table."""
    found = versions("fedplug", "torch", "numpy", "pyzmq")
    walls = result.details.get("wall_ratios")
    trained = result.ceiling is not None
    return Row(
        result.workload, "FedPlug", found["fedplug"], _how(result.what),
        cpu=result.ratio, wall=statistics.median(walls) if walls else None,
        cpu_ms=result.figure if trained else result.details["cpu_ms_per_round"],
        wall_ms=result.details["wall_ms"] if trained else result.figure, details={**result.details, "versions": found},
    )  # fmt: skip


def _how(what: str) -> str:
    for mark in (" a round, ", "1 KB, "):
        if mark in what:
            return what.split(mark, 1)[1]
    return what


def main() -> None:
    """Run one workload and print its rows."""
    name, quick = arguments(__doc__)
    for result in RUNS[name](quick):
        print(row(result).line(), flush=True)


if __name__ == "__main__":
    main()
