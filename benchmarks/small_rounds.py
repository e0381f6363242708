"""R1 and R2: no-op rounds with a model of 1 KB, over ``inproc://`` and over node processes."""

from __future__ import annotations

import statistics

from benchmarks.common import CpuMeter, Result
from benchmarks.federation import Enrolment, experiment, local_nodes, node_processes, run_rounds

VALUES = 256  # 1 KB of float32


def run_inproc(quick: bool = False) -> list[Result]:
    """R1: ten nodes in this process, with folders (a journal and an audit log on the disk) and without."""
    return [
        _inproc(quick, "folders", "no-op round, 1 KB, 10 nodes, inproc://"),
        _inproc(quick, "memory", "the same, nodes in memory"),
    ]


def _inproc(quick: bool, where: str, what: str) -> Result:
    rounds = 30 if quick else 200
    url = f"inproc://bench-r1-{where}"
    with experiment(VALUES, 4, 10, url) as exp:
        exp.pool()
        with local_nodes(url, 10, folders=where == "folders"):
            run_rounds(exp, 5)
            cpu = CpuMeter()
            before = cpu.read()
            seconds = run_rounds(exp, rounds)
            spent = (cpu.read() - before) / rounds
    details = {"nodes": 10, "rounds": rounds, "cpu_ms_per_round": round(1000 * spent, 3), "p90_ms": _p90(seconds)}
    figure = 1000 * statistics.median(seconds)
    return Result("R1", what, figure, "ms/round", None, 5.0, details)


def run_zmq(quick: bool = False) -> list[Result]:
    """R2: four node processes over loopback: plain, with keys, and with keys and a journal."""
    return [
        _over_zmq(quick, "plain"),
        _over_zmq(quick, "with keys", Enrolment()),
        _over_zmq(quick, "with keys and journal", Enrolment(), journal=True),
    ]


def _over_zmq(quick: bool, how: str, enrolment: Enrolment | None = None, *, journal: bool = False) -> Result:
    rounds = 30 if quick else 200
    options = enrolment.options if enrolment else None
    with (
        experiment(VALUES, 4, 4, "zmq://127.0.0.1:0", options=options, save_breakpoints=journal) as exp,
        node_processes(exp.pool().description, 4, enrolment) as pids,
    ):
        run_rounds(exp, 5)
        cpu = CpuMeter(pids)
        before = cpu.read()
        seconds = run_rounds(exp, rounds)
        spent = (cpu.read() - before) / rounds
    details = {"nodes": 4, "rounds": rounds, "cpu_ms_per_round": round(1000 * spent, 3), "p90_ms": _p90(seconds)}
    figure = 1000 * statistics.median(seconds)
    return Result("R2", f"no-op round, 1 KB, 4 node processes, zmq://, {how}", figure, "ms/round", None, 20.0, details)


def _p90(seconds: list[float]) -> float:
    return round(1000 * statistics.quantiles(seconds, n=10)[-1], 3)
