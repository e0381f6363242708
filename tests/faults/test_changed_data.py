"""A data set that is changed, or removed, while an experiment uses it: row 42 of the fault matrix, at a real node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_kit import Node

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import RoundError


class Mean(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np"]

    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = self.model()["w"] - target.mean()
        return float(error[0] ** 2), {"w": 2 * error}


@pytest.fixture
def wards(tmp_path: Path) -> Path:
    """The file of the data set, which changes under the node's feet."""
    file = tmp_path / "wards.csv"
    file.write_text("x,y\n" + "0.5,1\n" * 12)
    return file


@pytest.fixture
def clinic(make_node: Callable[[str], Node], wards: Path) -> Node:
    return make_node("clinic").add(wards, tags=["wards"], target="y")


@pytest.fixture
def exp(clinic: Node) -> Iterator[Experiment]:
    args = {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}}
    settings: dict[str, Any] = {"transport": "zmq://127.0.0.1:0", "min_nodes": 1, "connect_timeout": 60, "seed": 1}
    with Experiment(training_plan_class=Mean, training_args=args, round_limit=9, progress="quiet", **settings) as exp:
        clinic.start(exp.pool().description)
        exp.set_tags("wards")
        assert exp.run(rounds=1) == 1
        yield exp


def test_a_file_that_was_changed_is_refused_until_its_owner_accepts_it_and_the_researcher_searches_again(
    clinic, wards, exp
):
    wards.write_text("x,y\n" + "0.5,3\n" * 14)
    with pytest.raises(RoundError, match=r"(?i)changed") as caught:
        exp.run(rounds=1)
    assert str(wards) not in str(caught.value)
    assert exp.round_current() == 1
    said = clinic.type("dataset", "check", code=1)
    assert "changed" in said
    clinic.type("dataset", "edit", "wards", "--accept-changes")
    with pytest.raises(RoundError, match=r"(?i)changed"):
        exp.run(rounds=1)  # it was set up with the data of before
    exp.set_tags("wards")
    assert exp.training_data().sample_sizes()["clinic"] == 14 or 14 in exp.training_data().sample_sizes()
    assert exp.run(rounds=1) == 1


def test_one_byte_that_leaves_size_and_time_as_they_were_is_found(clinic, wards, exp):
    before = wards.stat()
    text = wards.read_text()
    wards.write_text(text[:-2] + "2\n")
    os.utime(wards, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RoundError, match=r"(?i)changed"):
        exp.run(rounds=1)


def test_a_file_that_was_only_touched_is_the_same(clinic, wards, exp):
    wards.touch()
    assert exp.run(rounds=1) == 1


def test_a_data_set_that_was_removed_is_refused_by_name(clinic, wards, exp):
    clinic.type("dataset", "remove", "wards")
    with pytest.raises(RoundError, match="was removed from this node"):
        exp.run(rounds=1)
    clinic.type("dataset", "add", wards, "--tags", "wards", "--target", "y")
    exp.set_tags("wards")
    assert exp.run(rounds=1) == 1


def test_a_file_that_is_gone_costs_the_node_nothing_but_the_round(clinic, wards, exp):
    content = wards.read_bytes()
    wards.unlink()
    with pytest.raises(RoundError):
        exp.run(rounds=1)
    wards.write_bytes(content)
    assert exp.run(rounds=1) == 1


def test_a_link_in_the_place_of_the_file_is_not_followed_out_of_the_roots(wards, exp, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "wards.csv"
    outside.write_bytes(wards.read_bytes())
    wards.unlink()
    wards.symlink_to(outside)
    with pytest.raises(RoundError) as caught:
        exp.run(rounds=1)
    assert str(outside) not in str(caught.value)
