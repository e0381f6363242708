"""Ditto (Li et al., ICML 2021) over ZeroMQ: a personal model pays where labels differ, and never leaves.

Four clinics see three or four kinds of digits each. Every figure is measured at the nodes, on held-out data of theirs.
The method comes from the outside package examples/fedplug-personal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from node_kit import nodes_below
from recorder_kit import Recorder
from sklearn.datasets import load_digits
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.core.params import Params
from fedplug.core.plugins import default_host
from fedplug.node import NodeStore
from fedplug.node.state_store import STATE_FOLDER, _read
from fedplug.protocol import ResearcherEndpoint
from fedplug.simulation import Federation
from fedplug.transports.registry import open_transport
from fedplug_torch import TorchTrainingPlan

PACKAGE = Path(__file__).parents[2] / "examples" / "fedplug-personal" / "src"
CLASSES = {"caen": (0, 1, 2, 3), "lyon": (2, 3, 4, 5), "nice": (5, 6, 7), "paris": (7, 8, 9)}
ROUNDS = 6


@pytest.fixture(scope="module", autouse=True)
def package() -> Iterator[Any]:
    """The package is importable, here and in the processes that are started from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH", "")])))
        yield


class FedAvgPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])  # noqa: F821

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.forward(data).argmax(1) == target).float().mean()}


def ditto_plan() -> type[TorchTrainingPlan]:
    from fedplug_personal import Ditto

    class DittoPlan(Ditto, TorchTrainingPlan):
        ditto_lambda = 0.1

        def init_model(self, model_args):
            return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

        def init_optimizer(self, optimizer_args):
            return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])  # noqa: F821

        def training_data(self):
            return DataManager(self.dataset.column("x"), self.dataset.column("y"))

        def training_step(self, data, target):
            return F.cross_entropy(self.forward(data), target)

        def testing_step(self, data, target):
            return {"accuracy": (self.forward(data).argmax(1) == target).float().mean()}

    return DittoPlan


def shards() -> dict[str, dict[str, Any]]:
    """Digits by label: what two nodes share is split between them."""
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / 16
    rng = np.random.default_rng(3)
    rows: dict[str, list[Any]] = {node: [] for node in CLASSES}
    for digit in range(10):
        nodes = [node for node, digits in CLASSES.items() if digit in digits]
        parts = np.array_split(rng.permutation(np.flatnonzero(y == digit)), len(nodes))
        for node, part in zip(nodes, parts, strict=True):
            rows[node].append(part)
    return {node: {"x": x[np.concatenate(r)], "y": y[np.concatenate(r)]} for node, r in rows.items()}


def experiment(plan: type, transport: Any, **more: Any) -> Experiment:
    return Experiment(
        training_plan_class=plan,
        training_args={
            "epochs": 1, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 0.1}, "test_ratio": 0.3,
            "test_on_global_updates": True, "test_on_local_updates": True,
        },
        transport=transport, min_nodes=4, connect_timeout=60, seed=3, progress="quiet", **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def federated(package: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Recorder, Path, Params]:
    """Ditto over a node process, which has to find the package, and three nodes in this process, which start faster."""
    folder = tmp_path_factory.mktemp("ditto")
    url = "zmq://127.0.0.1:0"
    recorder = Recorder(open_transport(url, default_host()))
    with (
        ResearcherEndpoint(recorder, url) as pool,
        experiment(ditto_plan(), pool) as exp,
        nodes_below(folder) as make,
        ExitStack() as stack,
    ):
        for node, arrays in shards().items():
            np.savez(folder / f"{node}.npz", **arrays)
            made = make(node).add(folder / f"{node}.npz", tags=["digits"], target="y")
            if node == "paris":
                made.start(pool.address)
            else:
                stack.enter_context(made.here(pool.address))
        exp.set_tags("digits")
        first = exp.params()
        exp.run(ROUNDS)
    return exp, recorder, folder, first


def metrics(exp: Experiment, name: str) -> dict[str, float]:
    last = exp.training_replies()[ROUNDS - 1]
    return {node: reply["metrics"][name] for node, reply in last.items()}


def test_the_personal_model_beats_the_global_one_on_every_node(
    federated: tuple[Experiment, Recorder, Path, Params],
) -> None:
    exp = federated[0]
    # Both as a round begins: the global model as it came, the personal one as the last round left it.
    shared, personal = metrics(exp, "test_global_accuracy_of_global"), metrics(exp, "test_global_accuracy")
    trained = metrics(exp, "test_local_accuracy")
    for what, each in (("global model", shared), ("personal model", personal), ("personal, trained", trained)):
        figures = ", ".join(f"{node} {value:.3f}" for node, value in sorted(each.items()))
        print(f"Ditto, {what}: {figures}; mean {np.mean(list(each.values())):.3f}")
    assert sorted(shared) == sorted(CLASSES)
    assert all(personal[node] > shared[node] for node in CLASSES)
    assert np.mean(list(personal.values())) > np.mean(list(shared.values())) + 0.05


def test_the_global_model_has_the_bits_of_plain_fedavg(federated: tuple[Experiment, Recorder, Path, Params]) -> None:
    with experiment(FedAvgPlan, Federation(shards(), tags="digits"), tags="digits") as plain:
        plain.run(ROUNDS)
    exp = federated[0]
    assert exp.params() == plain.params()
    assert metrics(exp, "test_global_accuracy_of_global") == metrics(plain, "test_global_accuracy")
    for number, replies in exp.training_replies().items():
        for node, reply in replies.items():
            expected = plain.training_replies()[number][node]
            assert reply["state"] == ("kept" if number else "none")
            assert (reply["sample_count"], reply["steps"]) == (expected["sample_count"], expected["steps"])


def test_no_personal_parameter_is_in_the_bytes_that_a_node_sends(
    federated: tuple[Experiment, Recorder, Path, Params],
) -> None:
    exp, recorder, folder, start = federated
    sent = b"\0".join(recorder.frames)
    assert list(exp.params()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert sent.count(b"0.weight") >= ROUNDS * len(CLASSES), "the tables of what is sent can be read in the bytes"
    assert b"ditto/" not in sent
    looked_for = 0
    for node in CLASSES:
        with NodeStore.open(folder / node) as store, store.transaction() as db:
            rows = db.execute("SELECT round, file, digest FROM states ORDER BY round").fetchall()
        assert [number for number, *_ in rows] == [ROUNDS - 2, ROUNDS - 1]
        for _, file, digest in rows:
            kept = _read(folder / node / STATE_FOLDER / file, digest).arrays
            assert sorted(kept) == sorted(f"ditto/{name}" for name in exp.params())
            # The first pixel is empty in every image, so all models have its weights from the first global model:
            # what is searched does hold what was sent.
            assert all(weight.tobytes() in sent for weight in kept["ditto/0.weight"][:, 0])
            for name, first in start.items():
                own = kept[f"ditto/{name}"].reshape(-1, 2)
                moved = own[(own != first.reshape(-1, 2)).all(axis=1)]
                # Two neighbours are 64 bits that nobody hits by chance.
                assert not [pair for pair in moved if pair.tobytes() in sent]
                looked_for += len(moved)
    assert looked_for > 4000
