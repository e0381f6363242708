"""What a virtual node's training needs besides its steps: made ready for many nodes at once, or not at all."""

from __future__ import annotations

import logging
import types
from typing import Any

import numpy as np
import pytest
import torch
from engine_kit import federation, result_of
from lean_plans import Plain
from torch import nn

from fedplug import Experiment, hookimpl
from fedplug.core.belongings import Belongings
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.simulation import CohortEngine, Faults, SerialEngine, set_up_once
from fedplug.simulation.engines import Task
from fedplug.simulation.lean_training import LeanTraining
from fedplug.simulation.plan_checks import Streams
from fedplug.simulation.set_up_once import SetUpOnce
from fedplug_torch import recorded_step
from fedplug_torch.cohort import TorchCohortTrainer
from fedplug_torch.lean import TorchLeanStep

ARGS: dict[str, Any] = {"epochs": 2, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}}


class Small(Plain):
    """Nothing but steps of a linear model."""

    def init_model(self) -> nn.Module:
        return nn.Linear(4, 3)


class Drawing(Plain):
    """Draws a random number in each step."""

    def init_model(self) -> nn.Module:
        return nn.Linear(4, 3)

    def training_step(self, data: Any, target: Any) -> Any:
        return super().training_step(data + 0.1 * torch.rand(data.shape), target)


def run(plan: type, engine: Any = None, rounds: int = 2, **settings: Any) -> Any:
    made = federation(engine or SerialEngine(), **settings)
    with Experiment(
        tags="simulation", transport=made, training_plan_class=plan, training_args=ARGS, round_limit=rounds, seed=5,
        progress="quiet", save_breakpoints=False,
    ) as exp:  # fmt: skip
        exp.run()
        return result_of(exp)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes that were made ready, in order, and after them the node that trains."""
    nodes = list[str]()
    make, train = SetUpOnce._draw_of, LeanTraining._train

    def making(self: Any, request: Any, data: Any) -> Any:
        nodes.append(request.key.node_id)
        return make(self, request, data)

    def training(self: Any, request: Any, *args: Any) -> Any:
        nodes.append(f"{request.key.node_id} trains")
        return train(self, request, *args)

    monkeypatch.setattr(SetUpOnce, "_draw_of", making)
    monkeypatch.setattr(LeanTraining, "_train", training)
    return nodes


NODES = [f"node-{number}" for number in range(8)]


def test_the_nodes_of_a_round_are_made_ready_at_once(made) -> None:
    found = run(Small)
    assert made == (NODES + [f"{node} trains" for node in NODES]) * 2
    assert found == run(Small, SerialEngine(lean=False))


@pytest.mark.parametrize(("name", "value"), [("_SAMPLES_AHEAD", 11), ("_NODES_AHEAD", 2)])
def test_no_more_nodes_are_made_ready_than_memory_is_meant_for(made, monkeypatch, name, value) -> None:
    monkeypatch.setattr(set_up_once, name, value)
    found = run(Small, rounds=1)
    ahead = 3  # nodes of six samples each: the one that trains, and those that follow
    groups = [NODES[low : low + ahead] for low in range(0, 8, ahead)]
    assert made == [word for group in groups for word in (*group, *(f"{node} trains" for node in group))]
    monkeypatch.undo()
    assert found == run(Small, rounds=1)


def test_nodes_that_train_in_another_order_than_they_came_get_what_is_theirs(made) -> None:
    found = run(Small, faults=Faults(spread=1.0), rounds=1)
    trained = [word.removesuffix(" trains") for word in made if word.endswith("trains")]
    assert made[1:8] == [node for node in NODES if node != trained[0]]
    assert trained != NODES
    assert found == run(Small, rounds=1)


def test_a_plugin_is_asked_for_the_hooks_of_each_node_once_a_round() -> None:
    asked = list[str]()

    @hookimpl
    def offer(info: Any) -> list[Any]:
        asked.append(info.node_id)
        return []

    host = PluginHost.discover(["torch"])
    host.register(types.SimpleNamespace(fedplug_trainer_hooks=offer), "listener")
    run(Small, host=host, rounds=1)
    assert sorted(asked) == NODES


def test_a_plugin_that_fails_for_a_node_in_the_middle_spoils_the_training_of_that_node_only() -> None:
    @hookimpl
    def offer(info: Any) -> list[Any]:
        return [1 / 0] if info.node_id == "node-3" else []

    host = PluginHost.discover(["torch"])
    host.register(types.SimpleNamespace(fedplug_trainer_hooks=offer), "broken")
    with pytest.raises(Exception, match=r"broken.*ZeroDivisionError.*fedplug_trainer_hooks") as lean:
        run(Small, host=host, rounds=1)
    with pytest.raises(Exception, match=r"ZeroDivisionError") as own:
        run(Small, SerialEngine(lean=False), host=host, rounds=1)
    assert str(lean.value) == str(own.value)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has one entry for each time that the streams are read; records are worth their while soon."""
    monkeypatch.setattr(recorded_step, "WORTH", 3)
    found, read = list[int](), Streams._read

    def reading(self: Any) -> Any:
        found.append(1)
        return read(self)

    monkeypatch.setattr(Streams, "_read", reading)
    return found


