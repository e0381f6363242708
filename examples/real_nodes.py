"""A federation of real nodes: waits at zmq://127.0.0.1:7400 for two nodes that hold data tagged "#breast".

Set up the nodes first, each in a terminal of its own:

    fedplug node --folder hospital-a init --name hospital-a --approval off
    fedplug node --folder hospital-a dataset add a.csv --tags "#breast" --target diagnosis
    fedplug node --folder hospital-a start

and the same for hospital-b. With ``--approval off`` every plan runs: that is for owners who trust the researcher, as
you do here. Without it the owner approves the plan first. The files have 30 numeric columns and a column
``diagnosis`` of 0 and 1. ``make demo`` leaves such files behind: hospital-a.csv and so on, in the folder ``data`` of
those that it names last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Experiment
from fedplug_torch import TorchTrainingPlan


class TumourPlan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.BatchNorm1d(model_args["features"]), nn.Linear(model_args["features"], 2))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"], momentum=0.9)

    def training_data(self):
        features = self.dataset.table(without=["diagnosis"])
        return DataManager(features, self.dataset.column("diagnosis"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.model()(data).argmax(1) == target).float().mean().item()}


if __name__ == "__main__":
    training_args = {
        "num_updates": 50,
        "loader_args": {"batch_size": 16},
        "optimizer_args": {"lr": 0.05},
        "test_ratio": 0.2,
        "test_on_global_updates": True,
    }
    with Experiment(
        tags="#breast",
        training_plan_class=TumourPlan,
        model_args={"features": 30},
        training_args=training_args,
        round_limit=10,
        min_nodes=2,
        tensorboard=True,
    ) as exp:
        exp.run()
        for node, reply in exp.training_replies()[9].items():
            print(node, reply["sample_count"], "samples,", reply["metrics"])
        print("model:", exp.experimentation_path() / "model.safetensors")
