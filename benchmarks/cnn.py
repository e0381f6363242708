"""S2: the rounds of S1 with a convolutional network, over the plain loop, in turn in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import Result
from benchmarks.plain_loop import CNN
from benchmarks.simulation import measure
from fedplug import DataManager
from fedplug.simulation import CohortEngine, Engine, ProcessEngine, SerialEngine
from fedplug_torch import TorchTrainingPlan

NODES, SAMPLED = 100, 10


class CNNPlan(TorchTrainingPlan):
    """The convolutional network of the plain loop, as a researcher writes it."""

    class Net(nn.Module):
        """Convolutions of 32 and 64 filters, 128, 10: 1,199,882 parameters, and no dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(1, 32, 3)
            self.two = nn.Conv2d(32, 64, 3)
            self.three = nn.Linear(64 * 12 * 12, 128)
            self.four = nn.Linear(128, 10)

        def forward(self, x: torch.Tensor) -> Any:
            x = F.relu(self.two(F.relu(self.one(x.view(-1, 1, 28, 28)))))
            return self.four(F.relu(self.three(F.max_pool2d(x, 2).flatten(1))))

    def init_model(self) -> nn.Module:
        return self.Net()

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target)


def run(quick: bool = False) -> list[Result]:
    """Measure each engine; a round takes several seconds of a core, so there are few."""
    pairs = 1 if quick else 5
    ways: list[tuple[str, Engine, float, bool]] = [
        ("serial, lean step", SerialEngine(), 1.02, False),
        ("serial, own loop", SerialEngine(lean=False), 1.02, False),
        ("cohort, which does not stack convolutions", CohortEngine(), 1.02, False),
        ("2 processes, lean step", ProcessEngine(2), 0.5, True),
    ]
    return [
        measure("S2", NODES, SAMPLED, pairs, engine, how, target, model=CNN, plan=CNNPlan, by_wall=by_wall)
        for how, engine, target, by_wall in ways
    ]
