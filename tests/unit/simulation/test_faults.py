"""Virtual nodes that drop out or are slow: as often as asked, in the same way each time, and without waiting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan, OverSelection, QuorumStrategy, RandomStrategy
from fedplug.core.errors import RoundError, UsageError
from fedplug.simulation import Faults, Federation

SIZES = {f"n{number:02d}": number + 1 for number in range(40)}


class MeanPlan(NumpyTrainingPlan):
    """Goes towards the mean of its samples."""

    def init_model(self) -> dict[str, Any]:
        return {"w": np.zeros(1)}

    def init_dependencies(self) -> list[str]:
        return ["import numpy as np"]

    def training_data(self) -> DataManager:
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data: Any, target: Any) -> Any:
        gap = self.model()["w"] - data.mean(0)
        return float(gap @ gap), {"w": 2 * gap}


def replied(faults: Faults | None, strategy: Any, rounds: int = 3, seed: int = 1) -> tuple[list[set[str]], Any]:
    data = {node: (np.ones((size, 1)), np.zeros(size)) for node, size in SIZES.items()}
    with Experiment(
        tags="simulation", transport=Federation(data, faults=faults), training_plan_class=MeanPlan, progress="quiet",
        round_limit=rounds, seed=seed, save_breakpoints=False, node_selection_strategy=strategy,
    ) as exp:  # fmt: skip
        exp.run()
        replies = exp.history.replies()
        return [set(replies[number]) for number in range(rounds)], exp.params()


def test_nodes_drop_out_as_often_as_asked_and_in_the_same_way_each_time() -> None:
    faults = Faults(drop_out=0.3)
    found, params = replied(faults, QuorumStrategy(0.1), rounds=20)
    share = sum(map(len, found)) / (20 * len(SIZES))
    assert abs(share - 0.7) < 4 * math.sqrt(0.3 * 0.7 / (20 * len(SIZES)))
    assert found[0] != found[1]
    again = replied(faults, QuorumStrategy(0.1), rounds=20)
    assert (again[0], again[1]) == (found, params)
    assert replied(faults, QuorumStrategy(0.1), rounds=20, seed=2)[0] != found


def test_a_strategy_that_needs_all_says_who_dropped_out() -> None:
    with pytest.raises(RoundError, match="has dropped out, as the simulation was asked to let it"):
        replied(Faults(drop_out=1), RandomStrategy(count=2))


def test_the_fast_reply_first() -> None:
    everybody = OverSelection(count=5, extra=7.0)
    found, _ = replied(Faults(), everybody, rounds=2)
    assert found == [{"n00", "n01", "n02", "n03", "n04"}] * 2, "all were asked, and the time is that of the samples"
    spread, _ = replied(Faults(spread=2.0), everybody, rounds=2)
    assert spread[0] == spread[1] != found[0]


def test_those_behind_the_deadline_fail_in_every_round() -> None:
    found, _ = replied(Faults(deadline=10), QuorumStrategy(0.1))
    assert found == [{node for node, size in SIZES.items() if size <= 10}] * 3
    spread, _ = replied(Faults(spread=1.0, deadline=10), QuorumStrategy(0.1))
    assert spread[0] == spread[1] == spread[2] != found[0]


def test_no_faults_are_no_faults() -> None:
    assert replied(Faults(), QuorumStrategy(1.0)) == replied(None, QuorumStrategy(1.0))


@pytest.mark.parametrize("wrong", [{"drop_out": 1.1}, {"drop_out": "0.1"}, {"spread": -1}, {"deadline": 0}])
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be"):
        Faults(**wrong)
