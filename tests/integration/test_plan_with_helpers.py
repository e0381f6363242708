"""A plan from a file, with helper modules and nested data, on node processes that have no such files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from node_kit import nodes_below

from fedplug import Experiment
from fedplug.core.errors import FedplugError
from fedplug.core.plan_path import load_plan_class
from fedplug.core.plugins import default_host
from fedplug.protocol import ResearcherEndpoint
from fedplug.simulation import Federation
from fedplug.transports.registry import open_transport

PLAN = '''
import numpy as np
from fedplug import DataManager, NumpyTrainingPlan
import blocks


class TwoViews(NumpyTrainingPlan):
    """Two views of a sample, joined by a model that lives in a module of its own."""

    def init_helpers(self):
        return [blocks, "views"]

    def init_dependencies(self):
        return ["from views.split import halves"]

    def init_model(self, model_args):
        return blocks.start(model_args["scale"])

    def training_data(self):
        parts = halves(self.dataset.column("x"))
        target = self.dataset.column("y"), {"number": np.arange(len(parts[0]))}
        return DataManager({"left": parts[0], "others": [parts[1]]}, target)

    def training_step(self, data, target):
        from blocks import loss

        return loss(self.model(), data, target[0])

    def testing_step(self, data, target):
        return {"accuracy": ((blocks.score(self.model(), data) > 0) == target[0]).mean()}
'''
BLOCKS = """
import numpy as np
from views import names

GAIN = {gain}


def start(scale):
    return dict(left=np.full(2, scale), right=np.full(2, scale))


def score(model, views):
    first, second = names.unpack(views)
    return first @ model["left"] + second @ model["right"]


def loss(model, views, target):
    {trouble}first, second = names.unpack(views)
    chance = 1 / (1 + np.exp(-score(model, views)))
    error = GAIN * (chance - target) / len(target)
    return GAIN * np.abs(chance - target).mean(), dict(left=first.T @ error, right=second.T @ error)
"""
SPLIT = "from . import names\n\n\ndef halves(x):\n    return x[:, : names.MIDDLE], x[:, names.MIDDLE :]\n"
NAMES = "MIDDLE = 2\n\n\ndef unpack(views):\n    return views['left'], views['others'][0]\n"
DECOY = "raise RuntimeError('a file of the node was imported')\n"
NODES = ("lyon", "paris")
ARGS = {
    "epochs": 2, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 1.0}, "test_ratio": 0.25,
    "test_on_local_updates": True,
}  # fmt: skip


def shards() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    made = {}
    for node in NODES:
        x = rng.normal(size=(80, 4))
        made[node] = {"x": x, "y": (x[:, 0] + x[:, 3] > 0).astype(np.int64)}
    return made


def plan(folder: Path, gain: float, trouble: str = "") -> type:
    """A plan whose files are gone once it is loaded and bundled by an experiment."""
    files = {
        "plan.py": PLAN, "blocks.py": BLOCKS.format(gain=gain, trouble=trouble), "views/__init__.py": "",
        "views/split.py": SPLIT, "views/names.py": NAMES,
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return load_plan_class(folder / "plan.py")


@contextmanager
def processes(url: str, folder: Path) -> Iterator[None]:
    """Node processes in a folder where other modules of the helpers' names lie in wait."""
    for name in ("blocks.py", "views.py"):
        (folder / name).write_text(DECOY)
    with nodes_below(folder) as make:
        for node, arrays in shards().items():
            np.savez(folder / f"{node}.npz", **arrays)
            make(node).add(folder / f"{node}.npz", tags=["views"], target="y").start(url, cwd=folder)
        yield


def experiment(plan_class: type, transport) -> Experiment:
    return Experiment(
        tags="views", training_plan_class=plan_class, model_args={"scale": 0.1}, training_args=ARGS,
        transport=transport, min_nodes=2, connect_timeout=60, seed=3, round_limit=3, progress="quiet",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nodes").mkdir()
    return tmp_path


def test_helpers_travel_to_nodes_that_do_not_have_them(folder):
    url = "zmq://127.0.0.1:0"
    simulated, real = [], []
    with (
        ResearcherEndpoint(open_transport(url, default_host()), url) as pool,
        processes(pool.address, folder / "nodes"),
    ):
        for gain in (1.0, 0.25):  # two plans with helpers of one name, in the same warm worker processes
            found = plan(folder / "researcher", gain)
            with experiment(found, Federation(shards(), tags="views")) as exp:
                exp.run()
                simulated.append(exp.params())
            with experiment(found, pool) as exp:
                for path in sorted((folder / "researcher").rglob("*.py")):
                    path.unlink()
                exp.run()
                real.append(exp.params())
                accuracies = [reply["metrics"]["test_local_accuracy"] for reply in exp.training_replies()[2].values()]
        failing = plan(folder / "researcher", 1.0, "raise KeyError('no luck')\n    ")
        with experiment(failing, pool) as exp, pytest.raises(FedplugError) as caught:
            exp.run()
    assert real == simulated
    assert real[0] != real[1]
    assert min(accuracies) > 0.8
    line = (BLOCKS.format(gain=1.0, trouble="raise KeyError('no luck')\n    ")).splitlines().index(
        "    raise KeyError('no luck')"
    ) + 1
    assert f"failed in blocks.loss, line {line}: raise KeyError('no luck') (called by training_step)" in str(
        caught.value
    )
    assert not {"blocks", "views"} & set(sys.modules)
