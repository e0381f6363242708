"""Federations to measure: node processes over ZeroMQ, nodes in this process, echo nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plans import NoOpPlan
from fedplug import Experiment, Monitor
from fedplug.core.context import RoundContext, RoundResult
from fedplug.node import Node
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.store import NodeStore

TAG = "#bench"


class RoundTimes(Monitor):
    """Remembers how long each round took, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self.seconds.append(result.seconds)


@contextmanager
def experiment(values: int, tensors: int, nodes: int, transport: Any) -> Iterator[Experiment]:
    """An experiment of no-op rounds that has not looked for nodes yet."""
    with (
        tempfile.TemporaryDirectory(prefix="fedplug-bench-") as home,
        _environment("FEDPLUG_DIR", home),
        Experiment(
            training_plan_class=NoOpPlan,
            model_args={"values": values, "tensors": tensors},
            training_args={"num_updates": 1},
            transport=transport,
            min_nodes=nodes,
            connect_timeout=120,
            seed=1,
            progress="quiet",
        ) as exp,
    ):
        yield exp


@contextmanager
def local_nodes(url: str, count: int) -> Iterator[None]:
    """Nodes in this process, training in their own threads."""
    data = MemoryDataset("bench", {"x": np.zeros((1, 1)), "y": np.zeros(1)}, tags=(TAG,))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedplug-bench-")))
        for index in range(count):
            name = f"node-{index:02d}"
            store = stack.enter_context(NodeStore.create(folder / name, name=name, node_id=name))
            stack.enter_context(Node(store, url, worker="inline", datasets=[data]))
        yield


@contextmanager
def node_processes(url: str, count: int) -> Iterator[list[int]]:
    """Real node processes, started as their owner would; yields their process ids."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedplug-bench-")))
        np.savez(folder / "data.npz", x=np.zeros((1, 1)), y=np.zeros(1))
        pids = []
        for index in range(count):
            place = ["--folder", str(folder / f"node-{index}")]
            _fedplug(
                "node",
                *place,
                "init",
                "--approval",
                "off",
                "--data-root",
                "/",
                "--name",
                f"node-{index}",
                "--researcher",
                url,
            )
            _fedplug(
                "node", *place, "dataset", "add", "--type", "arrays", "--path", str(folder / "data.npz"),
                "--name", "bench", "--tags", TAG,
            )  # fmt: skip
            process = subprocess.Popen(
                [sys.executable, "-m", "fedplug", "node", *place, "start"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(_stop, process)
            pids.append(process.pid)
        yield pids


@contextmanager
def echo_nodes(url: str, count: int) -> Iterator[int]:
    """Nodes that send back what they get, all in one process of its own; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedplug.testing.echo_nodes", url, str(count)], stdin=subprocess.PIPE
    )
    try:
        yield process.pid
    finally:
        process.communicate()


def run_rounds(exp: Experiment, rounds: int, tags: Sequence[str] = (TAG,)) -> list[float]:
    """Run ``rounds`` rounds and return the seconds of each; finds the nodes first, if that is still to do."""
    if exp.training_data() is None:
        exp.set_tags(list(tags))
    times = RoundTimes()
    exp.add_monitor(times)
    before = exp.params().fingerprint()
    exp.run(rounds=rounds)
    if exp.params().fingerprint() != before:
        raise RuntimeError("A no-op round has changed the model.")
    return times.seconds


def _fedplug(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "fedplug", *args], check=True, stdout=subprocess.DEVNULL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
