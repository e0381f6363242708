"""Small experiments in a simulation, for tests of what becomes of an experiment between its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedplug import AggOptimizer, DataManager, Decision, Experiment, NumpyTrainingPlan, Params, Strategy
from fedplug.simulation import Federation


class LinePlan(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.random.normal(size=3), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def predict(self, data):
        return data @ self.model()["w"] + self.model()["b"]

    def training_step(self, data, target):
        model = self.model()
        residual = data @ model["w"] + model["b"] - target
        return (residual**2).mean(), {"w": 2 * data.T @ residual / len(residual), "b": 2 * residual.mean()}


class Momentum(AggOptimizer):
    """Server momentum: v <- beta v + (start - aggregated); next = start - v."""

    def __init__(self, beta: float = 0.5) -> None:
        self.beta = beta
        self.velocity: Params | None = None

    def advance(self, start, aggregated, ctx):
        gradient = start - aggregated
        self.velocity = gradient if self.velocity is None else self.velocity * self.beta + gradient
        return start - self.velocity

    def state_dict(self) -> dict[str, Any]:
        return {} if self.velocity is None else {"velocity": self.velocity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.velocity = state.get("velocity")


class Counting(Strategy):
    """All nodes, and a count of the rounds that were selected."""

    def __init__(self) -> None:
        self.rounds = 0

    def select(self, ctx, nodes):
        self.rounds += 1
        return list(nodes)

    def judge(self, ctx, state):
        return Decision("wait" if len(state.outcomes) < len(state.selected) else "enough")

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rounds = state["rounds"]


def federation(*names: str) -> Federation:
    nodes = {}
    for name in names or ("a", "b", "c", "d"):
        index = ord(name) - ord("a")
        rng = np.random.default_rng(index)
        x = rng.normal(size=(20 + 5 * index, 3))
        nodes[name] = (x, x @ np.array([1.0, -2.0, 3.0]) + index)
    return Federation(nodes)


ARGS = {"epochs": 2, "loader_args": {"batch_size": 5}, "optimizer_args": {"lr": 0.02}}


def experiment(**settings: Any) -> Experiment:
    given = {
        "tags": "simulation", "training_plan_class": LinePlan, "training_args": ARGS, "round_limit": 6, "seed": 5,
        "progress": "quiet", "transport": federation(), "save_breakpoints": True,
    }  # fmt: skip
    return Experiment(**{**given, **settings})


def load(path: Any = None, **settings: Any) -> Experiment:
    return Experiment.load_breakpoint(path, **{"transport": federation(), "progress": "quiet", **settings})
