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

import msgspec
import numpy as np

from benchmarks.plans import NoOpPlan
from fedplug import Experiment, Monitor
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params
from fedplug.core.plugins import default_host
from fedplug.core.transport import TransportOptions
from fedplug.node import Node
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.keys import NodeKeys
from fedplug.node.store import NodeStore
from fedplug.testing.echo_nodes import KeyRing
from fedplug.transports.registry import open_transport
from fedplug_scaffold import FedAverage

TAG = "#bench"


class Stirred(FedAverage):
    """FedAverage that moves the first value of the model by 1, so that it is a new one in every round.

    A node keeps the last model that it was sent; if nothing changed, nothing would go down.
    """

    def finalize(self, state: WeightedMean) -> Params:
        assert state._sums is not None, "something was folded"
        state._sums[0][0] += state.total_weight
        return super().finalize(state)


class RoundTimes(Monitor):
    """Remembers how long each round took, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self.seconds.append(result.seconds)


@contextmanager
def experiment(
    values: int,
    tensors: int,
    nodes: int,
    transport: Any,
    *,
    options: TransportOptions | None = None,
    **settings: Any,
) -> Iterator[Experiment]:
    """An experiment of no-op rounds that has not looked for nodes yet.

    Args:
        values: Numbers in the model.
        tensors: Arrays in it.
        nodes: Nodes to wait for.
        transport: Where they connect.
        options: For the transport: the researcher's keys, say.
        settings: More arguments of `Experiment`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fedplug-bench-") as home,
        environment_variable("FEDPLUG_DIR", home),
        Experiment(
            training_plan_class=NoOpPlan,
            model_args={"values": values, "tensors": tensors},
            training_args={"num_updates": 1},
            transport=transport,
            min_nodes=nodes,
            connect_timeout=120,
            seed=1,
            progress="quiet",
            transport_options=options,
            **settings,
        ) as exp,
    ):
        yield exp


@contextmanager
def local_nodes(url: str, count: int, *, folders: bool = True) -> Iterator[None]:
    """Nodes in this process, training in their own threads.

    Args:
        url: Where the researcher is.
        count: Number of nodes.
        folders: Whether each has a folder, and so a journal and an audit log on the disk; else all is in memory.
    """
    data = MemoryDataset("bench", {"x": np.zeros((1, 1)), "y": np.zeros(1)}, tags=(TAG,))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedplug-bench-")))
        for index in range(count):
            name = f"node-{index:02d}"
            made = NodeStore.create(folder / name, name=name, node_id=name) if folders else NodeStore.in_memory(name)
            store = stack.enter_context(made)
            stack.enter_context(Node(store, url, worker="inline", datasets=[data]))
        yield


class Enrolment:
    """A researcher's keys, and the list of the nodes that it lets in."""

    def __init__(self) -> None:
        self.keys = open_transport("zmq://127.0.0.1:0", default_host()).new_keys()
        self._names: dict[str, str] = {}

    @property
    def options(self) -> TransportOptions:
        """What the researcher listens with."""
        return TransportOptions(keys=self.keys, enrolled=lambda key: self._names.get(key, ""))

    def allow(self, folder: Path, node_id: str) -> None:
        """Let a node in by the keys in its folder."""
        pair = NodeKeys(folder).own.pair()
        assert pair is not None, "a node makes its keys when it is made"
        self._names[pair.public] = node_id


@contextmanager
def node_processes(url: str, count: int, enrolment: Enrolment | None = None) -> Iterator[list[int]]:
    """Real node processes, started as their owner would; yields their process ids."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedplug-bench-")))
        np.savez(folder / "data.npz", x=np.zeros((1, 1)), y=np.zeros(1))
        pids = []
        for index in range(count):
            name = f"node-{index}"
            place = ["--folder", str(folder / name)]
            trust = [] if enrolment is None else ["--trust", enrolment.keys.public]
            _fedplug(
                "node", *place, "init", "--approval", "off", "--data-root", "/", "--name", name, "--id", name,
                "--researcher", url, *trust,
            )  # fmt: skip
            if enrolment is not None:
                enrolment.allow(folder / name, name)
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
def echo_nodes(url: str, count: int, *, first: int = 0, keys: KeyRing | None = None) -> Iterator[int]:
    """Nodes that send back what they get, all in one process of its own; yields its process id."""
    command = [sys.executable, "-m", "fedplug.testing.echo_nodes", url, str(count), "--first", str(first)]
    with ExitStack() as stack:
        if keys is not None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedplug-bench-"))) / "keys.json"
            file.write_bytes(msgspec.json.encode(keys))
            command += ["--keys", str(file)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
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
    before = exp.params()
    exp.run(rounds=rounds)
    _check_model(before, exp.params(), rounds if isinstance(exp.aggregator(), Stirred) else 0)
    return times.seconds


def _check_model(before: Params, after: Params, stirred: int) -> None:
    first = before.spec.names[0]
    expected = np.array(before[first])
    expected.flat[0] += stirred
    same = all(np.array_equal(after[name], expected if name == first else before[name]) for name in before)
    if not same:
        raise RuntimeError("A no-op round has changed the model.")


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
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
