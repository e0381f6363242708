"""Take the points that the cost model is fitted to; each federation in processes of its own."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import psutil

from benchmarks.common import cpu_time, environment
from benchmarks.federation import TAG, Enrolment, Stirred, echo_nodes, experiment, node_processes
from benchmarks.memory import rss
from benchmarks.scaling.points import FoldPoint, Measured, NodePoint, RoundPoint, VirtualPoint, write
from fedplug import Experiment, Monitor, RandomStrategy
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params
from fedplug.core.plugins import default_host
from fedplug.protocol import Limits, ResearcherEndpoint
from fedplug.testing.echo_nodes import ECHO_TAG, KeyRing
from fedplug.transports.registry import open_transport

ROOT = Path(__file__).parents[2]
URL = "zmq://127.0.0.1:0"
MB = 1_000_000
PROCESSES = 4
WARM_UP, TRIES = 2, 3
QUIET = 6.0
"""Seconds in which a researcher that has nothing to do is watched."""

Shape = tuple[int, int, int]
"""Connected nodes, sampled nodes, bytes of the model."""

SMALL: tuple[Shape, ...] = ((250, 100, 1024), (500, 100, 1024), (1000, 100, 1024), (500, 25, 1024), (500, 300, 1024))
LARGE: tuple[Shape, ...] = (
    (100, 50, 1 * MB), (4, 4, 10 * MB), (16, 16, 10 * MB), (4, 4, 50 * MB), (8, 8, 50 * MB), (4, 4, 100 * MB),
)  # fmt: skip
DURABLE: tuple[Shape, ...] = ((250, 100, 1024), (250, 25, 1024), (4, 4, 10 * MB), (4, 4, 50 * MB))
MODELS = (1024, 10 * MB, 50 * MB, 100 * MB)


class ThreadClocks:
    """CPU seconds of this process by thread: the main one, the one that owns the socket, and the others."""

    def __init__(self) -> None:
        self._main = threading.main_thread().native_id
        found = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("fedplug-researcher")]
        if len(found) != 1:
            raise RuntimeError(f"Expected one thread of a listener, found {len(found)}.")
        self._pump = found[0]

    def read(self) -> tuple[float, float, float]:
        """Seconds so far: main, pump, native."""
        main = pump = native = 0.0
        for task in Path("/proc/self/task").iterdir():
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            if int(task.name) == self._main:
                main = seconds
            elif int(task.name) == self._pump:
                pump = seconds
            else:
                native += seconds
        return main, pump, native


def seconds_of(pids: Iterable[int]) -> float:
    """CPU seconds so far of processes and their children, to the nanosecond: ticks are too coarse for small rounds."""
    total = 0
    for pid in pids:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for task in Path(f"/proc/{each.pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _difference(after: tuple[float, ...], before: tuple[float, ...]) -> list[float]:
    return [b - a for a, b in zip(before, after, strict=True)]


class Rounds(Monitor):
    """Runs single rounds, and checks that each changed the first value, and nothing else.

    Args:
        exp: An experiment with `Stirred` on nodes that do nothing.
        tags: Of the nodes' data.
        pids: The processes of the nodes.
        clocks: Those of the researcher; None if only the nodes count.
    """

    def __init__(self, exp: Experiment, tags: str, pids: Sequence[int], clocks: ThreadClocks | None = None) -> None:
        exp.set_tags([tags])
        self.exp = exp
        self._pids = pids
        self._clocks = clocks
        self._theirs = 0.0
        self._before: tuple[float, ...] = ()
        self._taken: list[float] = []
        exp.add_monitor(self)
        self._expected = {name: np.array(values) for name, values in exp.params().items()}

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """The nodes are selected."""
        # to look at hundreds of threads takes a while of the main thread: outside of what its clock shows
        self._theirs = seconds_of(self._pids)
        self._before = self._clocks.read() if self._clocks else ()

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """The new parameters are there."""
        own = _difference(self._clocks.read(), self._before) if self._clocks else []
        self._taken = [*own, seconds_of(self._pids) - self._theirs, result.seconds]

    def run(self) -> list[float]:
        """One round; returns its seconds on the clocks of the researcher, if any, of the nodes, and on the wall.

        Raises:
            RuntimeError: It came to something else than it should.
        """
        self.exp.run(rounds=1)
        next(iter(self._expected.values()))[0] += 1
        for name, values in self.exp.params().items():
            if not np.array_equal(values, self._expected[name]):
                raise RuntimeError(f"A round has changed {name!r} to something else than it should.")
        return self._taken


def _researcher(shape: Shape, *, keyed: bool, durable: bool, rounds: int) -> RoundPoint:
    """One federation, seen by its researcher."""
    nodes, sampled, model = shape
    values, tensors = model // 4, 60 if model >= MB else 4
    keys = KeyRing.make(open_transport(URL, default_host()), nodes) if keyed else None
    options = keys.researcher_options() if keys else None
    strategy = RandomStrategy(count=sampled)
    # a sign of life is to cost what it costs: the heartbeat is held, however many nodes there are
    limits = Limits(signs=math.inf)
    with (
        ResearcherEndpoint(open_transport(URL, default_host()), URL, options, limits=limits) as pool,
        experiment(
            values, tensors, nodes, pool, node_selection_strategy=strategy, save_breakpoints=durable,
            round_limit=10_000, aggregator=Stirred(),
        ) as exp,
        ExitStack() as stack,
    ):  # fmt: skip
        exp.params()
        gc.collect()
        base, files, clocks, clock = rss(), _descriptors(), ThreadClocks(), time.process_time()
        pids = []
        processes = min(PROCESSES, nodes)
        for number in range(processes):
            first, last = (nodes * step // processes for step in (number, number + 1))
            pids.append(stack.enter_context(echo_nodes(pool.description, last - first, first=first, keys=keys)))
        while len(pool.nodes) < nodes:
            pool.next_event(1.0)
        connect = (time.process_time() - clock) / nodes
        memory, descriptors = (rss() - base) / nodes, (_descriptors() - files) / nodes
        rest = _rest(exp, clocks) if nodes >= 100 else {}
        return RoundPoint(
            nodes=nodes, sampled=sampled, model=model, keyed=keyed, durable=durable, rounds=rounds,
            **_rounds(exp, clocks, pids, rounds),
            connect=connect, memory=memory, descriptors=descriptors, **rest,
        )  # fmt: skip


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _rest(exp: Experiment, clocks: ThreadClocks) -> dict[str, float]:
    """What a second costs in which nobody asks for anything."""
    before, traffic, clock = clocks.read(), exp.pool().traffic(), time.monotonic()
    time.sleep(QUIET)
    seconds = time.monotonic() - clock
    after = exp.pool().traffic()
    _, pump, native = _difference(clocks.read(), before)
    frames, sent, received = (
        sum(after[name] - traffic[name] for name in names) / seconds
        for names in (("frames_sent", "frames_received"), ("bytes_sent",), ("bytes_received",))
    )
    return {
        "rest_pump": pump / seconds, "rest_native": native / seconds,
        "rest_frames": frames, "rest_bytes": sent + received,
    }  # fmt: skip


def _rounds(exp: Experiment, clocks: ThreadClocks, pids: list[int], rounds: int) -> dict[str, float]:
    """Lower quartiles over single rounds; traffic as the mean over all."""
    run, pool = Rounds(exp, ECHO_TAG, pids, clocks), exp.pool()
    for _ in range(WARM_UP):
        run.run()
    traffic = pool.traffic()
    columns = zip(*(run.run() for _ in range(rounds)), strict=True)
    main, pump, native, echo, wall = (statistics.quantiles(column, n=4)[0] for column in columns)
    after = pool.traffic()

    def moved(name: str) -> float:
        return (after[name] - traffic[name]) / rounds

    return {
        "main": main, "pump": pump, "native": native, "echo": echo, "wall": wall,
        "sent": moved("bytes_sent"), "received": moved("bytes_received"),
        "frames": moved("frames_sent") + moved("frames_received"),
    }  # fmt: skip


def _node(model: int, *, keyed: bool, rounds: int) -> NodePoint:
    """Two real node processes."""
    enrolment = Enrolment() if keyed else None
    options = enrolment.options if enrolment else None
    with (
        experiment(
            model // 4,
            60 if model >= MB else 4,
            2,
            URL,
            options=options,
            save_breakpoints=False,
            aggregator=Stirred(),
        ) as exp,
        node_processes(exp.pool().description, 2, enrolment) as pids,
    ):
        run = Rounds(exp, TAG, pids)
        seen = [run.run()[0] / len(pids) for _ in range(WARM_UP + rounds)]
    return NodePoint(model=model, keyed=keyed, cpu=statistics.quantiles(seen[WARM_UP:], n=4)[0])


def _fold(model: int, rounds: int) -> FoldPoint:
    update = Params.from_arrays({"x": np.ones(model // 4, np.float32)})
    mean = WeightedMean(update.spec)
    mean.add(update, 2)
    seen = []
    for _ in range(rounds):
        with cpu_time() as taken:
            mean.add(update, 3)
        seen.append(taken[0])
    return FoldPoint(model=model, cpu=statistics.quantiles(seen, n=4)[0])


def _virtual(nodes: int, rounds: int) -> VirtualPoint:
    from benchmarks.plain_loop import fashion_mnist
    from benchmarks.simulation import many, resident

    x, y = fashion_mnist()
    cpu = many(x[: 6 * nodes], y[: 6 * nodes], nodes, rounds)
    return VirtualPoint(nodes=nodes, sampled=100, cpu=cpu, resident=resident(nodes, rounds))


def _rounds_for(model: int) -> int:
    return 20 if model < MB else 10 if model < 50 * MB else 5


def _alone(kind: str, *arguments: object) -> bytes:
    """One point, taken by a process of its own; anew if a busy machine let nodes lose their connections."""
    command = [sys.executable, "-m", "benchmarks.scaling.measure", kind, json.dumps(arguments)]
    errors = ""
    for _ in range(TRIES):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout.splitlines()[-1]
        errors = done.stderr.decode(errors="replace")
    raise RuntimeError(f"Taking {kind} {arguments} failed:\n{errors}")


def take(say: Callable[[str], None] = print) -> Measured:
    """Take all points and keep them in the data file; some ten minutes.

    Args:
        say: Is told what is being taken.

    Raises:
        RuntimeError: A process that takes a point failed; its output is in the message.
    """
    rounds = []
    for keyed in (False, True):
        for shape in (*SMALL, *LARGE):
            say(f"{shape[0]} nodes, {shape[1]} sampled, {shape[2]} bytes, {'with keys' if keyed else 'plain'}")
            rounds.append(msgspec.json.decode(_alone("round", shape, keyed, False), type=RoundPoint))
    for shape in DURABLE:
        say(f"{shape[0]} nodes, {shape[1]} sampled, {shape[2]} bytes, with keys and journal")
        rounds.append(msgspec.json.decode(_alone("round", shape, True, True), type=RoundPoint))
    nodes = []
    for keyed in (False, True):
        for model in MODELS:
            say(f"node processes, {model} bytes, {'with keys' if keyed else 'plain'}")
            nodes.append(msgspec.json.decode(_alone("node", model, keyed), type=NodePoint))
    say("the mean alone")
    folds = [msgspec.json.decode(_alone("fold", model), type=FoldPoint) for model in MODELS[1:]]
    say("simulations")
    virtual = [msgspec.json.decode(_alone("virtual", count), type=VirtualPoint) for count in (1000, 5000, 10_000)]
    about = environment()
    points = Measured(
        machine=about["machine"], versions={name: version for name, version in about["versions"].items() if version},
        cores=len(os.sched_getaffinity(0)), rounds=rounds, nodes=nodes, folds=folds, virtual=virtual,
    )  # fmt: skip
    write(points)
    return points


def _main(kind: str, arguments: str) -> None:
    given = json.loads(arguments)
    point: msgspec.Struct
    if kind == "round":
        shape, keyed, durable = given
        point = _researcher(tuple(shape), keyed=keyed, durable=durable, rounds=_rounds_for(shape[2]))
    elif kind == "node":
        point = _node(given[0], keyed=given[1], rounds=_rounds_for(given[0]))
    elif kind == "fold":
        point = _fold(given[0], 15)
    else:
        point = _virtual(given[0], 8)
    print(msgspec.json.encode(point).decode())


if __name__ == "__main__":
    _main(*sys.argv[1:3])
