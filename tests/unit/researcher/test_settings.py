"""Settings one by one: each argument has a setter and a getter, in any order, and all that is wrong is told at once."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug import (
    AggOptimizer,
    Aggregator,
    DataManager,
    Experiment,
    FedplugWarning,
    MetricTypes,
    Monitor,
    NumpyTrainingPlan,
    Params,
)
from fedplug.core.errors import FedplugError, SettingsError, TrainingArgsError, UnknownNameError, UsageError
from fedplug.simulation import Federation


class Line(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(model_args.get("size", 2))}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"][:2] - target
        return (error**2).mean(), {"w": np.resize(2 * error @ data / len(data), self.model()["w"].shape)}


class SameModel(Line):
    def init_dependencies(self):
        return ["from fedplug import NumpyTrainingPlan as Line"]

    def init_model(self):
        return {"w": np.ones(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(2)}


def federation() -> Federation:
    rng = np.random.default_rng(0)
    return Federation({name: (rng.normal(size=(12, 2)), rng.normal(size=12)) for name in ("a", "b")})


def experiment(**settings: Any) -> Experiment:
    given = {"tags": "simulation", "training_plan_class": Line, "round_limit": 2, "transport": federation(), "seed": 1}
    return Experiment(**{**given, "progress": "quiet", **settings})


def test_every_argument_of_the_constructor_has_a_setter_and_a_getter() -> None:
    without = {"transport", "seed", "min_nodes", "connect_timeout", "progress", "transport_options", "host", "self"}
    renamed = {"node_selection_strategy": "strategy"}
    for name in set(inspect.signature(Experiment.__init__).parameters) - without:
        name = renamed.get(name, name)
        assert callable(getattr(Experiment, f"set_{name}")), name
        assert callable(getattr(Experiment, name)), name


def test_an_empty_experiment_is_configured_in_any_order_and_runs() -> None:
    with Experiment(transport=federation(), progress="quiet", seed=1) as exp:
        exp.set_test_on_global_updates()
        exp.set_round_limit(1)
        exp.set_training_plan_class(Line)
        assert any("set_test_ratio" in problem for problem in exp.missing())
        with pytest.raises(SettingsError, match=r"(?s)set_tags.*set_test_ratio"):
            exp.run()
        exp.set_tags("simulation")
        exp.set_test_ratio(0.25)
        assert exp.missing() == []
        assert exp.run() == 1
        assert "test_global_loss" in exp.training_replies()[0]["a"]["metrics"]


class Picky(Aggregator):
    """Has something against any training arguments, and perhaps something to say about that."""

    def __init__(self, cure: str) -> None:
        self.cure = cure

    def check(self, training_args: Any) -> None:
        raise UsageError("It needs num_updates.", cure=self.cure)

    def aggregate(self, start: Params, updates: Any, ctx: Any) -> Params:
        return start


@pytest.mark.parametrize("cure", ["", "Set it, e.g. to 50."])
def test_what_an_aggregator_has_against_training_arguments_is_told_with_its_cure(cure: str) -> None:
    told = f"It needs num_updates. {cure}".rstrip() + " set_training_args(...) or set_aggregator(...) mends it."
    with experiment(aggregator=Picky(cure)) as exp:
        assert exp.missing() == [told]
        assert f"  - {told}" in str(exp.info()).splitlines()
        with pytest.raises(SettingsError) as caught:
            exp.run()
    assert told in str(caught.value)


def test_setters_of_tests_write_the_training_args_and_survive_a_ratio_of_zero() -> None:
    with experiment(training_args={"epochs": 3}) as exp:
        assert exp.test_ratio() == (0.0, False)
        exp.set_test_on_local_updates(True)
        assert (exp.test_on_local_updates(), exp.test_on_global_updates()) == (True, False)
        exp.set_test_ratio(0.25, shuffle_testing_dataset=True)
        assert exp.test_ratio() == (0.25, True)
        args = exp.training_args()
        assert (args["test_on_local_updates"], args["test_ratio"], args["epochs"]) == (True, 0.25, 3)
        exp.set_test_ratio(0)
        assert exp.test_on_local_updates()
        assert exp.missing() == ["data to test on, for test_on_local_updates: set_test_ratio(...)"]
        exp.set_test_on_local_updates(False)
        assert exp.missing() == []
        with pytest.raises(TrainingArgsError, match="test_ratio must be"):
            exp.set_test_ratio(1.5)
        for wrong in (1, "yes", None):
            with pytest.raises(UsageError, match="must be True or False"):
                exp.set_test_on_global_updates(wrong)


def test_the_constructor_takes_the_arguments_of_tests_too() -> None:
    with experiment(test_ratio=0.5, test_on_global_updates=True, test_on_local_updates=True) as exp:
        assert exp.training_args()["test_ratio"] == 0.5
        assert exp.test_on_global_updates()
        assert exp.test_on_local_updates()


def test_all_wrong_arguments_are_told_at_once_with_their_setters() -> None:
    with pytest.raises(SettingsError) as caught:
        experiment(
            training_args={"epoch": 1}, round_limit=-1, aggregator="fedavrage", save_breakpoints="yes", tensorboard=1,
            experimentation_folder="a/b", agg_optimizer=3, nodes=[], model_args=3,
        )  # fmt: skip
    text = str(caught.value)
    for name in (
        "training_args", "round_limit", "aggregator", "save_breakpoints", "tensorboard", "experimentation_folder",
        "agg_optimizer", "nodes", "model_args",
    ):  # fmt: skip
        assert f"(set_{name})" in text
    assert len(caught.value.problems) == 9
    assert "did you mean 'epochs'?" in text


def test_a_single_wrong_argument_is_told_as_what_it_is() -> None:
    with pytest.raises(TrainingArgsError):
        experiment(training_args={"epoch": 1})


# parameters that are worth keeping ---------------------------------------------------------------------------


def test_trained_parameters_stay_when_the_plan_changes() -> None:
    with experiment() as exp:
        exp.run(1)
        trained = exp.params()
        exp.set_training_plan_class(SameModel)
        assert exp.params() == trained
        assert exp.training_plan().model()["w"].tolist() == trained["w"].tolist()
        exp.set_training_plan_class(SameModel, keep_weights=False)
        assert exp.params()["w"].tolist() == [1.0, 1.0]


def test_parameters_that_do_not_fit_are_refused_and_all_stays_as_it_was() -> None:
    with experiment() as exp:
        exp.run(1)
        trained = exp.params()
        with pytest.raises(UsageError, match=r"do not fit the new model: .*w.*") as caught:
            exp.set_model_args({"size": 5})
        assert "keep_weights=False" in caught.value.cure
        assert (exp.model_args(), exp.params()) == ({}, trained)
        exp.set_model_args({"size": 5}, keep_weights=False)
        assert exp.params()["w"].tolist() == [0.0] * 5


def test_parameters_that_nobody_trained_are_not_kept() -> None:
    with experiment() as exp:
        assert exp.params()["w"].tolist() == [0.0, 0.0]
        exp.set_model_args({"size": 3})
        assert exp.params()["w"].tolist() == [0.0, 0.0, 0.0]


# agg_optimizer -----------------------------------------------------------------------------------------------


class Half(AggOptimizer):
    def __init__(self) -> None:
        self.steps = 0

    def advance(self, start: Params, aggregated: Params, ctx: Any) -> Params:
        self.steps += 1
        return start + (aggregated - start) * 0.5

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


class Broken(Half):
    def advance(self, start: Params, aggregated: Params, ctx: Any) -> Params:
        super().advance(start, aggregated, ctx)
        return Params.from_arrays({"w": np.array([np.nan, 0.0])})


def test_an_agg_optimizer_decides_how_far_the_model_goes() -> None:
    with experiment() as plain, experiment(agg_optimizer=Half) as half:
        plain.run(1)
        half.run(1)
        np.testing.assert_array_equal(half.params()["w"], plain.params()["w"] * 0.5)
        assert half.agg_optimizer().steps == 1
        assert half.set_agg_optimizer(None) is None


def test_an_agg_optimizer_that_fails_is_named_and_learns_nothing() -> None:
    with experiment(agg_optimizer=Broken()) as exp:
        before = exp.params()
        with pytest.raises(Exception, match=r"Optimizer Broken returned parameters that do not fit the model"):
            exp.run(1)
        assert (exp.agg_optimizer().steps, exp.params(), exp.round_current()) == (0, before, 0)
    with pytest.raises(UnknownNameError, match="no optimizer of the researcher named 'adam'"):
        experiment(agg_optimizer="adam")


# what is shown -----------------------------------------------------------------------------------------------


def test_info_prints_a_table_and_returns_it(capsys: pytest.CaptureFixture[str]) -> None:
    with experiment(training_args={"epochs": 2}, aggregator="fedaverage", model_args={"size": 2}) as exp:
        found = exp.info()
        printed = capsys.readouterr().out
        assert printed == f"{found}\n"
        for words in ("Line (", "epochs = 2", "FedAverage(weighting='samples')", "0 of 2", "size = 2", "Ready to run."):
            assert words in printed
        assert found.missing == []
        assert found["aggregator"] == "FedAverage(weighting='samples')"
        assert "ready to run" in repr(found)
    with Experiment(transport=federation(), progress="quiet") as exp:
        found = exp.info()
        assert "Missing to run:\n  - training data: set_tags(...)" in str(found)
        assert len(found.missing) == 2


def test_a_monitor_may_be_set_like_tensorboard() -> None:
    class Seen(Monitor):
        rounds = 0

        def round_ended(self, ctx: Any, result: Any) -> None:
            self.rounds += 1

    seen = Seen()
    with experiment(monitor=seen) as exp:
        assert exp.set_monitor(tensorboard=False) is exp.monitor()
        exp.set_monitor(True)
        assert exp.tensorboard()
        exp.run(1)
        assert (exp.tensorboard_results_path / "aggregated").is_dir()
        with pytest.raises(UsageError, match="True or False for TensorBoard logs"):
            exp.set_monitor("yes")
    assert seen.rounds == 1


def test_the_folder_is_settled_by_the_first_run(fedplug_dir: Path) -> None:
    with experiment() as exp:
        assert exp.experimentation_folder() is None
        assert exp.set_experimentation_folder("mine") == "mine"
        exp.run(1)
        assert exp.set_experimentation_folder("mine") == "mine"
        with pytest.raises(UsageError, match="keeps its files in"):
            exp.set_experimentation_folder("other")


def test_the_nodes_of_the_federation_and_those_that_train() -> None:
    with Experiment(transport=federation(), progress="quiet") as exp:
        assert exp.all_federation_nodes() == exp.filtered_federation_nodes() == []
        exp.set_tags("simulation")
        exp.set_nodes(["b", "nobody"])
        assert (exp.all_federation_nodes(), exp.filtered_federation_nodes()) == (["a", "b"], ["b"])
        exp.set_nodes(["nobody"])
        exp.set_training_plan_class(Line)
        assert any("None of the nodes ['nobody'] holds the training data." in problem for problem in exp.missing())


def test_the_pages_own_spellings_are_there() -> None:
    with experiment() as exp:
        assert exp.set_training_arguments({"epochs": 4})["epochs"] == 4
        assert exp.training_args()["epochs"] == 4


# what nodes hold, and what they see ----------------------------------------------------------------------------


def test_the_data_sets_of_the_nodes_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    with Experiment(transport=federation(), progress="quiet") as exp:
        found = exp.list_datasets(verbose=True)
        assert capsys.readouterr().out == f"{found}\n"
        assert sorted(found) == ["a", "b"]
        assert found["a"][0].columns == ("x", "y")
        assert list(exp.list_datasets(nodes=["b"])) == ["b"]
        assert capsys.readouterr().out == ""
        assert exp.training_data() is None


def test_data_sets_that_do_not_fit_together_are_told() -> None:
    rng = np.random.default_rng(0)
    odd = Federation({"a": (rng.normal(size=(9, 2)), rng.normal(size=9)), "b": (rng.normal(size=(9, 3)), np.zeros(9))})
    with pytest.warns(FedplugWarning, match="do not fit together"):
        experiment(transport=odd).close()


def test_the_plan_is_written_as_nodes_execute_it(capsys: pytest.CaptureFixture[str]) -> None:
    with experiment() as exp:
        path = exp.training_plan_file()
        assert path.read_text() == exp.training_plan_bundle().code
        assert "class Line" in capsys.readouterr().out
        exp.training_plan_file(display=False)
        assert capsys.readouterr().out == ""
        with pytest.raises(UsageError, match="no training plan yet"):
            Experiment(progress="quiet").training_plan_file()


def test_a_simulation_needs_no_approval() -> None:
    with experiment() as exp:
        found = exp.check_training_plan_status()
        assert {node: status.status for node, status in found.items()} == {"a": "not required", "b": "not required"}
        assert found["a"].plan == exp.training_plan_bundle().hash
        assert exp.training_plan_approve(description="for the tutorial") == found
        with pytest.raises(UsageError, match="description must be text"):
            exp.training_plan_approve(Line)
    with (
        Experiment(transport=federation(), progress="quiet", training_plan_class=Line) as exp,
        pytest.raises(UsageError, match="no nodes to ask yet"),
    ):
        exp.check_training_plan_status()


# tests without training ----------------------------------------------------------------------------------------


def test_the_model_can_be_tested_at_any_time_and_is_after_the_last_round(capsys: pytest.CaptureFixture[str]) -> None:
    args = {"epochs": 20, "optimizer_args": {"lr": 0.1}}
    with (
        experiment(test_ratio=0.25, progress="json", test_on_global_updates=True, training_args=args) as exp,
        experiment(training_args=args) as plain,
    ):
        first = exp.evaluate()
        assert (first.round, exp.round_current(), sum(first.samples.values())) == (0, 0, 6)
        exp.run()
        second = exp.evaluate()
        assert second.metrics["test_global_loss"] != first.metrics["test_global_loss"]
        assert sorted(second.nodes) == ["a", "b"]
        plain.set_test_ratio(0.25)
        plain.run()
        assert plain.params() == exp.params()  # to test changes nothing
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tested = [event for event in events if event["event"] == "tested"]
    assert [(event["round"], event["metrics"]) for event in tested] == [
        (0, dict(first.metrics)), (2, dict(second.metrics)), (2, dict(second.metrics)),
    ]  # fmt: skip
    assert events.index(tested[1]) < events.index(next(event for event in events if event["event"] == "stopped"))


def test_the_last_test_is_not_shown_as_a_round_beyond_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with experiment(test_ratio=0.25, test_on_global_updates=True, progress="plain") as exp:
        exp.run()
    shown = capsys.readouterr().err
    assert "round 3/2" not in shown
    assert [line.split(", test_")[0] for line in shown.splitlines() if line.startswith("test: ")] == [
        "test: a replied, 3 samples", "test: b replied, 3 samples",
    ]  # fmt: skip


def test_to_test_needs_something_to_test_on() -> None:
    with experiment() as exp, pytest.raises(UsageError, match="test_ratio is 0"):
        exp.evaluate()
    with Experiment(progress="quiet") as exp, pytest.raises(SettingsError, match="cannot test its model yet"):
        exp.evaluate()


def test_a_metric_that_nobody_offers_is_told_when_it_is_set() -> None:
    with experiment() as exp:
        with pytest.raises(UnknownNameError, match="accuracy"):
            exp.set_test_metric("acuracy")
        assert exp.test_metric() is None
        assert exp.set_test_metric(MetricTypes.MEAN_SQUARED_ERROR) == ["mean_squared_error"]
        assert exp.set_test_metric(["R2_SCORE", "mean_absolute_error"]) == ["r2_score", "mean_absolute_error"]
        exp.set_test_metric("auc", bins=64)
        assert exp.test_metric_args() == {"bins": 64}
        with pytest.raises(UnknownNameError, match="bins"):
            exp.set_test_metric_args({"bims": 3})
        assert exp.set_test_metric_args(None) == {}


# plans from files, models in files -----------------------------------------------------------------------------

TEXT = """
import numpy as np
from fedplug import DataManager, NumpyTrainingPlan


