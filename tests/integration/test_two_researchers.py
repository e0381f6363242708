"""One node process, two researchers at once, and two data sets that share a tag."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_kit import Node

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import DatasetError
from fedplug.simulation import Federation

X = np.random.default_rng(5).normal(size=(60, 3))
Y = (X @ [1.0, -2.0, 0.5] > 0).astype(np.int64)


class Linear(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np"]

    def init_model(self, model_args):
        return {"w": np.zeros(3)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return float((error**2).mean()), {"w": 2 * data.T @ error / len(error)}


def experiment(**settings: Any) -> Experiment:
    given = {
        "training_plan_class": Linear,
        "training_args": {"epochs": 2, "loader_args": {"batch_size": 10}, "optimizer_args": {"lr": 0.05}},
        "round_limit": 4,
        "transport": "zmq://127.0.0.1:0",
        "min_nodes": 1,
        "connect_timeout": 60,
        "progress": "quiet",
    }
    return Experiment(**{**given, **settings})


@pytest.fixture
def node(make_node: Callable[[str], Node], tmp_path: Path) -> Node:
    """A node with data sets ``old`` and ``new``, both tagged ``wards``."""
    node = make_node("clinic").init("--approval", "off")
    said = ""
    for name, part in (("old", slice(0, 20)), ("new", slice(20, 60))):
        np.savez(tmp_path / f"{name}.npz", x=X[part], y=Y[part])
        said = node.type("dataset", "add", tmp_path / f"{name}.npz", "--tags", f"wards,{name}")
    assert "A search for wards" not in said  # each has a tag of its own
    return node


def alone(part: slice, seed: int) -> Any:
    """What the experiment comes to where nobody else is at the node."""
    federation = Federation({"clinic": {"x": X[part], "y": Y[part]}}, tags="data")
    with experiment(transport=federation, tags="data", seed=seed) as exp:
        exp.run()
        return exp.params()


def test_two_researchers_train_at_once_on_two_data_sets_and_each_gets_the_bits_that_it_would_get_alone(node):
    with experiment(seed=1) as first, experiment(seed=2) as second:
        node.start(first.pool().description, second.pool().description)
        first.set_tags(["wards", "old"])
        second.set_tags(["wards", "new"])
        errors: list[BaseException] = []

        def run(exp: Experiment) -> None:
            try:
                exp.run()
            except BaseException as error:  # noqa: BLE001 - told by the test
                errors.append(error)

        threads = [threading.Thread(target=run, args=(exp,)) for exp in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert first.params() == alone(slice(0, 20), 1)
        assert second.params() == alone(slice(20, 60), 2)


def test_a_tag_that_two_data_sets_carry_is_refused_as_ambiguous_and_both_are_named(node):
    with experiment(seed=1) as exp:
        node.start(exp.pool().description)
        with pytest.raises(DatasetError, match=r"(?s)wards.*'new'.*'old'|wards.*'old'.*'new'"):
            exp.set_tags("wards")
        exp.set_tags(["wards", "new"])
        assert exp.run(rounds=1) == 1


def test_a_researcher_who_is_away_does_not_hold_up_the_other(node):
    with experiment(seed=2) as exp:
        node.start("zmq://127.0.0.1:1", exp.pool().description)
        exp.set_tags(["new"])
        assert exp.run(rounds=1) == 1
