"""One plan, one seed: the same model to the last bit, in a simulation, over inproc:// and over zmq://."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from node_kit import nodes_below
from sklearn.datasets import load_breast_cancer
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.simulation import Federation
from fedplug_torch import TorchTrainingPlan

NODES = ("lyon", "nice", "paris")


class CancerPlan(TorchTrainingPlan):
    """Has everything that could make bits differ: dropout, BatchNorm's counters, shuffling, momentum, global draws."""

    def init_model(self, model_args):
        return nn.Sequential(
            nn.BatchNorm1d(30), nn.Linear(30, model_args["hidden"]), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"], momentum=0.9)

    def init_dependencies(self) -> list[str]:
        return ["import random", "import numpy as np"]

    def training_data(self):
        x = self.dataset.column("x")
        noise = np.random.normal(size=x.shape) * 1e-3 + random.random() * 1e-3  # noqa: F821
        return DataManager(x + noise, self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)


def parts() -> dict[str, dict[str, Any]]:
    bunch = load_breast_cancer()
    rows = np.array_split(np.argsort(bunch.data[:, 0]), 3)
    return {node: {"x": bunch.data[index], "y": bunch.target[index]} for node, index in zip(NODES, rows, strict=True)}


def train(transport: Any, ready: Callable[[Experiment], Any] | None = None) -> Experiment:
    exp = Experiment(
        training_plan_class=CancerPlan,
        model_args={"hidden": 8},
        training_args={"epochs": 2, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 0.01}},
        round_limit=3,
        transport=transport,
        min_nodes=3,
        seed=11,
        progress="quiet",
    )
    with exp, ExitStack() as stack:
        exp.pool()
        if ready:
            stack.enter_context(ready(exp))
        exp.set_tags("#bits")
        exp.run()
    return exp


@contextmanager
def nodes_in_threads(url: str, folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        for name, arrays in parts().items():
            data = MemoryDataset("cancer", arrays, tags=("#bits",), target="y")
            store = stack.enter_context(NodeStore.create(folder / name, name=name, node_id=name))
            stack.enter_context(Node(store, url, worker="inline", datasets=[data]))
        yield


@contextmanager
def nodes_in_processes(url: str, folder: Path) -> Iterator[None]:
    """Two as processes of their own; the third in this one, where it has no framework to load and is always early."""
    with nodes_below(folder) as make, ExitStack() as stack:
        for name, arrays in parts().items():
            np.savez(folder / f"{name}.npz", **arrays)
            node = make(name).add(folder / f"{name}.npz", name="cancer", tags=["#bits"], target="y")
            if name == "paris":
                stack.enter_context(node.here(url))
            else:
                node.start(url)
        yield


@pytest.fixture(scope="module")
def simulated() -> Experiment:
    return train(Federation(parts(), tags="#bits"))


def test_a_simulation_repeats_itself(simulated: Experiment) -> None:
    again = train(Federation(parts(), tags="#bits"))
    assert again.params().fingerprint() == simulated.params().fingerprint()


def test_inproc_gives_the_same_bits(simulated: Experiment, inproc_url: str, tmp_path: Path) -> None:
    exp = train(inproc_url, lambda _: nodes_in_threads(inproc_url, tmp_path))
    assert exp.params() == simulated.params()
    assert _losses(exp) == _losses(simulated)


def test_zmq_between_processes_gives_the_same_bits(simulated: Experiment, zmq_url: str, tmp_path: Path) -> None:
    exp = train(zmq_url, lambda exp: nodes_in_processes(exp.pool().description, tmp_path))
    assert exp.params() == simulated.params()
    assert _losses(exp) == _losses(simulated)


def test_zmq_within_one_process_gives_the_same_bits(simulated: Experiment, zmq_url: str, tmp_path: Path) -> None:
    exp = train(zmq_url, lambda exp: nodes_in_threads(exp.pool().description, tmp_path))
    assert exp.params() == simulated.params()


def _losses(exp: Experiment) -> list[dict[str, float]]:
    return [
        {n: r["metrics"]["loss"] for n, r in sorted(replies.items())} for replies in exp.training_replies().values()
    ]