class {name}(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {{"w": np.full(2, {value})}}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return (error**2).mean(), {{"w": 2 * error @ data / len(data)}}
"""


def test_a_plan_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(TEXT.format(name="Net", value=3.0))
    with experiment(training_plan_class=None, training_plan_path=file) as exp:
        assert exp.training_plan_class() == "Net"
        assert exp.training_plan_path() == file
        assert exp.params()["w"].tolist() == [3.0, 3.0]
        assert exp.run(1) == 1
    with experiment(training_plan_class="Net", training_plan_path=str(file)) as exp:
        assert exp.params()["w"].tolist() == [3.0, 3.0]


def test_the_class_is_looked_up_when_the_path_or_its_name_changes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(TEXT.format(name="Net", value=1.0))
    second.write_text(TEXT.format(name="Net", value=2.0) + TEXT.format(name="Other", value=4.0))
    with experiment(training_plan_class=None) as exp:
        exp.set_training_plan_path(first)
        assert exp.params()["w"].tolist() == [1.0, 1.0]
        exp.set_training_plan_path(second)
        assert exp.params()["w"].tolist() == [2.0, 2.0]
        exp.set_training_plan_class("Other")
        assert exp.params()["w"].tolist() == [4.0, 4.0]
        with pytest.raises(UnknownNameError, match="Nett"):
            exp.set_training_plan_class("Nett")
        with pytest.raises(UsageError, match="is not there"):
            exp.set_training_plan_path(tmp_path / "nothing.py")
        assert (exp.training_plan_class(), exp.training_plan_path()) == ("Other", second)
        exp.set_training_plan_path(None)
        with pytest.raises(UsageError, match="There is no file to look 'Net' up in"):
            exp.set_training_plan_class("Net")


def test_a_model_is_exported_and_imported(tmp_path: Path) -> None:
    with experiment() as exp:
        exp.run(1)
        trained = exp.params()
        path = exp.export_model(tmp_path / "model.safetensors")
        with pytest.raises(UsageError, match="There is no training plan yet"):
            Experiment(progress="quiet").export_model(path)
    with experiment() as exp:
        exp.import_model(path)
        assert exp.params() == trained
        with pytest.raises(UsageError, match="do not fit the new model"):  # imported parameters are worth keeping
            exp.set_model_args({"size": 3})
        exp.run(1)
        assert exp.params() != trained
    with experiment(model_args={"size": 3}) as exp:
        before = exp.params()
        with pytest.raises(FedplugError, match="w"):
            exp.import_model(path)
        assert exp.params() == before
