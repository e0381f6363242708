from __future__ import annotations

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.metrics import as_metrics
from fedplug.core.params import allocate
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3


class Linear(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(model_args.get("features", 3)), "b": np.zeros(())}

    def training_data(self):
        return DataManager(X, Y)

    def training_step(self, data, target):
        error = data @ self.model()["w"] + self.model()["b"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "b": 2 * error.mean()}


def ready(plan_class=Linear, **args) -> NumpyTrainingPlan:
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict(args)))
    return plan


def fit(plan, seed=1, **loader):
    args = LoaderArgs(10, **loader)
    return Trainer(
        plan.make_backend(), {"train": ArrayData(X, Y)}, args=plan.training_args(), loader=args, seed=seed
    ).train()


def scores(plan, batch_size=None):
    return Trainer(plan.make_backend(), {"test": ArrayData(X, Y)}).evaluate(batch_size=batch_size).metrics


def test_training_equals_a_hand_written_loop_to_the_bit():
    plan = ready(epochs=3, optimizer_args={"lr": 0.05})
    result = fit(plan)
    w, b, losses = np.zeros(3), np.zeros(()), []
    for epoch in range(3):
        order = SeedTree.root(1).child("epoch", epoch).generator().permutation(50)
        for low in range(0, 50, 10):
            x, y = X[order[low : low + 10]], Y[order[low : low + 10]]
            error = x @ w + b - y
            losses.append((error**2).mean())
            w = w - 0.05 * (2 * x.T @ error / 10)
            b = b - 0.05 * (2 * error.mean())
    assert plan.model()["w"].tobytes() == w.tobytes()
    assert plan.model()["b"].tobytes() == np.asarray(b).tobytes()
    assert result.loss == pytest.approx(np.mean(losses))


def test_it_learns():
    plan = ready(epochs=60, optimizer_args={"lr": 0.1})
    fit(plan)
    assert np.allclose(plan.model()["w"], [1.0, -2.0, 0.5], atol=1e-3)
    assert scores(plan)["loss"] < 1e-5


def test_params_round_trip_in_the_models_order_without_aliasing():
    plan = ready()
    params = Params.from_arrays({"w": np.array([1.0, 2.0, 3.0]), "b": np.array(4.0)})
    plan.set_params(params)
    assert plan.get_params() == params
    before = plan.get_params()
    plan.model()["w"][0] = 9.0
    assert before["w"][0] == 1.0
    assert list(before) == ["w", "b"]


def test_params_are_built_in_the_memory_that_is_given():
    memory = []

    def give(nbytes):
        memory.append(allocate(nbytes + 100))
        return memory[-1]

    plan = ready()
    plan.set_params(Params.from_arrays({"w": np.array([1.0, 2.0, 3.0]), "b": np.array(4.0)}))
    assert np.shares_memory(plan.get_params(give)["w"], memory[0])


def test_other_params_are_refused():
    with pytest.raises(ParamsError, match=r"'w' has shape \(2,\), expected \(3,\)"):
        ready().set_params(Params.from_arrays({"w": np.zeros(2), "b": np.zeros(())}))


@pytest.mark.parametrize("made", [None, 3, {}, np.zeros(3)])
def test_init_model_must_return_arrays_by_name(made):
    class Wrong(Linear):
        def init_model(self, model_args):
            return made

    with pytest.raises(PlanError, match="init_model must return a dict of arrays"):
        ready(Wrong)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, r"must return \(loss, gradients by name\), but returned nothing \(is a return missing\?\)"),
        (1.0, "but returned a float"),
        ((1.0, [1]), "but returned a tuple"),
        ((np.zeros(3), {"w": np.zeros(3), "b": 0.0}), r"one number as loss, but its loss has shape \(3,\)"),
        ((1.0, {"w": np.zeros(3)}), "misses 'b'"),
        ((1.0, {"w": np.zeros(3), "b": 0.0, "c": 0.0}), "'c'"),
        ((1.0, {"w": np.zeros(4), "b": 0.0}), r"gradient of 'w' has shape \(4,\), the array \(3,\)"),
    ],
)
def test_a_wrong_training_step_is_named(returned, words):
    class Wrong(Linear):
        def training_step(self, data, target):
            return returned

    with pytest.raises(PlanError, match=words):
        fit(ready(Wrong))


def test_the_default_optimizer_refuses_what_it_does_not_know():
    with pytest.raises(PlanError, match="takes only lr, but optimizer_args has 'momentum'"):
        ready(optimizer_args={"momentum": 0.9})


def test_an_own_optimizer_is_used_and_a_wrong_one_refused():
    class Sign:
        def step(self, params, gradients):
            for name in params:
                params[name] -= np.sign(gradients[name])

    class Own(Linear):
        def init_optimizer(self):
            return Sign()

    class Wrong(Linear):
        def init_optimizer(self):
            return None

    plan = ready(Own, num_updates=1)
    fit(plan)
    assert set(np.abs(plan.model()["w"])) == {1.0}
    with pytest.raises(PlanError, match=r"a method step\(params, gradients\), but returned nothing"):
        ready(Wrong)


def test_testing_step_is_used_for_tests():
    class Tested(Linear):
        def testing_step(self, data, target):
            return {"count": len(target)}

    assert scores(ready(Tested), 25) == {"count": 25.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, {"metric": 0.5}),
        (np.float32(0.5), {"metric": 0.5}),
        (np.array(0.5), {"metric": 0.5}),
        ([1, 2.0], {"metric_1": 1.0, "metric_2": 2.0}),
        ({"a": 1, "b": np.int64(2)}, {"a": 1.0, "b": 2.0}),
    ],
)
def test_metrics_in_one_form(value, expected):
    assert as_metrics(value) == expected


@pytest.mark.parametrize("value", [None, "0.5", {"a": None}, [np.zeros(3)], object()])
def test_what_is_no_metric_is_refused(value):
    with pytest.raises(PlanError, match="testing_step must return a number, or a dict or list of numbers"):
        as_metrics(value)
