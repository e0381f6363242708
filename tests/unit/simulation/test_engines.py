"""The seam of engines: what an engine is told, and when."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from fedplug import Component, Experiment, QuorumStrategy, hookimpl
from fedplug.core.errors import EngineError, PlanRunError, PluginError, UsageError
from fedplug.core.messages import TaskKey
from fedplug.core.plugins import PluginHost, default_host
from fedplug.simulation import Faults, Federation, SerialEngine
from fedplug.simulation.engines import Emit, Task, Trained, make_engine
from tests.unit.simulation.test_many_nodes import MeanPlan


class Listening(SerialEngine):
    """Notes what it is told; trainings of the nodes in ``failing`` fail."""

    def __init__(self, failing: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.failing = failing
        self.told: list[tuple[str, str]] = []

    def submit(self, task: Task) -> None:
        self.told.append(("submit", task.request.key.node_id))

    def cancel(self, key: TaskKey) -> None:
        self.told.append(("cancel", key.node_id))

    def run(self, task: Task, emit: Emit) -> Trained:
        self.told.append(("run", task.request.key.node_id))
        if task.request.key.node_id in self.failing:
            raise PlanRunError("It fails, as this test wants.")
        return super().run(task, emit)


def told(engine: Listening, nodes: int = 4, faults: Faults | None = None, **settings: Any) -> list[tuple[str, str]]:
    data = {f"n{number}": (np.full((2, 1), number, np.float32), np.zeros(2)) for number in range(nodes)}
    federation = Federation(data, engine=engine, faults=faults)
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=MeanPlan, training_args={"num_updates": 1},
        round_limit=1, seed=3, progress="quiet", save_breakpoints=False, **settings,
    ) as exp:  # fmt: skip
        exp.run()
        return engine.told


def test_an_engine_knows_all_tasks_of_a_round_before_it_is_asked_for_the_first() -> None:
    found = told(Listening())
    nodes = ["n0", "n1", "n2", "n3"]
    assert found == [("submit", node) for node in nodes] + [("run", node) for node in nodes]


def test_one_that_failed_is_its_own_node_s_failure_and_the_others_go_on() -> None:
    found = told(Listening(frozenset(("n1",))), node_selection_strategy=QuorumStrategy(0.5))
    assert [node for what, node in found if what == "run"] == ["n0", "n1", "n2", "n3"]


def test_an_engine_that_cannot_go_on_ends_the_experiment_and_blames_no_node() -> None:
    class Gone(Listening):
        def run(self, task: Task, emit: Emit) -> Trained:
            raise EngineError("The cluster is gone.", cure="Start it again.")

    with pytest.raises(EngineError, match=r"The cluster is gone\.\nStart it again\."):
        told(Gone(), node_selection_strategy=QuorumStrategy(0.5))


def test_nobody_begins_what_will_fail_and_the_results_come_by_the_clock() -> None:
    found = told(Listening(), 40, Faults(drop_out=0.5, spread=1.0), node_selection_strategy=QuorumStrategy(0.1))
    submitted = [node for what, node in found if what == "submit"]
    ran = [node for what, node in found if what == "run"]
    assert 5 < len(submitted) < 35
    assert set(ran) == set(submitted)
    assert ran != submitted


def test_a_task_that_is_not_wanted_any_more_is_cancelled_and_never_asked_for() -> None:
    engine = Listening()
    federation = Federation({"a": (np.ones((2, 1)), np.ones(2)), "b": (np.ones((2, 1)), np.ones(2))}, engine=engine)
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=MeanPlan, round_limit=1, seed=3,
        training_args={"num_updates": 1}, progress="quiet", save_breakpoints=False,
    ) as exp:  # fmt: skip
        train = federation.train

        def give_and_take_back(request: Any, *rest: Any) -> None:
            train(request, *rest)
            if request.key.node_id == "a" and ("cancel", "a") not in engine.told:
                federation.cancel(request.key, "it is not wanted")
                train(request, *rest)

        federation.train = give_and_take_back  # type: ignore[method-assign]
        exp.run()
    assert engine.told == [
        ("submit", "a"),
        ("cancel", "a"),
        ("submit", "a"),
        ("submit", "b"),
        ("run", "a"),
        ("run", "b"),
    ]


def test_an_engine_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="warp") as caught:
        Federation({"a": (np.ones((2, 1)), np.ones(2))}, engine="warp")
    assert "serial" in caught.value.cure


def test_an_engine_is_found_by_name_and_each_federation_has_its_own() -> None:
    host = default_host()
    first, second = make_engine("serial", host), make_engine("builtin:serial", host)
    assert type(first) is type(second) is SerialEngine
    assert first is not second
    assert make_engine(first, host) is first


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (SerialEngine, UsageError, "must be the name of an engine, or an engine"),
        ("odd", PluginError, "not a class derived from Engine"),
        ("made", PluginError, "not a class derived from Engine"),
    ],
)
def test_what_is_no_engine_is_refused(given: Any, error: type[Exception], words: str) -> None:
    host = PluginHost.discover(found=[])
    offer = hookimpl(lambda: [Component("odd", int), Component("made", SerialEngine())])
    host.register(types.SimpleNamespace(fedplug_register_engines=offer), "odd")
    with pytest.raises(error, match=words):
        Federation({"a": (np.ones((2, 1)), np.ones(2))}, engine=given, host=host)
