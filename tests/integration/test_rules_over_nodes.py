"""The rules of a node over a real node process and ZeroMQ: refusals name the line, and a budget outlives everything."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from node_kit import Node
from torch import nn

from fedplug import DataManager, DefaultStrategy, Experiment, NumpyTrainingPlan
from fedplug.core.errors import RoundError
from fedplug.core.rdp import epsilon
from fedplug.core.training_plan import TrainingPlan
from fedplug.node.policy.file import save_policy
from fedplug.node.policy.template import policy_text
from fedplug_torch import TorchTrainingPlan


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


class Stuck(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def init_dependencies(self):
        return ["import time", "import numpy as np"]

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        time.sleep(600)
        return 0.0, {"w": np.zeros(1)}


class Private(TorchTrainingPlan):
    def init_model(self):
        return nn.Linear(1, 1)

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x").astype("float32"), self.dataset.column("y").astype("float32"))

    def training_step(self, data, target):
        return ((self.forward(data)[:, 0] - target) ** 2).mean()


ROWS = {"x": np.zeros((12, 1)), "y": np.arange(12.0)}


def experiment(
    plan: type[TrainingPlan] = Slope, transport: str = "zmq://127.0.0.1:0", **training_args: Any
) -> Experiment:
    args = {"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}, **training_args}
    return Experiment(
        training_plan_class=plan, training_args=args, round_limit=9, transport=transport, min_nodes=1,
        connect_timeout=60, progress="quiet", seed=1,
    )  # fmt: skip


def rules(node: Node, *changes: tuple[str, str]) -> str:
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


def account(node: Node) -> dict[str, Any]:
    (found,) = node.ask("check")["budgets"]
    return dict(found)


def test_a_request_out_of_range_is_refused_with_the_line_and_one_within_it_trains(start_node):
    with experiment() as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 8 }"))
        said = refusal(exp)
        for words in ("training.arguments.batch_size", f"node.toml, line {line_of(text, 'batch_size')}", "at least 8",
                      "the request comes to 4", "Change it in training_args"):  # fmt: skip
            assert words in said
        assert str(node.place) not in said
        refused = [entry for entry in node.ask("audit", "show") if entry["event"] == "training-refused"]
        assert refused
        assert "batch_size" in json.dumps(refused[-1])
        rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 4 }"))
        assert exp.run(rounds=1) == 1


def test_a_plan_that_draws_other_batches_than_the_request_says_is_refused_before_its_first_step(start_node):
    with experiment(SmallBatches) as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# batch_size = { min = 8, max = 1024 }", "batch_size = { min = 2 }"))
        said = refusal(exp)
        assert "the request comes to 1" in said
        assert f"node.toml, line {line_of(text, 'batch_size')}" in said
        assert "DataManager" in said


def test_a_budget_of_rounds_survives_kill_and_restart_and_holds_for_all_experiments(start_node):
    with experiment() as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# rounds = 1000", "rounds = 2"))
        assert exp.run(rounds=1) == 1
        node.send(signal.SIGKILL)
        assert node.wait() == -signal.SIGKILL
    node.start()
    with experiment(transport=node.url) as exp:
        exp.set_tags("#data")
        assert exp.run(rounds=1) == 1
        said = refusal(exp)
        assert "has given 2 rounds, and may give 2" in said
        assert f"training.rounds, node.toml, line {line_of(text, 'rounds')}" in said


def test_a_round_is_charged_before_its_first_batch_and_stays_charged_when_the_node_is_killed_in_it(start_node):
    with experiment(Stuck) as exp:
        exp.set_strategy(DefaultStrategy(patience=0))
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")

        def kill() -> None:
            while not any(entry["event"] == "training-started" for entry in node.ask("audit", "show")):
                threading.Event().wait(0.05)  # the log is another process's, and each look at it takes some work
            node.send(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        assert "lost" in refusal(exp)
        killer.join()
        node.wait()
    assert account(node)["rounds"] == 1
    text = rules(node, ("# rounds = 1000", "rounds = 1"))
    node.start()
    with experiment(transport=node.url) as exp:
        exp.set_tags("#data")
        said = refusal(exp)
        assert "has given 1 rounds, and may give 1" in said
        assert f"line {line_of(text, 'rounds')}" in said


def test_privacy_is_spent_over_all_experiments_and_refused_when_it_is_used_up(start_node):
    local = {"type": "local", "sigma": 2.0, "clip": 1.0}
    one, two = epsilon([(2.0, 4 / 12, 3)], 1e-5), epsilon([(2.0, 4 / 12, 6)], 1e-5)
    with experiment(Private, dp_args=local) as exp:
        node = start_node("clinic", exp.pool().description, ROWS)
        exp.set_tags("#data")
        text = rules(node, ("# epsilon = 8.0", f"epsilon = {(one + two) / 2!r}"))
        assert exp.run(rounds=1) == 1
        assert account(node)["epsilon"] == one
    with experiment(Private, node.url, dp_args=local) as exp:
        exp.set_tags("#data")
        said = refusal(exp)
        assert f"has spent epsilon {one:.4g} of" in said
        assert f"would bring it to {two:.4g} (rule privacy.epsilon, node.toml, line {line_of(text, 'epsilon')})" in said
    with experiment(transport=node.url) as exp:
        exp.set_tags("#data")
        assert "This training has no differential privacy" in refusal(exp)
    assert account(node)["epsilon"] == one
