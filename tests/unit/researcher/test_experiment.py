"""The Experiment over a simulated federation: settings, round limits, results, and what a user gets told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedplug import DataManager, Decision, Experiment, Monitor, NumpyTrainingPlan, RandomStrategy, Strategy
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import (
    DatasetError,
    FedplugError,
    PlanSourceError,
    RoundError,
    StoreError,
    TrainingArgsError,
    UnknownNameError,
    UsageError,
)
from fedplug.core.messages import LogLine, Progress, TrainReply
from fedplug.core.strategy import RoundState
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.simulation import Federation


class LinearPlan(NumpyTrainingPlan):
    """Least squares on three features."""

    def init_dependencies(self) -> list[str]:
        return ["import numpy as np"]

    def init_model(self, model_args):
        return {"w": np.random.normal(size=model_args.get("features", 3)), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        model = self.model()
        residual = data @ model["w"] + model["b"] - target
        gradients = {"w": 2 * data.T @ residual / len(residual), "b": 2 * residual.mean()}
        return float((residual**2).mean()), gradients

    def testing_step(self, data, target):
        model = self.model()
        return {"mae": float(abs(data @ model["w"] + model["b"] - target).mean())}


def line(seed: int, count: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, x @ np.array([1.0, -2.0, 3.0]) + 0.5


def federation(**nodes: Any) -> Federation:
    return Federation(nodes or {"a": line(1), "b": line(2, 30), "c": line(3)})


ARGS = {"epochs": 2, "loader_args": {"batch_size": 10}, "optimizer_args": {"lr": 0.05}}


def experiment(pool: Federation | None = None, **settings: Any) -> Experiment:
    given = {
        "tags": "simulation",
        "training_plan_class": LinearPlan,
        "training_args": ARGS,
        "round_limit": 3,
        "seed": 5,
        "progress": "quiet",
        "transport": pool or federation(),
    }
    return Experiment(**{**given, **settings})


def test_it_learns_and_keeps_its_model(fedplug_dir: Path) -> None:
    with experiment(round_limit=20) as exp:
        assert exp.run() == 20
        model = exp.training_plan().model()
        np.testing.assert_allclose(model["w"], [1, -2, 3], atol=1e-3)
        assert exp.aggregated_params() == {19: {"params": exp.params()}}
        stored = load_file(exp.experimentation_path() / "model.safetensors")
    np.testing.assert_array_equal(stored["w"], model["w"])
    assert exp.experimentation_path() == fedplug_dir / "var" / "experiments" / "Experiment_0001"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    prints = []
    for seed in (5, 5, 6):
        with experiment(seed=seed) as exp:
            exp.run()
            prints.append(exp.params().fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_a_run_in_pieces_equals_a_run_at_once() -> None:
    with experiment() as whole, experiment() as pieces:
        whole.run()
        pieces.run_once()
        pieces.run(rounds=2)
        assert whole.params() == pieces.params()


def test_global_random_streams_are_left_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    with experiment() as exp:
        exp.run_once()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_replies_are_recorded_without_arrays() -> None:
    with experiment() as exp:
        exp.run_once()
        replies = exp.training_replies()
    assert sorted(replies) == [0]
    assert sorted(replies[0]) == ["a", "b", "c"]
    assert replies[0]["b"]["sample_count"] == 30
    assert replies[0]["b"]["steps"] == 6
    assert replies[0]["b"]["metrics"]["loss"] > 0


# round limit -----------------------------------------------------------------------------------------------


def test_run_goes_up_to_the_limit_and_then_says_so() -> None:
    with experiment(round_limit=2) as exp:
        assert (exp.run(), exp.round_current()) == (2, 2)
        assert exp.run() == 0
        assert exp.run_once() == 0
        assert exp.run(rounds=3) == 0
        assert exp.round_current() == 2


def test_rounds_do_not_pass_the_limit_unless_it_is_increased() -> None:
    with experiment(round_limit=4) as exp:
        assert exp.run(rounds=3) == 3
        assert exp.run(rounds=2) == 1
        assert exp.round_limit() == 4
        assert exp.run(rounds=2, increase=True) == 2
        assert exp.round_limit() == 6
        assert exp.run_once(increase=True) == 1
        assert exp.round_limit() == 7


def test_increase_leaves_a_limit_that_is_not_reached() -> None:
    with experiment(round_limit=9) as exp:
        assert exp.run(rounds=2, increase=True) == 2
        assert exp.round_limit() == 9


def test_without_a_limit_rounds_must_be_given() -> None:
    with experiment(round_limit=None) as exp:
        with pytest.raises(UsageError, match="no round limit"):
            exp.run()
        assert exp.run(rounds=2) == 2


@pytest.mark.parametrize("rounds", [0, -1, 1.5, "2", True])
def test_rounds_must_be_a_positive_number(rounds: Any) -> None:
    with experiment() as exp, pytest.raises(UsageError, match="above zero"):
        exp.run(rounds=rounds)


def test_the_limit_cannot_be_below_what_is_done() -> None:
    with experiment() as exp:
        exp.run(rounds=2)
        with pytest.raises(UsageError, match="2 rounds are done"):
            exp.set_round_limit(1)
        with pytest.raises(UsageError, match="whole number"):
            exp.set_round_limit(-1)
        assert exp.set_round_limit(None) is None


# settings --------------------------------------------------------------------------------------------------


def test_an_empty_experiment_is_configured_step_by_step() -> None:
    with Experiment(transport=federation(), progress="quiet", seed=5) as exp:
        with pytest.raises(UsageError) as caught:
            exp.run(rounds=1)
        assert "set_tags" in str(caught.value)
        assert "set_training_plan_class" in str(caught.value)
        exp.set_training_plan_class(LinearPlan)
        exp.set_training_args(ARGS)
        assert exp.set_tags("simulation") == exp.tags() == ["simulation"]
        exp.set_round_limit(3)
        assert exp.run() == 3
        with experiment() as other:
            other.run()
            assert other.params() == exp.params()


def test_training_args_change_from_one_round_to_the_next() -> None:
    with experiment() as exp:
        exp.run_once()
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.run_once()
        assert [reply["a"]["steps"] for reply in exp.training_replies().values()] == [12, 6]


def test_wrong_training_args_are_told_all_at_once() -> None:
    with pytest.raises(TrainingArgsError) as caught:
        experiment(training_args={"epoch": 1, "num_updates": -3})
    assert "epochs" in str(caught.value)
    assert "num_updates" in str(caught.value)


@pytest.mark.parametrize("tags", ["", [], [""], [3]])
def test_tags_must_be_words(tags: Any) -> None:
    with pytest.raises(UsageError, match="tags must be"):
        experiment(tags=tags)


def test_an_unknown_tag_names_what_is_there() -> None:
    with pytest.raises(DatasetError) as caught:
        experiment(tags="#other")
    assert "['#other']" in str(caught.value)
    assert "['simulation']" in str(caught.value)
    assert "'a'" in str(caught.value)


def test_an_unknown_node_is_named_with_those_that_exist() -> None:
    with pytest.raises(FedplugError) as caught:
        experiment(nodes=["a", "nobody"], connect_timeout=0.01)
    assert "'nobody'" in str(caught.value)
    assert "'b'" in str(caught.value)


def test_nodes_restrict_who_trains() -> None:
    with experiment(nodes=["a", "c"]) as exp:
        exp.run_once()
        assert sorted(exp.training_replies()[0]) == ["a", "c"]
        exp.set_nodes(["c"])
        exp.run_once()
        assert sorted(exp.training_replies()[1]) == ["c"]
        exp.set_nodes(["nobody"])
        with pytest.raises(UsageError, match="nobody"):
            exp.run_once()


def test_training_data_can_be_set_by_hand() -> None:
    with experiment() as exp:
        cards = exp.training_data().data()  # type: ignore[union-attr]
        exp.set_training_data({"b": cards["b"]})
        assert exp.tags() is None
        exp.run_once()
        assert sorted(exp.training_replies()[0]) == ["b"]
        with pytest.raises(UsageError, match="no tags"):
            exp.set_training_data(None, from_tags=True)
        with pytest.raises(UsageError, match="either"):
            exp.set_training_data(cards, from_tags=True)
    with pytest.raises(UsageError, match="not both"):
        experiment(training_data=cards)


def test_node_data_of_a_wrong_kind_is_named() -> None:
    with pytest.raises(UsageError, match="'a'"):
        federation(a=[1, 2, 3])
    with pytest.raises(UsageError, match="at least one"):
        Federation({})


def test_a_mapping_and_a_memory_data_set_are_data_too() -> None:
    x, y = line(1)
    pool = Federation({"a": {"x": x, "y": y}, "b": MemoryDataset("mine", {"x": x, "y": y}, tags=("simulation",))})
    with experiment(pool) as exp:
        exp.run_once()
        replies = exp.training_replies()[0]
    assert replies["a"]["sample_count"] == replies["b"]["sample_count"] == 60


def test_a_plan_that_uses_a_name_from_outside_is_refused_at_once() -> None:
    with pytest.raises(PlanSourceError, match="'OUTSIDE'"):
        experiment(training_plan_class=PlanWithOutsideName)


OUTSIDE = 3


class PlanWithOutsideName(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": OUTSIDE}

    def training_data(self):
        return DataManager([1])

    def training_step(self, data, target):
        return 0.0, {"w": data}


@pytest.mark.parametrize("wrong", [3, LinearPlan()])
def test_a_training_plan_class_must_be_a_class(wrong: Any) -> None:
    with pytest.raises(UsageError, match="must be a class"):
        experiment(training_plan_class=wrong)


def test_a_class_that_is_no_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="no training plan"):
        experiment(training_plan_class=dict)


# aggregators and strategies --------------------------------------------------------------------------------


def test_components_by_name_class_and_object() -> None:
    from fedplug_scaffold import FedAverage

    results = []
    for aggregator in (None, "fedaverage", FedAverage, FedAverage()):
        with experiment(aggregator=aggregator, node_selection_strategy="all") as exp:
            exp.run()
            results.append(exp.params())
    assert all(params == results[0] for params in results)


def test_unknown_and_unfit_components_are_told() -> None:
    with pytest.raises(UnknownNameError, match="'fedavrage'"):
        experiment(aggregator="fedavrage")
    with pytest.raises(UsageError, match="not an aggregator"):
        experiment(aggregator=RandomStrategy(0.5))
    with pytest.raises(UsageError, match="not a strategy"):
        experiment(node_selection_strategy=dict)


def test_a_random_strategy_repeats_with_the_seed() -> None:
    chosen = []
    for _ in range(2):
        with experiment(node_selection_strategy=RandomStrategy(count=2), round_limit=6) as exp:
            exp.run()
            chosen.append([tuple(sorted(replies)) for replies in exp.training_replies().values()])
    assert chosen[0] == chosen[1]
    assert all(len(pair) == 2 for pair in chosen[0])
    assert len(set(chosen[0])) > 1


class FirstOnly(Strategy):
    def __init__(self, choose: Callable[[Sequence[str]], list[str]]) -> None:
        self.choose = choose

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        return self.choose(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        return Decision("enough" if state.replied else "wait" if state.missing else "abort", "nobody is left")


def test_a_strategy_of_ones_own_decides_and_its_mistakes_are_named() -> None:
    with experiment(node_selection_strategy=FirstOnly(lambda nodes: [nodes[1]])) as exp:
        exp.run_once()
        assert sorted(exp.training_replies()[0]) == ["b"]
    with (
        experiment(node_selection_strategy=FirstOnly(lambda nodes: ["x"])) as exp,
        pytest.raises(UsageError, match="FirstOnly selected 'x'"),
    ):
        exp.run_once()
    with (
        experiment(node_selection_strategy=FirstOnly(lambda nodes: [])) as exp,
        pytest.raises(UsageError, match="selected no node"),
    ):
        exp.run_once()


# when something fails --------------------------------------------------------------------------------------


class FailsOnB(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": [0.0]}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        if self.node_id() == "b":
            raise ValueError("the machine is on fire")
        return 1.0, {"w": 0 * data[0, :1]}


def test_a_plan_that_raises_ends_the_round_and_names_node_and_line() -> None:
    with experiment(training_plan_class=FailsOnB) as exp:
        start = exp.params()
        with pytest.raises(RoundError) as caught:
            exp.run()
        text = str(caught.value)
        assert "'b'" in text
        assert "the machine is on fire" in text
        assert "training_step" in text
        assert exp.round_current() == 0
        assert exp.params() == start, "the model must be as before"


def test_a_failed_round_can_be_run_again() -> None:
    with experiment(training_plan_class=FailsOnB, node_selection_strategy=FirstOnly(lambda n: ["b"])) as exp:
        with pytest.raises(RoundError, match="nobody is left"):
            exp.run_once()
        exp.set_strategy(FirstOnly(lambda nodes: ["a"]))
        assert exp.run_once() == 1


# monitors --------------------------------------------------------------------------------------------------


class Recorder(Monitor):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def started(self, experiment_path: Path, nodes: Any, rounds: int) -> None:
        self.calls.append(("started", sorted(nodes), rounds))

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        self.calls.append(("round_started", ctx.round, *node_ids))

    def progress(self, node_id: str, progress: Progress) -> None:
        if ("progress", node_id) not in self.calls:
            self.calls.append(("progress", node_id))

    def log(self, node_id: str, line: LogLine) -> None: ...

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self.calls.append(("replied", node_id))

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self.calls.append(("round_ended", ctx.round, sorted(result.metrics)))

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        self.calls.append(("stopped", rounds_done, error))

    def close(self) -> None:
        self.calls.append(("close",))


def test_monitors_see_everything_in_order() -> None:
    recorder = Recorder()
    with experiment(federation(a=line(1), b=line(2)), round_limit=1) as exp:
        exp.add_monitor(recorder)
        exp.run()
    assert recorder.calls == [
        ("started", ["a", "b"], 1),
        ("round_started", 0, "a", "b"),
        ("progress", "a"),
        ("replied", "a"),
        ("progress", "b"),
        ("replied", "b"),
        ("round_ended", 0, ["loss"]),
        ("stopped", 1, None),
        ("close",),
    ]


def test_a_monitor_that_raises_is_left_out_and_the_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Monitor):
        calls = 0

        def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
            Broken.calls += 1
            raise RuntimeError("no paper")

    with experiment() as exp:
        exp.add_monitor(Broken())
        assert exp.run() == 3
    assert Broken.calls == 1
    assert "Broken failed" in caplog.text
    assert "RuntimeError: no paper" in caplog.text


def test_a_monitor_that_knows_what_is_wrong_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Monitor):
        closed = 0

        def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
            raise StoreError("The disk is full.", cure="Make room.")

        def close(self) -> None:
            Full.closed += 1

    with experiment() as exp:
        exp.add_monitor(Full())
        assert exp.run() == 3
    assert "Full failed and is left out from now on: The disk is full.\nMake room." in caplog.text
    assert "Traceback" not in caplog.text
    assert Full.closed == 1


def test_evaluation_at_the_nodes_is_reported() -> None:
    args = {**ARGS, "test_ratio": 0.25, "test_on_global_updates": True, "test_on_local_updates": True}
    with experiment(training_args=args) as exp:
        exp.run_once()
        metrics = exp.training_replies()[0]["a"]["metrics"]
        assert exp.training_replies()[0]["a"]["sample_count"] == 45
    assert metrics["test_local_mae"] < metrics["test_global_mae"]


def test_folders_are_numbered_or_named(fedplug_dir: Path) -> None:
    root = fedplug_dir / "var" / "experiments"
    with experiment() as first, experiment() as second, experiment(experimentation_folder="mine") as third:
        assert first.experimentation_path() == root / "Experiment_0001"
        assert second.experimentation_path() == root / "Experiment_0002"
        assert third.experimentation_path() == root / "mine"
    (root / "Experiment_0041").mkdir()
    with experiment() as exp:
        assert exp.experimentation_path().name == "Experiment_0042"
    for name in ("", "a/b", "..", "a\nb"):
        with pytest.raises(UsageError, match="name of an experiment"):
            experiment(experimentation_folder=name)


def test_folders_can_be_looked_into_by_their_user_only_unless_they_were_there(fedplug_dir: Path) -> None:
    (fedplug_dir / "var" / "experiments" / "shared").mkdir(mode=0o750, parents=True)
    previous = os.umask(0)
    try:
        made = [Experiment(experimentation_folder=name).experimentation_path() for name in (None, "mine", "shared")]
    finally:
        os.umask(previous)
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o700, 0o750]


def test_a_search_that_fails_leaves_tags_and_data_as_they_were() -> None:
    with experiment() as exp:
        before = exp.training_data()
        with pytest.raises(DatasetError):
            exp.set_tags("#other")
        assert exp.tags() == ["simulation"]
        assert exp.training_data() is before


def test_a_run_that_is_refused_leaves_the_limit_as_it_was() -> None:
    with experiment(training_plan_class=None) as exp:
        with pytest.raises(UsageError, match="a training plan"):
            exp.run(rounds=9, increase=True)
        assert exp.round_limit() == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"connect_timeout": -1.0},
        {"connect_timeout": float("nan")},
        {"connect_timeout": "soon"},
        {"min_nodes": 0},
        {"min_nodes": 1.5},
        {"seed": "lucky"},
        {"transport": 7400},
    ],
)
def test_impossible_settings_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(setting))} must be"):
        experiment(**setting)


def test_two_experiments_after_each_other_on_one_federation() -> None:
    pool = federation()
    finals = []
    for _ in range(2):
        with experiment(pool) as exp:
            exp.run()
            finals.append(exp.params())
    assert finals[0] == finals[1]


def test_a_simulation_of_a_node_that_does_not_exist_says_so_at_once() -> None:
    with experiment() as exp:
        exp.set_training_data({**exp.training_data().data(), "nobody": exp.training_data().data()["a"]})
        with pytest.raises(RoundError, match="'nobody' failed: a simulation of 3 nodes does not have it"):
            exp.run()
        assert exp.training_replies() == {}
        exp.set_tags("simulation")
        assert exp.run() == 3


class Vain(Strategy):
    """Waits although nobody is left to wait for."""

    def __init__(self) -> None:
        self.asked = 0

    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        if not state.missing:
            self.asked += 1
        return Decision("enough" if state.elapsed > 0.1 and self.asked > 1 else "wait")


def test_waiting_for_nothing_in_a_simulation_does_not_burn_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedplug.researcher import round as round_module

    monkeypatch.setattr(round_module, "TICK", 0.05)
    pool, looks = federation(), 0
    take = pool.next_event

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return take(*args)

    pool.next_event = counted  # type: ignore[method-assign]
    with experiment(pool, node_selection_strategy=Vain(), round_limit=1) as exp:
        exp.run()
    assert looks < 60


class SelectsNothing(Vain):
    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        return None  # type: ignore[return-value]


class RaisesInSelect(Vain):
    def select(self, ctx: RoundContext, nodes: Sequence[str]) -> list[str]:
        raise LookupError("no dice")


def test_a_selection_that_is_none_or_raises_is_named() -> None:
    with experiment(node_selection_strategy=SelectsNothing()) as exp:
        with pytest.raises(UsageError, match="SelectsNothing selected None"):
            exp.run()
        exp.set_strategy(RaisesInSelect())
        with pytest.raises(RoundError, match="RaisesInSelect failed in select: LookupError: no dice"):
            exp.run()
        assert exp.round_current() == 0


def test_a_model_that_cannot_be_saved_is_told_and_not_lost(fedplug_dir: Path) -> None:
    class Ends(Monitor):
        ended = 0

        def stopped(self, rounds_done: int, error: BaseException | None) -> None:
            self.ended += 1

    monitor = Ends()
    with experiment(round_limit=1) as exp:
        exp.add_monitor(monitor)
        target = exp.experimentation_path() / "model.safetensors"
        target.mkdir()  # so that no file can take its place
        (target / "x").touch()
        with pytest.raises(FedplugError, match="cannot be saved") as caught:
            exp.run()
        assert caught.value.cure
        assert exp.round_current() == 1
        assert np.isfinite(exp.params()["w"]).all()
        assert monitor.ended == 1, "the terminal must be given back all the same"
        left = {path.name for path in exp.experimentation_path().iterdir()}
        assert left == {"model.safetensors", "status.json"}, "no draft"


def test_an_experiments_folder_that_was_removed_is_made_again(fedplug_dir: Path) -> None:
    import shutil

    with experiment(round_limit=2) as exp:
        exp.run_once()
        shutil.rmtree(exp.experimentation_path())
        exp.run_once()
        assert (exp.experimentation_path() / "model.safetensors").is_file()


def test_a_model_that_the_user_has_broken_does_not_block_the_experiment(fedplug_dir: Path) -> None:
    with experiment(round_limit=2) as exp:
        plan = exp.training_plan()
        whole = plan.set_params
        plan.set_params = lambda params: 1 / 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            exp.run_once()
        assert exp.round_current() == len(exp.history) == 1, "the round is complete: its update is in the model"
        plan.set_params = whole  # type: ignore[method-assign]
        assert exp.run_once() == 1
        assert (exp.experimentation_path() / "model.safetensors").is_file()


def test_ctrl_c_in_a_round_gives_everything_back_and_the_round_can_be_run_again(fedplug_dir: Path) -> None:
    class Impatient(Monitor):
        def __init__(self) -> None:
            self.errors: list[BaseException | None] = []

        def replied(self, node_id: str, reply: TrainReply) -> None:
            if not self.errors and node_id == "b":
                raise KeyboardInterrupt

        def stopped(self, rounds_done: int, error: BaseException | None) -> None:
            self.errors.append(error)

    with experiment(round_limit=1) as exp, experiment(round_limit=1) as other:
        exp.add_monitor(monitor := Impatient())
        with pytest.raises(KeyboardInterrupt):
            exp.run()
        assert isinstance(monitor.errors[0], KeyboardInterrupt)
        assert exp.run() == 1
        other.run()
        assert exp.params() == other.params(), "another attempt gives the same bits"


def test_tensorboard_can_be_switched_off_and_a_failed_switch_on_is_tried_again(
    fedplug_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedplug.researcher import monitor_tensorboard

    def missing() -> Any:
        raise UsageError("tensorboard is not installed")

    def events(exp: Experiment) -> int:
        return sum(path.stat().st_size for path in exp.experimentation_path().rglob("*tfevents*"))

    with experiment(round_limit=3, tensorboard=True) as exp:
        with monkeypatch.context() as patch:
            patch.setattr(monitor_tensorboard, "_load_tensorboard", missing)
            for _ in range(2):
                with pytest.raises(UsageError, match="not installed"):
                    exp.run_once()
        exp.run_once()
        first = events(exp)
        assert first > 0
        exp.set_tensorboard(False)
        exp.run_once()
        assert events(exp) == first
        exp.set_tensorboard(True)
        exp.run_once()
        assert events(exp) > first
