"""A plan without a framework, to derive others from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from fedplug import DataManager, NumpyTrainingPlan


class Walk(NumpyTrainingPlan):
    """Goes towards the mean of its samples, by a random way."""

    def init_model(self) -> dict[str, Any]:
        return {"w": np.zeros(4, np.float32)}

    def init_dependencies(self) -> list[str]:
        return [
            "import os", "import random", "import signal", "import sys", "import time", "import numpy as np",
            "from walk_plan import Walk",
        ]  # fmt: skip

    def init_helpers(self) -> list[Any]:
        return ["walk_plan"]

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        gap = self.model()["w"] - data.mean(0) + np.random.standard_normal(4).astype(np.float32) * random.random()
        return float(gap @ gap), {"w": 2 * gap}

    def testing_step(self, data: Any, target: Any) -> Any:
        return {"loss": float(np.abs(self.model()["w"] - data.mean(0)).sum())}
