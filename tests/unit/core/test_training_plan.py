from __future__ import annotations

import random

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.errors import PlanError
from fedplug.core.flexible_calls import call_flexibly
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup


class Plan(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(np.zeros((4, 2)), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(2)}


def ready(plan_class=Plan, **setup) -> NumpyTrainingPlan:
    plan = plan_class()
    plan.setup(PlanSetup(**setup))
    return plan


@pytest.mark.parametrize("getter", ["model", "optimizer", "model_args", "training_args", "node_id", "round"])
def test_getters_before_setup_say_when_they_work(getter):
    with pytest.raises(PlanError, match="is not available yet") as caught:
        getattr(Plan(), getter)()
    assert "training_step" in caught.value.cure


def test_getters_after_setup():
    aux = {"control": Params.from_arrays({"w": np.ones(2)})}
    args = TrainingArgs.from_dict({"loader_args": {"batch_size": 3}, "optimizer_args": {"lr": 0.5}})
    plan = ready(model_args={"a": [1]}, training_args=args, node_id="paris", round=4, aux=aux)
    assert plan.model_args() == {"a": [1]}
    assert plan.training_args() == args.dict()
    assert plan.optimizer_args() == {"lr": 0.5}
    assert plan.loader_args() == {"batch_size": 3}
    assert (plan.node_id(), plan.round()) == ("paris", 4)
    assert plan.aux() == aux
    assert plan.optimizer().lr == 0.5


def test_getters_give_copies():
    plan = ready(model_args={"a": [1]})
    plan.model_args()["a"].append(2)
    plan.training_args()["optimizer_args"]["lr"] = 9
    assert plan.model_args() == {"a": [1]}
    assert plan.optimizer_args()["lr"] == 1e-3


def test_the_model_works_in_init_optimizer_and_is_missed_in_init_model():
    class Early(Plan):
        def init_model(self):
            return self.model()

    class Late(Plan):
        def init_optimizer(self):
            assert self.model()["w"].shape == (2,)
            return super().init_optimizer({"lr": 1.0})

    assert ready(Late).optimizer().lr == 1.0
    with pytest.raises(PlanError, match=r"self\.model\(\) is not available yet"):
        ready(Early)


def test_without_optimizer_at_the_researcher():
    plan = Plan()
    plan.setup(PlanSetup(), with_optimizer=False)
    assert plan.model()["w"].shape == (2,)
    with pytest.raises(PlanError, match="optimizer"):
        plan.optimizer()


def test_no_data_at_the_researcher():
    with pytest.raises(PlanError, match="only nodes hold data"):
        _ = ready().dataset


@pytest.mark.parametrize(
    ("loader_args", "required", "default"),
    [({"batch_size": 7}, 7, 7), ({}, 32, 48)],
)
def test_training_data_may_take_the_batch_size(loader_args, required, default):
    class Required(Plan):
        def training_data(self, batch_size):
            return DataManager(np.zeros(4), batch_size=batch_size)

    class Default(Plan):
        def training_data(self, batch_size=48):
            return DataManager(np.zeros(4), batch_size=batch_size)

    args = TrainingArgs.from_dict({"loader_args": loader_args})
    assert ready(Required, training_args=args).make_data().loader_args == {"batch_size": required}
    assert ready(Default, training_args=args).make_data().loader_args == {"batch_size": default}
    assert ready(Plan, training_args=args).make_data().loader_args == {}


def test_training_data_must_return_a_data_manager():
    class Wrong(Plan):
        def training_data(self):
            return np.zeros(3)

    with pytest.raises(PlanError, match="must return a DataManager, but returned ndarray"):
        ready(Wrong).make_data()


def test_a_method_that_wants_too_much_is_named():
    def init_model(one, two, three=3):
        return one

    with pytest.raises(PlanError, match="init_model takes 2 arguments") as caught:
        call_flexibly(init_model, {})
    assert "Remove two" in caught.value.cure


def test_methods_get_as_many_arguments_as_they_take():
    assert call_flexibly(lambda: "none", 1) == "none"
    assert call_flexibly(lambda a: a, 1) == 1
    assert call_flexibly(lambda *a: a, 1) == (1,)
    assert call_flexibly(lambda a, *, b=2: (a, b), 1) == (1, 2)


def test_seeded_repeats_and_restores():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    draws = []
    for _ in range(2):
        with Plan.seeded(5, threads=2):
            draws.append((random.random(), np.random.random()))
    assert draws[0] == draws[1]
    assert (random.random(), np.random.random()) == expected
