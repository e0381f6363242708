"""What an experiment tells of itself: history, picture, report and TensorBoard agree with each other."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import RoundError, UsageError
from fedplug.researcher.history import History
from fedplug.simulation import Federation


class Logistic(NumpyTrainingPlan):
    """Logistic regression that measures accuracy."""

    def init_model(self, model_args):
        return {"w": np.zeros(model_args["features"]), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        score = data @ self.model()["w"] + self.model()["b"]
        error = 1 / (1 + np.exp(-score)) - target
        loss = np.logaddexp(0, score) - target * score
        return float(loss.mean()), {"w": data.T @ error / len(error), "b": error.mean()}

    def testing_step(self, data, target):
        score = data @ self.model()["w"] + self.model()["b"]
        return {"accuracy": float(((score > 0) == target).mean())}


class Broken(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def testing_step(self, data, target):
        return 0.0

    def training_step(self, data, target):
        raise ValueError("no luck")


def points(seed, count=80):
    x = np.random.default_rng(seed).normal(size=(count, 4))
    return x, (x @ np.array([1.0, -1.0, 0.5, 0.0]) > 0).astype(np.int64)


def experiment(plan=Logistic, **settings):
    return Experiment(
        tags="simulation",
        training_plan_class=plan,
        model_args={"features": 4},
        training_args={
            "epochs": 2,
            "loader_args": {"batch_size": 16},
            "optimizer_args": {"lr": 0.5},
            "log_interval": 1,
            "test_ratio": 0.25,
            "test_on_global_updates": True,
            "test_on_local_updates": True,
        },
        round_limit=3,
        seed=3,
        progress="quiet",
        transport=Federation({"paris": points(1), "lyon": points(2), "nice": points(3)}),
        **settings,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPLUG_DIR", str(tmp_path_factory.mktemp("home")))
        with experiment(tensorboard=True) as exp:
            exp.run()
            yield exp


def values(exp, **wanted):
    return [record["value"] for record in exp.history.records() if wanted.items() <= record.items()]


def test_history_holds_what_the_replies_say(done):
    replies = done.training_replies()
    assert len(done.history) == len(replies) == 3
    for number, of_round in replies.items():
        for node, reply in of_round.items():
            told = {
                (record["phase"], record["metric"]): record["value"]
                for record in done.history.records()
                if (record["round"], record["node_id"]) == (number, node)
            }
            assert told["train", "loss"] == reply["metrics"]["loss"]
            assert told["test_global", "accuracy"] == reply["metrics"]["test_global_accuracy"]
            assert told["test_local", "accuracy"] == reply["metrics"]["test_local_accuracy"]
            assert told["timing", "train"] == reply["timing"]["train"]
    (first,) = values(done, round=0, node_id="all", phase="test_global", metric="accuracy")
    (last,) = values(done, round=2, node_id="all", phase="test_global", metric="accuracy")
    assert last > first + 0.2


def test_training_curves_are_kept_per_node_and_step(done):
    curves = done.history.curves()
    assert sorted(curves) == ["lyon", "nice", "paris"]
    for node, kept in curves.items():
        steps = [reply[node]["steps"] for reply in done.training_replies().values()]
        assert [step for _, step, _ in kept] == list(range(1, sum(steps) + 1))
        assert [number for number, _, _ in kept] == [number for number, count in enumerate(steps) for _ in range(count)]


def test_history_survives_a_breakpoint(done):
    back = History.from_plain(json.loads(json.dumps(done.history.to_plain(), allow_nan=False)))
    assert back.records() == done.history.records()
    assert back.curves() == done.history.curves()


def test_history_is_a_frame(done):
    frame = done.history.frame()
    table = frame[(frame.phase == "test_local") & (frame.metric == "accuracy")].pivot_table("value", "round", "node")
    assert table.shape == (3, 4)
    assert list(table.columns) == ["all", "lyon", "nice", "paris"]


def test_picture_shows_loss_and_tests(done):
    titles = [axes.get_title(loc="left") for axes in done.plot().axes]
    assert titles == ["Loss while training", "Accuracy of the global model", "Accuracy after local training"]
    assert len(done.plot("loss").axes) == 1


def test_report_goes_into_the_experiments_folder(done, tmp_path):
    path = done.report()
    assert path == done.experimentation_path() / "report.html"
    text = path.read_text(encoding="utf-8")
    assert "<h1>Experiment 0001</h1>" in text
    assert "3 of 3 rounds done." in text
    assert "class Logistic(NumpyTrainingPlan):" in text
    assert "NumpyTrainingPlan" in text
    for name in (
        "log_interval",
        "shuffle_testing_dataset",
        "features",
        escape("FedAverage(weighting='samples')"),
        "DefaultStrategy(patience=60.0, silence=900.0)",
    ):
        assert re.search(rf"<t[dh][^>]*>{re.escape(name)}</t[dh]>", text), name
    (loss,) = values(done, round=2, node_id="all", phase="train", metric="loss")
    assert f"<dd>{loss:.4g}</dd>" in text
    assert done.report(tmp_path / "mine.html") == tmp_path / "mine.html"


def test_tensorboard_holds_the_same_curves(done):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in ("paris", "lyon", "nice", "aggregated"):
        events = EventAccumulator(str(done.experimentation_path() / "runs" / run))
        events.Reload()
        node = "all" if run == "aggregated" else run
        for tag, phase, first in (
            ("VALIDATION ON GLOBAL UPDATES/ACCURACY", "test_global", 0),
            ("VALIDATION ON LOCAL UPDATES/ACCURACY", "test_local", 1),
        ):
            read = [(event.step, event.value) for event in events.Scalars(tag)]
            expected = values(done, node_id=node, phase=phase, metric="accuracy")
            assert read == [(first + place, float(np.float32(value))) for place, value in enumerate(expected)]
        if run != "aggregated":
            losses = [(event.step, event.value) for event in events.Scalars("TRAINING/Loss")]
            kept = done.history.curves()[run]
            assert losses == [(step, float(np.float32(loss))) for _, step, loss in kept]


def test_a_round_that_fails_is_not_in_the_history(fedplug_dir: Path) -> None:
    with experiment(Broken) as exp:
        with pytest.raises(RoundError):
            exp.run()
        assert len(exp.history) == 0
        with pytest.raises(UsageError, match="nothing to plot"):
            exp.plot()
        with pytest.raises(UsageError, match="nothing to report"):
            exp.report()


def test_an_empty_experiment_has_an_empty_history(fedplug_dir: Path) -> None:
    with Experiment(progress="quiet") as exp:
        assert exp.history.records() == []
        with pytest.raises(UsageError, match="nothing to report"):
            exp.report()
    assert not list(fedplug_dir.rglob("Experiment_*"))  # no number is used up for nothing
