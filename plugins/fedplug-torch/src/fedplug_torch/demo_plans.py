"""The training plans of ``fedplug demo``, written as any researcher would write them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager
from fedplug_torch import TorchTrainingPlan


class BreastCancerPlan(TorchTrainingPlan):
    """A small network on 30 measurements of a tumour."""

    def init_model(self, model_args):
        hidden = model_args.get("hidden", 16)
        return nn.Sequential(nn.Linear(30, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])

    def init_dependencies(self):
        return ["import numpy as np"]

    def scale(self, features):
        # typical magnitude of each measurement (radius in tens, area in thousands, ...): mean, error, worst
        mean = [10, 10, 100, 1000, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
        error = [1, 1, 1, 100, 0.01, 0.01, 0.1, 0.01, 0.01, 0.01]
        return 2 * np.log(0.1 + features / np.array(mean + error + mean))  # most of them are skewed

    def training_data(self):
        features = self.dataset.table(without=["diagnosis"])
        return DataManager(self.scale(features), self.dataset.column("diagnosis"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.model()(data).argmax(1) == target).float().mean().item()}


class DigitsPlan(TorchTrainingPlan):
    """A small network on images of 8 x 8 pixels."""

    def init_model(self, model_args):
        hidden = model_args.get("hidden", 64)
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])

    def scale(self, pixels):
        return pixels / 16

    def training_data(self):
        pixels = self.dataset.table(without=["digit"])
        return DataManager(self.scale(pixels), self.dataset.column("digit"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    def testing_step(self, data, target):
        return {"accuracy": (self.model()(data).argmax(1) == target).float().mean().item()}
