"""A fine-tuning in between must not show in what is trained, kept or sent."""

from __future__ import annotations

import numpy as np

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup


class Momentum:
    def __init__(self, lr):
        self.lr, self.velocity = lr, {}

    def step(self, params, gradients):
        for name, array in params.items():
            self.velocity[name] = 0.9 * self.velocity.get(name, 0.0) + gradients[name]
            array -= self.lr * self.velocity[name]


class Plan(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(3)}

    def init_optimizer(self, optimizer_args):
        return Momentum(optimizer_args["lr"])

    def training_data(self):
        return DataManager(X, Y)

    def training_step(self, data, target):
        residual = data @ self.model()["w"] - target
        return float((residual**2).mean()), {"w": 2 * data.T @ residual / len(residual)}


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X @ np.array([1.0, 2.0, 3.0])


def trainer(**options):
    plan = Plan()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict({"num_updates": 7, "optimizer_args": {"lr": 0.01}})))
    return plan, plan_trainer(plan, {"train": ArrayData(X, Y)}, LoaderArgs(batch_size=8), 3, **options)


def test_the_plan_has_its_own_optimizer_back():
    plan, subject = trainer(optimizer_state="keep")
    subject.train()
    before = plan.optimizer()
    velocity = before.velocity["w"].copy()
    subject.finetune()
    assert plan.optimizer() is before
    np.testing.assert_array_equal(before.velocity["w"], velocity)


def test_the_order_of_samples_of_the_next_training_is_the_same():
    results = []
    for between in (False, True):
        _, subject = trainer()
        subject.train()
        kept = subject.get_params()
        if between:
            subject.finetune()
            subject.update(kept)
        results.append(subject.train().params)
    assert results[0] == results[1]


def test_batches_are_as_large_as_in_training_unless_said_otherwise():
    sizes = []
    for loader_args in ({}, {"batch_size": 20}):
        _, subject = trainer(finetune_args={"epochs": 1, "loader_args": loader_args})
        sizes.append(subject.finetune().steps)
    assert sizes == [5, 2]
