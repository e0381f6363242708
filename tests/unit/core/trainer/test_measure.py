"""Metrics of ``test_metric`` in the local loop."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import Metric
from fedplug.core.errors import PlanError, UnknownNameError
from fedplug.core.metrics import make_metrics
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.trainer import MultiModelTrainer, Trainer, hook
from fedplug.core.trainer.result import complete_sums

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2500, 3))
Y = (X[:, 0] + 0.5 * RNG.normal(size=2500) > 0.3).astype(np.int64)


def backend(testing_step=None, predict=None, weights=(1.0, 0.0, 0.0)):
    model = {"w": np.array(weights)}
    seen = []

    def step(data, target):
        error = data @ model["w"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data)}

    def forward(data):
        seen.append(len(data))
        return data @ model["w"]

    made = NumpyBackend(model, step, testing_step=testing_step, predict=predict or forward)
    made.seen = seen
    return made


def trainer(own=None, data=(X, Y), **args):
    args = {"test_metric": ["accuracy"], "test_metric_args": {"threshold": 0.3}, **args}
    return Trainer(own or backend(), {"test": data}, args=args)


RIGHT = int(np.sum((X[:, 0] > 0.3) == Y))


def test_the_value_does_not_depend_on_the_batch_size():
    names = ["accuracy", "f1_score", "confusion_matrix"]
    results = [
        trainer(test_metric=names, test_batch_size=size).evaluate() for size in (None, 1, 7, 64, 2499, 2500, 10**6)
    ]
    assert results[0].metrics["accuracy"] == RIGHT / 2500
    for result in results:
        assert result.metrics == results[0].metrics
        assert result.values == results[0].values
        assert result.num_samples == 2500
    assert sum(map(sum, results[0].values["confusion_matrix"])) == 2500


def test_a_test_comes_in_batches_of_1024_unless_a_testing_step_wants_all():
    plain, own = backend(), backend(testing_step=lambda data, target: {"size": len(data)})
    assert set(trainer(plain).evaluate().metrics) == {"accuracy"}  # the loss is not needed
    assert plain.seen == [1024, 1024, 452]
    found = trainer(own).evaluate().metrics
    assert own.seen == [2500]
    assert found == {"accuracy": RIGHT / 2500, "size": 2500.0}
    limited = backend()
    trainer(limited, test_batch_size=2000).evaluate()
    assert limited.seen == [2000, 500]


def test_without_test_metric_the_loss_is_the_mean_over_all_samples_as_before():
    result = trainer(test_metric=None, test_metric_args={}).evaluate()
    assert set(result.metrics) == {"loss"}
    expected = np.mean((X[:, 0] - Y) ** 2)
    assert abs(result.loss - expected) <= 2500 * 2**-52 * expected
    assert result.sums["mean/loss"][1] == 2500


def test_a_number_of_testing_step_and_a_metric_of_one_name_are_both_there():
    result = trainer(backend(testing_step=lambda data, target: {"accuracy": 0.25})).evaluate()
    assert result.metrics == {"accuracy": RIGHT / 2500, "testing_step_accuracy": 0.25}
    assert complete_sums(result, make_metrics(["accuracy"])).keys() == {"metric/accuracy", "mean/accuracy"}


def test_a_number_that_a_hook_adds_counts_as_a_mean():
    made = trainer()

    @hook("on_fit_end", phases="eval")
    def mine(ctx):
        ctx.metrics["mine"] = 0.5

    made.add_hook(mine)
    result = made.evaluate()
    assert result.metrics["mine"] == 0.5
    assert complete_sums(result, made.metrics)["mean/mine"].tolist() == [1250.0, 2500.0]


def test_hooks_see_the_outputs_and_can_measure_others():
    made = trainer()
    seen = []

    @hook("on_batch_end", phases="eval")
    def see(ctx):
        seen.append(None if ctx.y_prob is None else ctx.y_prob.shape)

    made.add_hook(see)
    made.evaluate()
    assert seen == [(1024,), (1024,), (452,)]

    @hook("on_batch_forward", phases="eval")
    def measure(ctx):
        target = ctx.data_batch[1]
        made.measure(target, target)  # always right

    made.hook_set("eval").replace("measure", measure)
    assert made.evaluate().metrics == {"accuracy": 1.0}
    assert "measure" not in trainer(test_metric=None, test_metric_args={}).hook_set("eval").names("on_batch_forward")


def test_unknown_names_are_told_when_the_trainer_is_made():
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        trainer(test_metric="acuracy")


def test_without_targets_it_is_told():
    with pytest.raises(PlanError, match="The test data has no targets"):
        trainer(data=(X, None), test_metric="accuracy", test_metric_args={}).evaluate()


def test_a_metric_that_cannot_be_computed_is_named():
    with pytest.raises(PlanError, match=r"'accuracy' cannot be computed\. The model's output .* is no probability"):
        trainer(test_metric_args={}).evaluate()


class Odd(Metric):
    def __init__(self, state):
        self._state = state

    def state(self, outputs, targets):
        return self._state(outputs)

    def value(self, state):
        return {"odd": 1}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (lambda outputs: 1 / 0, "'odd' failed: ZeroDivisionError"),
        (lambda outputs: 3.0, r"'odd' is an array of float64 of shape \(\)"),
        (lambda outputs: np.zeros(0), r"of shape \(0,\)"),
        (lambda outputs: np.zeros(len(outputs)), r"of shape \(452,\).*\n.*the same length for all batches"),
        (lambda outputs: np.array(["a"]), "is an array of <U1"),
        (lambda outputs: np.zeros(2**20 + 1), "makes 1,048,577 numbers; at most 1,048,576 can travel"),
    ],
)
def test_a_custom_metric_that_makes_no_state_is_named(state, problem):
    made = Trainer(backend(), {"test": (X, Y)}, metrics={"odd": Odd(state)})
    with pytest.raises(PlanError, match=problem):
        made.evaluate()


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("reducer", ["mean", "last"])
def test_states_of_several_models_add_up(mode, reducer):
    args = {"test_metric": ["accuracy"], "test_metric_args": {"threshold": 0.3}}
    made = MultiModelTrainer(2, mode, backend(), {"test": (X, Y)}, reducer=reducer, args=args)
    twin = made.slots[1].backend
    twin.model["w"][:] = [-1.0, 0.0, 0.0]
    twin._predict = lambda data: data @ twin.model["w"]
    other = int(np.sum((-X[:, 0] > 0.3) == Y))
    expected = other / 2500 if reducer == "last" else (RIGHT + other) / 5000
    result = made.evaluate()
    assert result.metrics == {"accuracy": expected}
    assert [slot.metrics["accuracy"] for slot in result.slots] == [RIGHT / 2500, other / 2500]
    assert result.sums["metric/accuracy"].sum() > 0