def test_no_watch_is_kept_over_nodes_whose_steps_are_played_back(reads) -> None:
    found = run(Small, rounds=3)
    # Two batch sizes, each two times a node: three steps to count, three to compare, and so three nodes.
    assert len(reads) == 2 * 3
    assert found == run(Small, SerialEngine(lean=False), rounds=3)


def test_watch_is_kept_over_every_node_if_the_step_does_not_tell_when_the_plan_runs(reads, monkeypatch) -> None:
    monkeypatch.setattr(TorchLeanStep, "guard", lambda self, before_plan: False)
    run(Small, rounds=3)
    assert len(reads) == 2 * 8 * 3


@pytest.mark.parametrize(("tells", "expected"), [(True, 2), (False, 2 * 2 * 3)])
def test_stacked_nodes_are_watched_while_their_steps_are_recorded_or_always(
    reads, monkeypatch, tells, expected
) -> None:
    if not tells:
        monkeypatch.setattr(TorchCohortTrainer, "guard", lambda self, before_plan: False)
    found = run(Small, CohortEngine(size=4), rounds=3)
    assert len(reads) == expected  # two groups a round; the first one of all records the steps
    monkeypatch.undo()
    assert found == run(Small, CohortEngine(size=4), rounds=3)


def test_stacked_nodes_are_made_ready_at_once_and_drawn_as_one_by_one(made) -> None:
    params, losses = run(Small, CohortEngine(size=3))
    assert sorted(made) == sorted(NODES * 2)
    assert made[:8] == NODES
    serial, one_by_one = run(Small)
    assert [each[:2] for each in losses] == [each[:2] for each in one_by_one]
    for name, array in serial.items():
        np.testing.assert_allclose(params[name], array, atol=1e-6)


@pytest.mark.parametrize("engine", [SerialEngine, CohortEngine])
def test_a_training_that_is_called_off_is_not_kept_ready(engine) -> None:
    with Experiment(
        tags="simulation", transport=federation("serial"), training_plan_class=Small, training_args=ARGS, seed=5,
        round_limit=1, progress="quiet", save_breakpoints=False,
    ) as exp:  # fmt: skip
        params, bundle = exp.training_plan().get_params(), bundle_plan(Small)
    tasks = []
    for number, node in enumerate(NODES):
        key = TaskKey(experiment_id="e", round=0, node_id=node)
        request = TrainRequest(key=key, dataset_id=node, plan_class="Small", training_args=ARGS, seed=number)
        tasks.append(Task(request, bundle, params, {}))
    whole = engine(*((2,) if engine is CohortEngine else ()))
    federation(whole)
    for task in tasks:
        whole.submit(task)
    whole.run(tasks[0], lambda sign: None)
    training = whole._last.get(tasks[0].request, bundle)
    left = len(training._ready)
    assert left == (6 if engine is CohortEngine else 7)
    assert training._ahead == 6 * left
    for task in tasks[1:]:
        whole.cancel(task.request.key)
    assert not training._ready
    assert training._ahead == 0
    whole.close()


@pytest.mark.parametrize("tells", [True, False])
def test_a_step_that_draws_random_numbers_is_found_whether_or_not_it_tells(caplog, monkeypatch, tells) -> None:
    caplog.set_level(logging.INFO, "fedplug.simulation")
    if not tells:
        monkeypatch.setattr(TorchLeanStep, "guard", lambda self, before_plan: False)
    found = run(Drawing)
    assert "Drawing trains by its own loop: training draws random numbers." in caplog.messages
    assert found == run(Drawing, SerialEngine(lean=False))


def test_a_training_under_watch_leaves_the_streams_where_it_found_them() -> None:
    streams = Streams(Small, Belongings(Small))
    assert not streams.are_watched
    assert not streams.settle()
    before = np.random.get_state()[1].tolist()
    streams.watch()
    streams.watch()  # does not forget where they were
    np.random.rand()
    streams.watch()
    assert streams.are_watched
    assert streams.settle()
    assert np.random.get_state()[1].tolist() == before
    assert not streams.are_watched
