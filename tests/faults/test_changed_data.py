"""A data set that is changed, or removed, while an experiment uses it: row 42 of the fault matrix, at a real node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


class Clinic:
    """A node whose owner changes the files under its feet."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "clinic"
        self.file = folder / "wards.csv"
        self.file.write_text("x,y\n" + "0.5,1\n" * 12)
        self.type("init", "--name", "clinic", "--id", "clinic", "--approval", "off", "--data-root", str(folder))
        self.type("dataset", "add", str(self.file), "--tags", "wards", "--target", "y")

    def type(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "fedplug", "node", "-C", str(self.place), *words]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def clinic(tmp_path: Path, fedplug_dir: Path) -> Clinic:
    return Clinic(tmp_path)


@pytest.fixture
def exp(clinic: Clinic) -> Iterator[Experiment]:
    args = {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}}
    settings: dict[str, Any] = {"transport": "zmq://127.0.0.1:0", "min_nodes": 1, "connect_timeout": 60, "seed": 1}
    with Experiment(training_plan_class=Mean, training_args=args, round_limit=9, progress="quiet", **settings) as exp:
        command = [sys.executable, "-m", "fedplug", "node", "-C", str(clinic.place), "start"]
        with (clinic.place / "output").open("wb") as output:
            process = subprocess.Popen(
                [*command, "--researcher", exp.pool().description], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output,
            )  # fmt: skip
        try:
            exp.set_tags("wards")
            assert exp.run(rounds=1) == 1
            yield exp
        finally:
            process.terminate()
            assert process.wait(60) == 0


def test_a_file_that_was_changed_is_refused_until_its_owner_accepts_it_and_the_researcher_searches_again(clinic, exp):
    clinic.file.write_text("x,y\n" + "0.5,3\n" * 14)
    with pytest.raises(RoundError, match=r"(?i)changed") as caught:
        exp.run(rounds=1)
    assert str(clinic.file) not in str(caught.value)
    assert exp.round_current() == 1
    said = clinic.type("dataset", "check", code=1)
    assert "changed" in said
    clinic.type("dataset", "edit", "wards", "--accept-changes")
    with pytest.raises(RoundError, match=r"(?i)changed"):
        exp.run(rounds=1)  # it was set up with the data of before
    exp.set_tags("wards")
    assert exp.training_data().sample_sizes()["clinic"] == 14 or 14 in exp.training_data().sample_sizes()
    assert exp.run(rounds=1) == 1


def test_one_byte_that_leaves_size_and_time_as_they_were_is_found(clinic, exp):
    before = clinic.file.stat()
    text = clinic.file.read_text()
    clinic.file.write_text(text[:-2] + "2\n")
    os.utime(clinic.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RoundError, match=r"(?i)changed"):
        exp.run(rounds=1)


def test_a_file_that_was_only_touched_is_the_same(clinic, exp):
    clinic.file.touch()
    assert exp.run(rounds=1) == 1


def test_a_data_set_that_was_removed_is_refused_by_name(clinic, exp):
    clinic.type("dataset", "remove", "wards")
    with pytest.raises(RoundError, match="was removed from this node"):
        exp.run(rounds=1)
    clinic.type("dataset", "add", str(clinic.file), "--tags", "wards", "--target", "y")
    exp.set_tags("wards")
    assert exp.run(rounds=1) == 1


def test_a_file_that_is_gone_costs_the_node_nothing_but_the_round(clinic, exp):
    content = clinic.file.read_bytes()
    clinic.file.unlink()
    with pytest.raises(RoundError):
        exp.run(rounds=1)
    clinic.file.write_bytes(content)
    assert exp.run(rounds=1) == 1


def test_a_link_in_the_place_of_the_file_is_not_followed_out_of_the_roots(clinic, exp, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "wards.csv"
    outside.write_bytes(clinic.file.read_bytes())
    clinic.file.unlink()
    clinic.file.symlink_to(outside)
    with pytest.raises(RoundError) as caught:
        exp.run(rounds=1)
    assert str(outside) not in str(caught.value)
