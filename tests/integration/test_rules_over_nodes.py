"""The rules of a node over a real node process and ZeroMQ: refusals name the line, and a budget outlives everything."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import RoundError
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text


class Slope(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def init_dependencies(self):
        return ["import numpy as np"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = self.model()["w"] - target.mean()
        return float(error[0] ** 2), {"w": 2 * error}


class SmallBatches(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def init_dependencies(self):
        return ["import numpy as np"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=1)

    def training_step(self, data, target):
        raise AssertionError("a step was made")


ROWS = {"x": np.zeros((12, 1)), "y": np.arange(12.0)}


def experiment(plan: type[NumpyTrainingPlan] = Slope, transport: str = "zmq://127.0.0.1:0") -> Experiment:
    args = {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}}
    return Experiment(
        training_plan_class=plan, training_args=args, round_limit=9, transport=transport, min_nodes=1,
        connect_timeout=60, progress="quiet", seed=1,
    )  # fmt: skip


def rules(node: Any, *changes: tuple[str, str]) -> str:
    """Change the rules of a node, running or not; returns the text."""
    text = policy_text(approval="off")
    for before, after in changes:
        assert text.count(before) == 1
        text = text.replace(before, after)
    save_policy(node.place, text)
    return text


def line_of(text: str, part: str) -> int:
    return 1 + next(number for number, line in enumerate(text.splitlines()) if line.startswith(part))


def refusal(exp: Experiment) -> str:
    with pytest.raises(RoundError) as caught:
        exp.run(rounds=1)
    return str(caught.value)


def audit(node: Any) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "fedplug", "node", "-C", str(node.place), "audit", "show", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_request_out_of_range_is_refused_with_the_line_and_one_within_it_trains(start_node, fedplug_dir):
    with experiment() as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 8 }"))
        said = refusal(exp)
        for words in ("training.arguments.batch_size", f"node.toml, line {line_of(text, 'batch_size')}", "at least 8",
                      "the request comes to 4", "Change it in training_args"):  # fmt: skip
            assert words in said
        assert str(node.place) not in said
        refused = [entry for entry in audit(node) if entry["event"] == "training-refused"]
        assert refused
        assert "batch_size" in json.dumps(refused[-1])
        rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 4 }"))
        assert exp.run(rounds=1) == 1


def test_a_plan_that_draws_other_batches_than_the_request_says_is_refused_before_its_first_step(
    start_node, fedplug_dir
):
    with experiment(SmallBatches) as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 2 }"))
        said = refusal(exp)
        assert "the request comes to 1" in said
        assert f"node.toml, line {line_of(text, 'batch_size')}" in said
        assert "DataManager" in said


def test_a_budget_of_rounds_survives_kill_and_restart_and_holds_for_all_experiments(start_node, fedplug_dir):
    with experiment() as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# rounds = 1000", "rounds = 2"))
        assert exp.run(rounds=1) == 1
        node.signal(signal.SIGKILL)
        assert node.wait() == -signal.SIGKILL
    node.start()
    with experiment(transport=node.url) as exp:
        exp.set_tags("#data")
        assert exp.run(rounds=1) == 1
        said = refusal(exp)
        assert "has given 2 rounds, and may give 2" in said
        assert f"training.rounds, node.toml, line {line_of(text, 'rounds')}" in said
