"""A federation of three virtual nodes in one process: how to try a training plan."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.simulation import Federation
from fedplug_torch import TorchTrainingPlan


class MyPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(2, model_args["hidden"]), nn.ReLU(), nn.Linear(model_args["hidden"], 2))

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)


def points(seed, n=200):
    x = np.random.default_rng(seed).normal(size=(n, 2))
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


hospitals = Federation({"paris": points(1), "lyon": points(2), "nice": points(3)}, tags="#points")
args = {"epochs": 3, "loader_args": {"batch_size": 20}, "optimizer_args": {"lr": 0.02}}
with Experiment(
    tags="#points",
    training_plan_class=MyPlan,
    model_args={"hidden": 16},
    training_args=args,
    round_limit=10,
    transport=hospitals,
    seed=1,
) as exp:
    exp.run()
    x, y = points(4)
    right = exp.training_plan().model()(torch.tensor(x, dtype=torch.float32)).argmax(1).numpy() == y
    print(f"accuracy on new points: {right.mean():.2f}")
