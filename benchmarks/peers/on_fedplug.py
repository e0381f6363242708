"""The same workloads on FedPlug: what ``make bench`` measures, as rows of this table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import cnn, simulation, small_rounds
from benchmarks.clocks import Stopwatch
from benchmarks.common import Result
from benchmarks.federation import experiment
from benchmarks.peers.rows import Row, arguments, row_of_times, versions
from fedplug import Experiment, Monitor
from fedplug.core.context import RoundContext, RoundResult
from fedplug.simulation import Federation

NODES = 10

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
    seen = result.details
    details = {**seen, "versions": found}
    how = _how(result.what)
    if result.ceiling is None:
        return Row(
            result.workload, "FedPlug", found["fedplug"], how, cpu_ms=seen["cpu_ms_per_round"], wall_ms=result.figure,
            details=details,
        )  # fmt: skip
    return Row(
        result.workload, "FedPlug", found["fedplug"], how,
        cpu=statistics.median(seen["cpu_ratios"]), wall=statistics.median(seen["wall_ratios"]),
        cpu_ms=seen["cpu_ms"], wall_ms=seen["wall_ms"], details=details,
    )  # fmt: skip


class _Times(Monitor):
    """CPU and wall time of rounds in which nothing may change."""

    def __init__(self, exp: Experiment) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._exp = exp
        self._watch = Stopwatch()

    def round_started(self, ctx: RoundContext, node_ids: Any) -> None:
        """Begin with the first round."""
        if not self.seconds:
            self._params = self._exp.params()
            self._watch.start()

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """From the end of one round to that of the next."""
        self.seconds.append(self._watch.stop())
        if len(result.replies) != NODES or result.params != self._params:
            raise AssertionError("the model has changed, or a node has not replied")
        self._watch.start()


def simulated(quick: bool) -> Row:
    """R1 in a simulation: ten virtual nodes, and a model of 1 KB that stays as it is."""
    rounds, warm_up = (30 if quick else 200), 5
    data = np.zeros((1, 1)), np.zeros(1)
    federation = Federation({f"node-{number}": data for number in range(NODES)})
    with experiment(small_rounds.VALUES, 4, NODES, federation, tags="simulation", save_breakpoints=False) as exp:
        times = _Times(exp)
        exp.add_monitor(times)
        exp.run(rounds + warm_up)
    found = versions("fedplug", "numpy")
    how = f"{NODES} virtual nodes, serial engine"
    return row_of_times("R1", "FedPlug", found["fedplug"], how, times.seconds[warm_up:], versions=found, nodes=NODES)


def _how(what: str) -> str:
    for mark in (" a round, ", "1 KB, "):
        if mark in what:
            return what.split(mark, 1)[1]
    return what


def main() -> None:
    """Run one workload and print its rows."""
    name, quick = arguments(__doc__)
    if name == "R1":
        print(simulated(quick).line(), flush=True)
    for result in RUNS[name](quick):
        print(row(result).line(), flush=True)


if __name__ == "__main__":
    main()
