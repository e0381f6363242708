"""Where an experiment leaves its way: goes back, fails, is copied, or is looked at. Only what was trained may show."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_experiments import ARGS, LinePlan, Momentum, experiment, load

from fedplug import (
    AggOptimizer,
    DataManager,
    Decision,
    Experiment,
    FedplugWarning,
    Monitor,
    NumpyTrainingPlan,
    Params,
    Strategy,
)
from fedplug.core.errors import RoundError, SettingsError, StoreError, UsageError
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.researcher.breakpoints import breakpoints_of, read_breakpoint

TESTED = {"test_ratio": 0.25, "test_on_global_updates": True, "test_metric": ["mean_squared_error"]}


@pytest.fixture(autouse=True)
def _no_surprising_warning(fedplug_dir: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# back to an earlier breakpoint -------------------------------------------------------------------------------


def test_rounds_that_nodes_have_seen_on_another_way_are_trained_anew(tmp_path: Path) -> None:
    """Nodes that stay forget no task: the same round of a second way must not look like a repeated one of the first."""
    with ExitStack() as stack:
        first = stack.enter_context(experiment(tags=None, transport="inproc://ways", min_nodes=2))
        first.pool()
        for index, name in enumerate(("lyon", "nice")):
            rng = np.random.default_rng(index)
            x = rng.normal(size=(20, 3))
            data = MemoryDataset("d", {"x": x, "y": x.sum(1)}, tags=("simulation",), target="y")
            store = stack.enter_context(NodeStore.create(tmp_path / name, name=name, node_id=name))
            stack.enter_context(Node(store, "inproc://ways", worker="inline", datasets=[data]))
        first.set_tags("simulation")
        first.run(4)
        params, folder = first.params(), first.experimentation_path()
        first.close()
        with Experiment.load_breakpoint(folder / "breakpoint_0002", progress="quiet") as second:
            assert second.run(2) == 2
            assert second.params() == params


def test_after_going_back_the_last_breakpoint_is_of_the_new_way() -> None:
    with experiment() as exp:
        exp.run(5)
        folder = exp.experimentation_path()
    with load(folder / "breakpoint_0002") as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.run(1)
    assert [point.name for point in breakpoints_of(folder)] == [f"breakpoint_000{n}" for n in range(4)]
    with load() as exp:
        assert (exp.round_current(), exp.training_args()["epochs"]) == (3, 1)
    assert {entry.name for entry in folder.glob("*.replaced-1")} == {f"breakpoint_000{n}.replaced-1" for n in (3, 4, 5)}


def test_parameters_of_the_way_that_was_left_are_never_given_for_those_of_the_new_one() -> None:
    with experiment(retain_full_history=True) as exp:
        exp.run(4)
        old = {number: kept["params"] for number, kept in exp.aggregated_params().items()}
        folder = exp.experimentation_path()
    with load(folder / "breakpoint_0002") as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.set_retain_full_history(False)
        exp.run(2)
        assert list(exp.aggregated_params()) == [0, 1, 3]
        assert exp.aggregated_params()[1]["params"] == old[1]
        assert exp.aggregated_params()[3]["params"] != old[3]
    with load(folder / "breakpoint_0003.replaced-1") as exp:
        assert exp.aggregated_params()[2]["params"] == old[2]


def test_kept_parameters_of_another_way_are_told_when_their_file_was_replaced() -> None:
    with experiment(retain_full_history=True) as exp:
        exp.run(4)
        folder = exp.experimentation_path()
    with load(folder / "breakpoint_0002") as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.run(2)
    with load(folder / "breakpoint_0004.replaced-1") as exp:
        with pytest.raises(StoreError, match="another way that the experiment took") as caught:
            exp.aggregated_params()[2]
        assert "params_0003.safetensors.replaced-1" in str(caught.value.cure)


def test_a_folder_with_another_experiments_parameters_gives_none_of_them() -> None:
    settings = {"experimentation_folder": "both", "retain_full_history": True, "save_breakpoints": False}
    with experiment(**settings) as first, experiment(**settings, training_args={**ARGS, "epochs": 1}) as second:
        first.run(3)
        second.run(2)
        assert list(second.aggregated_params()) == [0, 1]
        assert second.aggregated_params()[0]["params"] != first.params()
        with pytest.raises(StoreError, match="another way"):
            first.aggregated_params()[0]


def test_a_breakpoint_by_hand_does_not_go_among_those_of_another_experiment() -> None:
    with experiment(experimentation_folder="mine") as exp:
        exp.run(2)
    with experiment(experimentation_folder="mine", save_breakpoints=False) as exp:
        exp.run(1)
        with pytest.raises(SettingsError, match="holds breakpoints of another experiment"):
            exp.breakpoint()


def test_two_experiments_from_one_breakpoint_both_write_what_can_be_loaded() -> None:
    with experiment(experimentation_folder="k") as first:
        first.run(2)
        with load("k") as second:
            second.set_training_args({**ARGS, "epochs": 1})
            second.run(1)
            first.run(1)
            second.run(1)
            wanted = {exp.params() for exp in (first, second)}
        found = set()
        for place in first.experimentation_path().glob("breakpoint_*"):
            saved = read_breakpoint(place)
            assert len(saved.rounds.splitlines()) == saved.snapshot.round_current
            found.add(saved.arrays[0])
        assert wanted <= found


@pytest.mark.parametrize("lost", ["history", "."])
def test_a_folder_that_was_removed_is_made_again_with_all_rounds(lost: str) -> None:
    with experiment() as exp:
        exp.run(2)
        shutil.rmtree(exp.experimentation_path() / lost)
        exp.run(1)
        records = exp.history.records()
    with load() as exp:
        assert exp.round_current() == 3
        assert exp.history.records() == records


def test_a_test_after_the_last_round_is_in_the_breakpoint() -> None:
    with experiment(training_args={**ARGS, **TESTED}, round_limit=2) as exp:
        exp.run()
        entries = exp.history.records()
    assert "test_global" in {entry["phase"] for entry in entries if entry["round"] == 2}
    with load() as exp:
        assert exp.history.records() == entries
        names = sorted(entry.name for entry in exp.experimentation_path().glob("breakpoint_*"))
        assert names == ["breakpoint_0000", "breakpoint_0001", "breakpoint_0002"]


class Marks(NumpyTrainingPlan):
    """Names its figures like the marks of a breakpoint's file."""

    def init_model(self, model_args):
        return {"w": np.zeros(3)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        residual = data @ self.model()["w"] - target
        return (residual**2).mean(), {"w": 2 * data.T @ residual / len(residual)}

    def testing_step(self, data, target):
        return {"$float": 0.5, "$params": 1.0}


def test_a_metric_that_is_called_like_a_mark_of_the_file_is_kept() -> None:
    """A node may name its figures as it likes."""

    with experiment(training_args={**ARGS, "test_ratio": 0.25, "test_on_local_updates": True},
                    training_plan_class=Marks) as exp:  # fmt: skip
        exp.run(1)
        entries = exp.history.records()
    assert any(name.endswith("$float") for entry in entries for name in (entry["metric"],))
    with load() as exp:
        assert exp.history.records() == entries


# rounds that fail, and tests ---------------------------------------------------------------------------------


class TakeTurns(Strategy):
    """One node after the other; it learns in `select`, and keeps what it has learnt in a list that it gives away."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def select(self, ctx, nodes):
        node = sorted(nodes)[len(self.asked) % len(nodes)]
        self.asked.append(node)
        return [node]

    def judge(self, ctx, state):
        return Decision("wait" if not state.outcomes else "enough")

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Any) -> None:
        self.asked = state["asked"]


class FailsOnce(AggOptimizer):
    """Changes its state in place before it fails."""

    def __init__(self, fails: bool) -> None:
        self.state: dict[str, list[int]] = {"rounds": []}
        self.fails = fails

    def advance(self, start: Params, aggregated: Params, ctx: Any) -> Params:
        self.state["rounds"].append(ctx.round)
        if self.fails and ctx.round == 1:
            self.fails = False
            raise RuntimeError("once")
        return aggregated

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_a_round_that_failed_has_taught_nobody_anything() -> None:
    with experiment(agg_optimizer=FailsOnce(fails=False), node_selection_strategy=TakeTurns()) as whole:
        whole.run(4)
    with experiment(agg_optimizer=FailsOnce(fails=True), node_selection_strategy=TakeTurns()) as exp:
        with pytest.raises(RoundError, match="once"):
            exp.run(4)
        exp.run(3)
        assert exp.strategy().asked == whole.strategy().asked == ["a", "b", "c", "d"]
        assert exp.agg_optimizer().state == {"rounds": [0, 1, 2, 3]}
        assert exp.params() == whole.params()


class Interrupt(Monitor):
    """Presses Ctrl-C when the first update of round 1 has come."""

    def __init__(self) -> None:
        self.round, self.done = -1, False

    def round_started(self, ctx: Any, node_ids: Any) -> None:
        self.round = ctx.round

    def replied(self, node_id: str, reply: Any) -> None:
        if self.round == 1 and not self.done:
            self.done = True
            raise KeyboardInterrupt


def test_ctrl_c_in_a_round_has_taught_nobody_anything() -> None:
    with experiment(agg_optimizer=Momentum, node_selection_strategy=TakeTurns()) as whole:
        whole.run(3)
    with experiment(agg_optimizer=Momentum, node_selection_strategy=TakeTurns(), monitor=Interrupt()) as exp:
        with pytest.raises(KeyboardInterrupt):
            exp.run(3)
        exp.run(2)
        assert exp.params() == whole.params()
        assert exp.strategy().asked == ["a", "b", "c"]


def test_a_test_of_the_model_teaches_nobody_anything() -> None:
    args = {**ARGS, "test_ratio": 0.25, "test_metric": ["mean_squared_error"]}
    settings: dict[str, Any] = {"training_args": args, "agg_optimizer": Momentum, "node_selection_strategy": TakeTurns}
    with experiment(**settings) as whole, pytest.warns(FedplugWarning, match="nothing is tested"):
        whole.run(3)
    with experiment(**settings) as exp:
        for _ in range(3):
            exp.evaluate()
            exp.run_once(test_after=True)
        assert exp.strategy().asked == ["a", "b", "c"]
        assert exp.params() == whole.params()


def test_a_breakpoint_is_saved_even_if_the_parameters_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with experiment(retain_full_history=True) as exp:
        exp.run(1)
        (exp.experimentation_path() / "history" / "params_0002.safetensors").mkdir()
        monkeypatch.setattr("fedplug.researcher.kept_params.set_aside", lambda path: None)
        with pytest.raises(StoreError, match="The round counts all the same"):
            exp.run(1)
    with load() as exp:
        assert exp.round_current() == 2


@pytest.mark.parametrize("what", ["strategy", "agg_optimizer", "model_args"])
def test_what_cannot_be_saved_is_told_before_a_round_is_trained(what: str) -> None:
    class Odd(TakeTurns):
        def state_dict(self):
            return {"asked": {1, 2}}

    class OddOptimizer(FailsOnce):
        def state_dict(self):
            return {"rounds": object()}

    given = {
        "strategy": {"node_selection_strategy": Odd()},
        "agg_optimizer": {"agg_optimizer": OddOptimizer(fails=False)},
        "model_args": {"model_args": {"x": object()}},
    }[what]
    with experiment(**given) as exp:
        with pytest.raises(SettingsError, match=r"something that can be saved.*set_save_breakpoints\(False\)"):
            exp.run(2)
        assert exp.round_current() == 0
        exp.set_save_breakpoints(False)
        if what != "model_args":
            assert exp.run(2) == 2


# looking, and arguments that change --------------------------------------------------------------------------


class Scaled(LinePlan):
    """Reads its arguments while it makes its model."""

    def init_model(self, model_args):
        scale = self.optimizer_args().get("lr", 1.0)
        return {"w": np.random.normal(size=3) * scale, "b": np.zeros(())}


LOOKS: dict[str, Callable[[Experiment], Any]] = {
    "info": lambda exp: exp.info(), "params": lambda exp: exp.params(), "plan": lambda exp: exp.training_plan(),
    "file": lambda exp: exp.training_plan_file(display=False), "breakpoint": lambda exp: exp.breakpoint(),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_to_look_at_an_experiment_does_not_change_what_it_trains(look: str) -> None:
    later = {**ARGS, "random_seed": 3}
    with experiment(training_args=later, round_limit=2) as plain:
        plain.run()
    with experiment(round_limit=2) as exp:
        LOOKS[look](exp)
        exp.set_training_args(later)
        exp.run()
        assert exp.params() == plain.params()


def test_the_plan_knows_the_arguments_that_are_set_now() -> None:
    with experiment() as exp:
        exp.run(1)
        exp.set_training_args({**ARGS, "optimizer_args": {"lr": 0.5}})
        assert exp.training_plan().optimizer_args() == {"lr": 0.5}


def test_model_args_are_copied_so_that_nobody_changes_them_behind_the_experiments_back() -> None:
    given = {"sizes": [3]}
    with experiment(model_args=given) as exp:
        given["sizes"].append(4)
        exp.model_args()["sizes"].append(5)
        assert exp.model_args() == {"sizes": [3]}


def test_tests_that_wait_for_data_survive_other_training_args() -> None:
    with experiment() as exp:
        exp.set_test_on_global_updates(True)
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.set_test_ratio(0.25)
        assert exp.test_on_global_updates() is True
        exp.set_training_args({**ARGS, "test_ratio": 0.25, "test_on_global_updates": False})
        assert exp.test_on_global_updates() is False


def test_a_class_that_needs_arguments_is_told_so() -> None:
    with experiment() as exp:
        with pytest.raises(UsageError, match=r"FailsOnce cannot be made without arguments") as caught:
            exp.set_agg_optimizer(FailsOnce)
        assert "FailsOnce(...)" in caught.value.cure
