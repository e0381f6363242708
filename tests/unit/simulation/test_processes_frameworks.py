"""Worker processes of a simulation: the bits of one process for plans of all frameworks, with all they may keep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_kit import outcome
from lean_plans import Plain
from torch import nn

from fedplug.simulation import IID, Federation
from fedplug.simulation.processes import ProcessEngine
from fedplug_declearn import Optimizer
from fedplug_sklearn import FedSGDClassifier


def federation(engine: Any) -> Federation:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((104, 5)).astype(np.float32), rng.integers(0, 3, 104)
    return Federation.from_arrays(x, y, partition=IID(4), seed=2, engine=engine)


@pytest.fixture(scope="module")
def workers() -> Iterator[Federation]:
    """Two workers for all tests: each loads PyTorch once."""
    with closing(federation(ProcessEngine(workers=2))) as made:
        yield made


class Dropping(Plain):
    """Draws random numbers, and keeps its norm layers to itself."""

    def tag_parameters(self, name: str) -> set[str]:
        return {"local", "persistent"} if name.startswith("norm") else set()

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(F.dropout(self.forward(data), 0.2), target)


class Declearned(Plain):
    def init_dependencies(self) -> list[str]:
        return [*super().init_dependencies(), "from fedplug_declearn import Optimizer"]

    def init_optimizer(self, optimizer_args: dict[str, Any]) -> Any:
        return Optimizer(lr=optimizer_args["lr"], modules=["adam"])


class Private(Plain):
    """Has no layer that looks at several samples."""

    def init_model(self) -> nn.Module:
        return nn.Linear(5, 3)

    def training_step(self, data: Any, target: Any) -> Any:
        return F.cross_entropy(self.forward(data), target)


class Linear(FedSGDClassifier):
    def training_data(self) -> Any:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))  # noqa: F821

    def init_dependencies(self) -> list[str]:
        return ["from fedplug import DataManager"]


def told_ways(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Which way to train was taken, as the log says; what is found out after many steps, workers may not come to."""
    said = [record.message for record in caplog.records if record.name == "fedplug.simulation"]
    return [text for text in said if " trains " in text]


@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        (Plain, {}),
        (Plain, {"aggregator": "scaffold", "rounds": 3, "training_args": {"epochs": None, "num_updates": 4}}),
        pytest.param(Dropping, {"rounds": 3}, marks=pytest.mark.slow),
        (Dropping, {"training_args": {"keep_optimizer_state": True, "optimizer_args": {"lr": 0.1, "momentum": 0.9}}}),
        pytest.param(
            Declearned, {"training_args": {"keep_optimizer_state": True}, "rounds": 3}, marks=pytest.mark.slow
        ),
        pytest.param(
            Private,
            {"training_args": {"dp_args": {"type": "local", "sigma": 0.5, "clip": 1.0}}},
            marks=pytest.mark.slow,
        ),
        (Linear, {"model_args": {"n_features": 5, "n_classes": 3}, "training_args": {"optimizer_args": {}}}),
    ],
)
def test_parameters_figures_and_signs_are_those_of_one_process(workers, caplog, plan, settings) -> None:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    torch.manual_seed(3)
    stream = torch.get_rng_state()
    found = outcome(workers, plan, **settings)
    assert torch.equal(torch.get_rng_state(), stream)
    said = told_ways(caplog)
    caplog.clear()
    assert found == outcome(federation("serial"), plan, **settings)
    alone = told_ways(caplog)
    assert said[-1] == alone[-1]
    assert len(said) <= len(alone), "each line once, and not again for the next experiment"
    states = [reply["state"] for replies in found["replies"].values() for reply in replies.values()]
    keeps = plan in (Dropping, Declearned, Private) or "aggregator" in settings
    assert ("kept" in states) is keeps
