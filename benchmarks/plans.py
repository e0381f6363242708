"""A training plan that does nothing, so that only what stands around the training is measured."""

from __future__ import annotations

from typing import Any

from fedplug.core.data import DataManager
from fedplug.core.trainer.backend import Backend
from fedplug.core.training_plan import TrainingPlan


class NoOpPlan(TrainingPlan):
    """Returns the parameters unchanged after one empty step: ``values`` float32 in ``tensors`` tensors."""

    framework = "numpy"

    class Still(Backend):
        """Neither computes nor changes anything."""

        def forward(self, data: Any, target: Any) -> float:
            return 0.0

        def backward(self, loss: Any) -> None: ...

        def step(self) -> None: ...

        def evaluate(self, data: Any, target: Any) -> dict[str, float]:
            return {}

    def init_dependencies(self) -> list[str]:
        return [
            "from typing import Any",
            "import numpy as np",
            "from fedplug.core.params import Params",
            "from fedplug.core.trainer.backend import Backend",
            "from fedplug.core.training_plan import TrainingPlan",
        ]

    def training_data(self) -> DataManager:
        return DataManager(np.zeros((1, 1)), np.zeros(1), batch_size=1)  # noqa: F821

    def make_backend(self) -> Backend:
        return self.Still()

    def _build_model(self, model_args: Any) -> Any:
        return model_args

    def _build_optimizer(self, optimizer_args: Any) -> Any:
        return self

    def set_params(self, params: Any) -> None:
        self.params = params

    def get_params(self, allocate: Any = None) -> Any:
        if not hasattr(self, "params"):
            values, tensors = self.model()["values"], self.model()["tensors"]
            parts = np.array_split(np.arange(values, dtype=np.float32) / values, tensors)  # noqa: F821
            return Params.from_arrays({f"t{i}": part for i, part in enumerate(parts)})  # noqa: F821
        if allocate is None:
            return self.params
        room = allocate(self.params.nbytes)
        room[: self.params.nbytes] = np.frombuffer(self.params.buffer, np.uint8)  # noqa: F821
        return Params(self.params.spec, room[: self.params.nbytes])  # noqa: F821
