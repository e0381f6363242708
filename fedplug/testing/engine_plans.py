"""The training plan on which engines are tested: needs no framework, and uses all that a task can bring along."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from fedplug import DataManager, NumpyTrainingPlan


class Wandering(NumpyTrainingPlan):
    """Goes towards the mean of its samples, by a way that depends on everything that an engine could mix up.

    That is: the node's samples and their order, the round, the global random streams, the global parameters, the extra
    arrays ``"pull"``, and what the node has kept.

    Model arguments:
        keeps: Whether the array ``own`` stays at the node from round to round.
        fails_at: Id of a node whose training fails in its second step; "" for none.
    """

    def init_dependencies(self) -> list[str]:
        """What the source of the plan needs at a node."""
        return ["import random", "from typing import Any"]

    def init_model(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """An array that is shared and one that can be kept."""
        self.keeps = model_args.get("keeps", False)
        self.fails_at = model_args.get("fails_at", "")
        self.step = 0
        return {"w": np.zeros(4, np.float32), "own": np.zeros(4, np.float32)}

    def tag_parameters(self, name: str) -> set[str]:
        """What becomes of an array."""
        return {"local", "persistent"} if self.keeps and name == "own" else set()

    def training_data(self) -> DataManager:
        """The arrays ``x`` and ``y`` of the node."""
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data: Any, target: Any) -> Any:
        """The loss, and the gradients."""
        self.step += 1
        if self.step == 2 and self.fails_at == self.node_id():
            raise ValueError(f"Node {self.node_id()} fails, as the conformance kit wants.")
        noise = np.random.standard_normal(4).astype(np.float32) * random.random()  # noqa: NPY002 - the stream that a node seeds
        gap = self.model()["w"] - data.mean(0) + noise * (1 + self.round()) + 0.1 * self.model()["own"]
        if "pull" in self.aux():
            gap = gap + self.aux()["pull"]["w"]
        return float(gap @ gap), {"w": 2 * gap, "own": gap + target.mean()}

    def testing_step(self, data: Any, target: Any) -> Any:
        """How far the model is from the held-out samples."""
        return {"gap": float(np.abs(self.model()["w"] - data.mean(0)).sum())}
