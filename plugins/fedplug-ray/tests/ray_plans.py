"""Plans that the tests of the Ray engine train, and how they are trained."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, QuorumStrategy
from fedplug.simulation import Faults, Federation
from fedplug_torch import TorchTrainingPlan

NODES = 9
ARGS: dict[str, Any] = {
    "epochs": 1,
    "loader_args": {"batch_size": 8},
    "optimizer_args": {"lr": 0.1},
    "log_interval": 1,
}


class Classifier(TorchTrainingPlan):
    """With dropout or without. Without, its training is nothing but steps of SGD."""

    def init_model(self):
        hidden, dropout = self.model_args()["hidden"], self.model_args().get("dropout")
        middle = nn.Dropout(dropout) if dropout else nn.ReLU()
        return nn.Sequential(nn.Linear(5, hidden), middle, nn.Linear(hidden, 3))

    def init_optimizer(self, optimizer_args):
        kind = torch.optim.Adam if self.model_args().get("dropout") else torch.optim.SGD
        return kind(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


class Slope(NumpyTrainingPlan):
    """A line, and nothing of torch. ``model_args`` say at which nodes something happens in the second step."""

    def init_dependencies(self):
        return ["import os", "import signal", "import time", "import numpy as np", "from pathlib import Path"]

    def init_model(self):
        self.steps = 0
        return {"w": np.zeros((5, 1), np.float32)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        self.steps += 1
        args = self.model_args()
        if self.steps == 2 and self.node_id() in args.get("fails", ()):
            raise ValueError("no such luck")
        if self.steps == 2 and self.node_id() in args.get("kills", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 2 and self.node_id() in args.get("waits", ()):
            folder = Path(args["folder"])
            (folder / f"{self.node_id()}.{os.getpid()}").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        gap = data @ self.model()["w"] - target.reshape(-1, 1)
        return float((gap**2).mean()), {"w": 2 * data.T @ gap / len(gap)}


class Told(Monitor):
    """Keeps what the nodes tell, but for times."""

    def __init__(self) -> None:
        self.signs: dict[str, list[tuple[Any, ...]]] = {}

    def progress(self, node_id, progress):
        told = (progress.key.round, progress.phase, progress.step, progress.total_steps, progress.epoch)
        self.signs.setdefault(node_id, []).append((*told, progress.samples, progress.metrics))


def federation(engine: Any, **settings: Any) -> Federation:
    """Nodes of different sizes."""
    rng = np.random.default_rng(0)
    data = {}
    for number in range(NODES):
        size = 10 + 3 * number
        data[f"n{number}"] = (rng.standard_normal((size, 5)).astype(np.float32), rng.integers(0, 3, size))
    return Federation(data, engine=engine, **settings)


def steady(engine: Any) -> Federation:
    """Nodes of which some drop out, and which reply in another order than they are asked in."""
    return federation(engine, faults=Faults(drop_out=0.2, spread=1.0))


def trained(nodes: Federation, plan: type, args: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """All that came out of an experiment of two rounds, but for times."""
    told = Told()
    settings = {"node_selection_strategy": QuorumStrategy(0.3), "round_limit": 2, **settings}
    exp = Experiment(
        tags="simulation", transport=nodes, training_plan_class=plan, training_args={**ARGS, **(args or {})},
        seed=5, progress="quiet", save_breakpoints=False, **settings,
    )  # fmt: skip
    with exp:
        exp.add_monitor(told)
        exp.run()
        replies = {
            number: {node: {**reply, "timing": None} for node, reply in each.items()}
            for number, each in exp.history.replies().items()
        }
        dropped = [each["dropped"] for each in exp.history.rounds()]
        return {"params": exp.params(), "replies": replies, "dropped": dropped, "signs": told.signs}
