"""R3 and R4: rounds with a model of 100 MB in 60 tensors; CPU against raw sockets, memory against the model."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.common import CpuMeter, Result
from benchmarks.federation import Enrolment, Stirred, echo_nodes, experiment, node_processes, run_rounds
from benchmarks.memory import peak_rss, rss
from benchmarks.raw_sockets import RawFederation
from fedplug.testing.echo_nodes import ECHO_TAG

VALUES, TENSORS = 25_000_000, 60


def run_cpu(quick: bool = False) -> list[Result]:
    """R3: four node processes; CPU of all processes, over that of raw sockets doing the same; plain, and with keys.

    The model is another one in each round, as nodes do not fetch again what they have.
    """
    return [_cpu(quick, "plain", 1.5, None), _cpu(quick, "with keys", 4.0, Enrolment())]


def _cpu(quick: bool, how: str, target: float, enrolment: Enrolment | None) -> Result:
    values, rounds = (VALUES // 10 if quick else VALUES), (3 if quick else 5)
    options = enrolment.options if enrolment else None
    with (
        experiment(values, TENSORS, 4, "zmq://127.0.0.1:0", options=options, aggregator=Stirred()) as exp,
        node_processes(exp.pool().description, 4, enrolment) as pids,
    ):
        walls = run_rounds(exp, 1)
        raw = RawFederation(exp.params(), 4)
        raw.round()
        cpu = CpuMeter(pids)
        figures, ceilings, walls = [], [], []
        for _ in range(rounds):
            before = raw.cpu.read()
            raw.round()
            ceilings.append(raw.cpu.read() - before)
            before = cpu.read()
            walls += run_rounds(exp, 1)
            figures.append(cpu.read() - before)
        raw.close()
    figure, ceiling = statistics.median(figures), statistics.median(ceilings)
    details = {
        "nodes": 4, "values": values, "tensors": TENSORS, "rounds": rounds,
        "wall_s": round(statistics.median(walls), 3),
        "ratios": [round(f / c, 3) for f, c in zip(figures, ceilings, strict=True)],
    }  # fmt: skip
    what = f"no-op round, 100 MB, 4 node processes, zmq://, {how}"
    return Result("R3", what, figure, "CPU s", ceiling, target, details)


def run_memory(quick: bool = False) -> list[Result]:
    """R4: sixteen nodes reply at once; peak of the researcher above the held model, in models."""
    values = VALUES // 10 if quick else VALUES
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.big_model", str(values)], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    model = seen["model"]
    figure = (seen["peak"] - seen["base"] - (64 << 20)) / model
    details = {"nodes": 16, "model_mib": model >> 20, "base_mib": seen["base"] >> 20, "peak_mib": seen["peak"] >> 20}
    what = "peak at the researcher above the held model, less 64 MiB, 16 replies at once"
    return [Result("R4", what, figure, "models", None, 3.0, details)]


def _researcher(values: int) -> None:
    """One process that holds the model and runs a round; prints its memory."""
    with experiment(values, TENSORS, 16, "zmq://127.0.0.1:0") as exp, echo_nodes(exp.pool().description, 16):
        exp.set_tags(ECHO_TAG)
        model = exp.params().nbytes
        exp.training_plan().set_params(exp.params())  # hold it once, as a plan would
        base = rss()
        peak = 0
        for _ in range(3):
            with peak_rss() as seen:
                exp.run(rounds=1)
            peak = max(peak, seen[0])
        print(json.dumps({"model": model, "base": base, "peak": peak}))


if __name__ == "__main__":
    _researcher(int(sys.argv[1]))
