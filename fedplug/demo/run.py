"""The demo itself: three node processes and a researcher over ZeroMQ, and a fair comparison afterwards."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.errors import FedplugError, UsageError
from fedplug.core.params import Array
from fedplug.core.plan_source import load_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodePool
from fedplug.core.trainer import Trainer
from fedplug.core.training_plan import PlanSetup
from fedplug.core.transport import TransportOptions
from fedplug.demo.data import DemoData
from fedplug.demo.signals import held_back
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.keys import NodeKeys
from fedplug.researcher.experiment import Experiment
from fedplug.researcher.keys import ResearcherKeys
from fedplug.simulation import Federation
from fedplug.transports.registry import open_transport

ROUNDS = 15
_URL = "zmq://127.0.0.1:0"
TRAINING_ARGS: Mapping[str, Any] = {
    "epochs": 2,
    "loader_args": {"batch_size": 16},
    "optimizer_args": {"lr": 0.01},
    "test_ratio": 0.0,
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found out.

    Attributes:
        federated: Accuracy of the federated model on the held-out data, in [0, 1].
        alone: Hospital → accuracy of a model that it trained by itself.
        pooled: Accuracy of a model trained on all data in one place, which federated learning avoids.
        rounds: Number of rounds.
        seconds: Wall time of the federated training.
        nodes: Node id → process id of the node that trained.
        experiment: The experiment's folder.
        folder: The folder with the nodes' folders and their data.
        fingerprint: SHA-256 of the federated model's parameters.
    """

    federated: float
    alone: Mapping[str, float]
    pooled: float
    rounds: int
    seconds: float
    nodes: Mapping[str, int]
    experiment: Path
    folder: Path
    fingerprint: str

    @property
    def mean_alone(self) -> float:
        """Mean accuracy of the hospitals on their own."""
        return sum(self.alone.values()) / len(self.alone)


