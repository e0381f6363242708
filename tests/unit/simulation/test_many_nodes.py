"""Nodes that do not train cost next to nothing: no work in a round, and at most 1 KiB each."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, RandomStrategy
from fedplug.core.strategy import NodesOnDemand
from fedplug.simulation import IID, Federation


class MeanPlan(NumpyTrainingPlan):
    """Goes towards the mean of its samples."""

    def init_model(self) -> dict[str, Any]:
        return {"w": np.zeros(4, np.float32)}

    def init_dependencies(self) -> list[str]:
        return ["import numpy as np"]

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        gap = self.model()["w"] - data.mean(0)
        return float(gap @ gap), {"w": 2 * gap}


class CallsOfARound(Monitor):
    """Counts the calls of functions, Python's own included, between the beginnings of two rounds."""

    def __init__(self) -> None:
        self.count = 0

    def round_started(self, ctx: Any, node_ids: Any) -> None:
        sys.setprofile(self._called if ctx.round == 1 else None)

    def _called(self, frame: FrameType, event: str, arg: Any) -> None:
        self.count += event in ("call", "c_call")


def experiment(nodes: int, sampled: int, **settings: Any) -> Experiment:
    samples = 2 * nodes
    federation = Federation.from_arrays(
        np.ones((samples, 4), np.float32), np.zeros(samples, np.int64), partition=IID(nodes)
    )
    return Experiment(
        tags="simulation", transport=federation, training_plan_class=MeanPlan, round_limit=3, progress="quiet", seed=1,
        node_selection_strategy=RandomStrategy(count=sampled), **settings,
    )  # fmt: skip


@pytest.mark.parametrize("save_breakpoints", [False, True])
def test_the_work_of_a_round_does_not_depend_on_nodes_that_do_not_train(save_breakpoints) -> None:
    counts = {}
    for nodes in (20, 2000):
        calls = CallsOfARound()
        with experiment(nodes, 4, save_breakpoints=save_breakpoints) as exp:
            exp.add_monitor(calls)
            try:
                exp.run()
            finally:
                sys.setprofile(None)
        counts[nodes] = calls.count
    assert counts[20] > 1000, "the calls of a round were counted"
    assert counts[2000] < counts[20] * 1.05, "1,980 nodes more"


def test_a_node_that_does_not_train_takes_less_than_a_kibibyte() -> None:
    traced = {}
    for nodes in (10, 500, 3000):  # the first warms up what stays
        gc.collect()
        tracemalloc.start()
        try:
            with experiment(nodes, 4, save_breakpoints=False) as exp:
                exp.run()
                gc.collect()
                traced[nodes] = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    data = 2 * (4 * 4 + 8)  # bytes of the samples of a node
    held, peak = ((traced[3000][which] - traced[500][which]) / 2500 - data for which in (0, 1))
    assert held < 1024
    assert peak < 2 * 1024, "while it searches, and once in a run"


def test_ten_thousand_nodes_are_found_without_going_through_all_of_them_for_each() -> None:
    with experiment(10_000, 3, save_breakpoints=False) as exp:
        exp.run(1)
        assert len(exp.training_data()) == 10_000
        assert len(exp.history.replies()[0]) == 3


def test_nodes_on_demand_are_looked_for_once_and_only_when_somebody_asks() -> None:
    asked: list[int] = []

    def find() -> set[str]:
        asked.append(1)
        return {"b", "a", "c"}

    nodes = NodesOnDemand(find)
    assert not asked
    assert (len(nodes), nodes[0], nodes[1:], list(nodes), "c" in nodes) == (3, "a", ("b", "c"), ["a", "b", "c"], True)
    assert repr(nodes) == "('a', 'b', 'c')"
    assert asked == [1]
