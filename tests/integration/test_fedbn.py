"""FedBN (Li et al., ICLR 2021) over ZeroMQ: norm layers stay at their nodes, and that pays.

Three clinics photograph the same digits with different scanners (FedBN is about such a shift of features) and
see some digits more often than others. Every figure below is measured at the nodes, on held-out data of theirs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from node_kit import Node, nodes_below
from recorder_kit import Recorder
from sklearn.datasets import load_digits
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.core.plugins import default_host
from fedplug.node import NodeStore
from fedplug.node.state_store import STATE_FOLDER, _read
from fedplug.protocol import ResearcherEndpoint
from fedplug.simulation import Federation
from fedplug.transports.registry import open_transport
from fedplug_torch import TorchTrainingPlan

NODES = ("lyon", "nice", "paris")
ROUNDS = 8
SIZE = 450


class FedAvgPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(
            nn.BatchNorm1d(64), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        )  # fmt: skip

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])  # noqa: F821

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.model()(data).argmax(1) == target).float().mean()}


class FedBnPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(
            nn.BatchNorm1d(64), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        )  # fmt: skip

    def tag_parameters(self, name):
        return {"local", "persistent"} if name in self.norm_layer_names() else set()

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])  # noqa: F821

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.model()(data).argmax(1) == target).float().mean()}


def shards() -> dict[str, dict[str, Any]]:
    """Digits as three scanners see them: as they are, as a negative, and pale on a grey ground."""
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / 16
    rng = np.random.default_rng(7)
    left = np.ones(len(y), bool)
    made = {}
    for index, (node, scan) in enumerate(
        zip(NODES, (lambda a: a, lambda a: 1 - a, lambda a: 0.6 + 0.2 * a), strict=True)
    ):
        weight = np.where(y % 3 == index, 3.0, 1.0) * left
        rows = rng.choice(len(y), SIZE, replace=False, p=weight / weight.sum())
        left[rows] = False
        made[node] = {"x": scan(x[rows]).astype(np.float32), "y": y[rows]}
    return made


def made(make: Callable[[str], Node], folder: Path) -> Iterator[Node]:
    """The nodes, each with its part of the digits."""
    for node, arrays in shards().items():
        np.savez(folder / f"{node}.npz", **arrays)
        yield make(node).add(folder / f"{node}.npz", tags=["digits"], target="y")


def experiment(plan: type, transport: Any, **more: Any) -> Experiment:
    return Experiment(
        training_plan_class=plan,
        training_args={
            "epochs": 2, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 0.1}, "test_ratio": 0.3,
            "test_on_global_updates": True, "test_on_local_updates": True,
        },
        transport=transport, connect_timeout=60, seed=3, progress="quiet", **{"min_nodes": 3, **more},
    )  # fmt: skip


def accuracies(exp: Experiment, which: str = "global") -> dict[str, float]:
    last = exp.training_replies()[ROUNDS - 1]
    return {node: reply["metrics"][f"test_{which}_accuracy"] for node, reply in last.items()}


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Recorder, Path]:
    """FedBN over a node process, which is killed and started anew between two rounds, and two nodes in this process."""
    folder = tmp_path_factory.mktemp("fedbn")
    url = "zmq://127.0.0.1:0"
    recorder = Recorder(open_transport(url, default_host()))
    with (
        ResearcherEndpoint(recorder, url) as pool,
        experiment(FedBnPlan, pool) as exp,
        nodes_below(folder) as make,
        ExitStack() as stack,
    ):
        lyon, nice, paris = made(make, folder)
        for node in (lyon, paris):
            stack.enter_context(node.here(pool.address))
        nice.start(pool.address)
        exp.set_tags("digits")
        exp.run(3)
        nice.send(signal.SIGKILL)
        nice.wait()
        while nice.name in pool.nodes:
            pool.next_event(0.1)
        nice.start()
        exp.run(ROUNDS - 3)
    return exp, recorder, folder


@pytest.fixture(scope="module")
def simulated() -> dict[str, Experiment]:
    done = {}
    for plan in (FedAvgPlan, FedBnPlan):
        with experiment(plan, Federation(shards(), tags="digits"), tags="digits") as exp:
            exp.run(ROUNDS)
        done[plan.__name__] = exp
    return done


def test_a_node_that_was_killed_goes_on_and_the_bits_are_those_of_a_simulation(
    federated: tuple[Experiment, Recorder, Path], simulated: dict[str, Experiment]
) -> None:
    exp, _, _ = federated
    assert exp.params() == simulated["FedBnPlan"].params()
    assert accuracies(exp) == accuracies(simulated["FedBnPlan"])
    for number, replies in exp.training_replies().items():
        assert {reply["state"] for reply in replies.values()} == {"kept" if number else "none"}


def test_local_parameters_never_appear_in_the_bytes_that_a_node_sends(
    federated: tuple[Experiment, Recorder, Path],
) -> None:
    exp, recorder, folder = federated
    sent = b"\0".join(recorder.frames)
    shared = exp.params()
    assert list(shared) == ["1.weight", "4.weight", "4.bias"]
    assert sent.count(b"1.weight") >= 3, "the tables of what is sent can be read in the bytes"
    looked_for = 0
    for node in NODES:
        with NodeStore.open(folder / node) as store, store.transaction() as db:
            rows = db.execute("SELECT round, file, digest FROM states ORDER BY round").fetchall()
        assert [number for number, *_ in rows] == [ROUNDS - 2, ROUNDS - 1]
        for _, file, digest in rows:
            kept = _read(folder / node / STATE_FOLDER / file, digest).arrays
            assert len(kept) == 10
            for name, array in kept.items():
                short = name.removeprefix("parameters/")
                assert short.encode() not in sent
                if array.dtype == np.float32:
                    # Two neighbours are 64 bits that nobody hits by chance, unless they are where they began
                    # (the margins of the images are empty). A bias before a norm layer would be hit by reason:
                    # the running mean comes to it, which is why the model has none.
                    pairs = [array[at : at + 2] for at in range(0, array.size - 1, 2)]
                    moved = [pair for pair in pairs if not np.isin(pair, (0, 1)).all()]
                    assert not [name for pair in moved if pair.tobytes() in sent]
                    looked_for += len(moved)
    assert looked_for > 1000


def test_the_bytes_that_are_searched_do_hold_what_is_shared(simulated: dict[str, Experiment], tmp_path: Path) -> None:
    """Without this, the test above could search in the wrong place."""
    url = "zmq://127.0.0.1:0"
    recorder = Recorder(open_transport(url, default_host()))
    with (
        ResearcherEndpoint(recorder, url) as pool,
        experiment(FedAvgPlan, pool, min_nodes=1) as exp,
        nodes_below(tmp_path) as make,
        next(made(make, tmp_path)).here(pool.address),
    ):
        exp.set_tags("digits")
        exp.run(1)
    sent = b"\0".join(recorder.frames)
    # The mean over one node is that node's update, norm layers included.
    for name, array in exp.params().items():
        assert name.encode() in sent
        assert array.tobytes() in sent


def test_the_personal_model_beats_the_global_one(
    federated: tuple[Experiment, Recorder, Path], simulated: dict[str, Experiment]
) -> None:
    plain, personal = accuracies(simulated["FedAvgPlan"]), accuracies(federated[0])
    local = accuracies(federated[0], "local")
    for what, each in (("FedAvg, global model", plain), ("FedBN, global + local", personal), ("FedBN, trained", local)):
        figures = ", ".join(f"{node} {value:.3f}" for node, value in sorted(each.items()))
        print(f"{what}: {figures}; mean {np.mean(list(each.values())):.3f}")
    assert np.mean(list(personal.values())) > np.mean(list(plain.values())) + 0.05
    assert all(personal[node] >= plain[node] for node in NODES)