class NodeProcesses:
    """The demo's nodes: one process each, started as a node's owner would, all stopped in the end.

    Args:
        folder: Where each node gets its own folder.
        data: What they own.
        say: Told every command before it is run.
    """

    def __init__(self, folder: Path, data: DemoData, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.data = data
        self.say = say
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, url: str, keys: ResearcherKeys) -> None:
        """Make the nodes, register their data, and let researcher and nodes know each other's keys.

        Args:
            url: Where the researcher listens.
            keys: The researcher's keys.

        Raises:
            FedplugError: A command failed.
        """
        researcher = keys.own.pair()
        assert researcher is not None
        for hospital, (features, labels) in self.data.hospitals.items():
            place = self.folder / hospital
            table = write_csv(self.folder / "data" / f"{hospital}.csv", self.data, features, labels)
            # The plan is the demo's own, so nobody needs to approve it.
            self._command(
                place, "init", "--name", hospital, "--id", hospital, "--researcher", url, "--trust", researcher.public,
                "--data-root", str(table.parent), "--approval", "off",
            )  # fmt: skip
            node = NodeKeys(place).own.pair()
            assert node is not None
            self.say(f"  fedplug researcher --folder {keys.home.name} allow {hospital} {node.public}")
            keys.allow(hospital, node.public)
            self._command(
                place, "dataset", "add", str(table), "--name", self.data.name,
                "--tags", ",".join(self.data.tags), "--target", self.data.target,
            )  # fmt: skip

    def start(self) -> None:
        """Start every node in a process of its own."""
        for hospital in self.data.hospitals:
            place = self.folder / hospital
            self.say(self._typed(place, "start"))
            with held_back(), (place / "node.log").open("ab") as log:
                self.processes[hospital] = subprocess.Popen(
                    [sys.executable, "-m", "fedplug", "node", "--folder", str(place), "start"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the demo, which then stops them in order
                )

    def check(self) -> None:
        """Make sure that all nodes are running.

        Raises:
            FedplugError: One has ended; the end of its log is shown.
        """
        for hospital, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / hospital / "node.log").read_text(errors="replace")
                raise FedplugError(
                    f"Node {hospital!r} ended with exit code {process.returncode}:\n{log[-1500:]}", node=hospital
                )

    def stop(self) -> None:
        """Stop all nodes: ask, wait, and insist."""
        with held_back():  # somebody who is in a hurry presses Ctrl-C twice
            for process in self.processes.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            for process in self.processes.values():
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _command(self, place: Path, *args: str) -> None:
        self.say(self._typed(place, *args))
        done = subprocess.run(
            [sys.executable, "-m", "fedplug", "node", "--folder", str(place), *args],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise FedplugError(f"'fedplug node {shlex.join(args)}' failed:\n{done.stderr.strip()}")

    def _typed(self, place: Path, *args: str) -> str:
        """The command as a person who stands in the demo's folder would type it."""
        above = f"{self.folder}/"
        return "  " + shlex.join(
            ["fedplug", "node", "--folder", place.name, *(arg.removeprefix(above) for arg in args)]
        )


def run_demo(
    data: DemoData, plan_class: type, folder: Path, *, rounds: int, seed: int, progress: str, say: Callable[[str], None]
) -> DemoResult:
    """Train the federation, then train alone and pooled with the same plan, and judge all on held-out data.

    Args:
        data: The hospitals' data.
        plan_class: The training plan.
        folder: Where the nodes' folders go; it must not hold nodes yet.
        rounds: Number of rounds.
        seed: Root of all randomness.
        progress: How progress is shown, as for `Experiment`.
        say: Told what is being done, one line at a time.

    Raises:
        FedplugError: Something did not work; everything that was started is stopped.
    """
    transport = open_transport(_URL, default_host())
    keys = ResearcherKeys(folder / "researcher")
    say(f"  fedplug researcher --folder {keys.home.name} init")
    if keys.own.pair() is None:
        keys.own.add(transport.new_keys())
    with ExitStack() as stack:
        exp = stack.enter_context(
            Experiment(
                training_plan_class=plan_class,
                training_args=TRAINING_ARGS,
                round_limit=rounds,
                tensorboard=True,
                transport=_URL,
                transport_options=keys.options(transport, _URL, TransportOptions()),
                min_nodes=len(data.hospitals),
                connect_timeout=60,
                seed=seed,
                progress=progress,
            )
        )
        nodes = NodeProcesses(folder, data, say)
        stack.callback(nodes.stop)
        nodes.prepare(exp.pool().description, keys)
        nodes.start()
        try:
            exp.set_tags(list(data.tags))
        except FedplugError:
            nodes.check()
            raise
        say("Training. The first round takes some seconds more: the nodes load PyTorch.")
        began = time.monotonic()
        exp.run()
        seconds = time.monotonic() - began
        nodes.check()
        pids = {hospital: process.pid for hospital, process in nodes.processes.items()}
        federated = accuracy(exp, data)
        path, fingerprint = exp.experimentation_path(), exp.params().fingerprint()
    say("")
    alone = {}
    for hospital, part in data.hospitals.items():
        say(f"For comparison: training on {hospital} alone ...")
        alone[hospital] = _train_together({hospital: part}, data, plan_class, rounds, seed)
    say("For comparison: training on all data in one place ...")
    everything = tuple(np.concatenate(columns) for columns in zip(*data.hospitals.values(), strict=True))
    pooled = _train_together({"pooled": everything}, data, plan_class, rounds, seed)
    return DemoResult(federated, alone, pooled, rounds, seconds, pids, path, folder, fingerprint)


def _train_together(
    parts: Mapping[str, tuple[Array, ...]], data: DemoData, plan_class: type, rounds: int, seed: int
) -> float:
    nodes = {
        name: MemoryDataset(data.name, columns_of(data, *part), tags=data.tags, target=data.target)
        for name, part in parts.items()
    }
    pool: NodePool = Federation(nodes)
    with Experiment(
        tags=list(data.tags), training_plan_class=plan_class, training_args=TRAINING_ARGS, round_limit=rounds,
        transport=pool, seed=seed, progress="quiet", experimentation_folder="fedplug-demo-comparison",
    ) as exp:  # fmt: skip
        exp.run()
        return accuracy(exp, data)


def accuracy(exp: Experiment, data: DemoData) -> float:
    """Accuracy of an experiment's global model on the held-out data, by the plan's own pipeline and testing step."""
    bundle = exp.training_plan_bundle()
    if bundle is None:
        raise UsageError("This experiment has no training plan.")
    dataset = MemoryDataset("held-out", columns_of(data, *data.held_out), tags=data.tags, target=data.target)
    plan = load_plan(bundle)()
    plan.setup(PlanSetup(dataset=dataset), with_optimizer=False)
    plan.set_params(exp.params())
    source = exp.host.wrap_data(plan.make_data(), plan.framework)
    return Trainer(plan.make_backend(), {"test": source}, only_for_eval=True).evaluate().metrics["accuracy"]


def columns_of(data: DemoData, features: Array, labels: Array) -> dict[str, Array]:
    """The data as named columns, as a node's CSV file has them."""
    return {**{name: features[:, i] for i, name in enumerate(data.columns)}, data.target: labels}


def write_csv(path: Path, data: DemoData, features: Array, labels: Array) -> Path:
    """Write one hospital's data as it would export it itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow([*data.columns, data.target])
        for row, label in zip(features, labels, strict=True):
            writer.writerow([*(repr(float(value)) for value in row), int(label)])
    return path
