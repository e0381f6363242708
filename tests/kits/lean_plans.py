"""A plan whose training is nothing but steps, to derive others from."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager
from fedplug_torch import TorchTrainingPlan


class Plain(TorchTrainingPlan):
    """Nothing but steps of SGD, on arrays of odd sizes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(5, 7)
            self.norm = nn.BatchNorm1d(7)
            self.two = nn.Linear(7, 3)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.two(F.relu(self.norm(self.one(x))))

    def init_model(self) -> nn.Module:
        return self.Net()

    def init_dependencies(self) -> list[str]:
        return [
            "import random", "import numpy as np", "from fedplug.core.trainer import hook",
            "from typing import Any, ClassVar", "from lean_plans import Plain",
        ]  # fmt: skip

    def init_helpers(self) -> list[Any]:
        return ["lean_plans"]

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target)
