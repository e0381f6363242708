"""Metrics of torch plans: outputs become arrays, and the values are those of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedplug import DataManager
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Trainer
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.backend import TorchModelBackend
from fedplug_torch.data import wrap

RNG = np.random.default_rng(4)
X = RNG.normal(size=(1500, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 1500)


class Classes(TorchTrainingPlan):
    def init_model(self):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))

    def training_data(self):
        return DataManager(X, Y)

    def training_step(self, data, target):
        return nn.functional.cross_entropy(self.forward(data), target)


class Surprised(Classes):
    """What is measured is not what ``forward`` gives."""

    def predict(self, data):
        return self.forward(data).argmin(1)


def trainer(plan_class=Classes, data=(X, Y), **args):
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict(args)))
    made = plan_trainer(plan, {"train": wrap(DataManager(*data)), "test": wrap(DataManager(*data))})
    return plan, made


def outputs(plan):
    layer = plan.model()[0]
    return X @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def test_outputs_of_the_module_in_evaluation_mode_are_measured():
    plan, made = trainer(test_metric=["accuracy", "confusion_matrix"])
    result = made.evaluate()
    assert plan.model().training  # as it was before
    expected = outputs(plan).argmax(1)
    assert result.metrics == {"accuracy": np.mean(expected == Y)}
    assert sum(row[i] for i, row in enumerate(result.values["confusion_matrix"])) == np.sum(expected == Y)


@pytest.mark.parametrize("size", [None, 1, 333, 1500])
def test_the_batch_size_changes_nothing(size):
    plan, made = trainer(test_metric=["accuracy", "f1_score"], test_batch_size=size)
    result = made.evaluate()
    assert result.metrics["accuracy"] == np.mean(outputs(plan).argmax(1) == Y)


def test_predict_is_measured_where_a_plan_has_it():
    plan, made = trainer(Surprised, test_metric="accuracy", test_metric_args={"n_classes": 3})
    assert made.evaluate().metrics == {"accuracy": np.mean(outputs(plan).argmin(1) == Y)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool])
def test_every_dtype_becomes_an_array(dtype):
    _, made = trainer()
    tensor = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).to(dtype)
    found = made.ctx.backend.to_numpy({"a": (tensor, tensor[0])})
    np.testing.assert_array_equal(found["a"][0].astype(float), tensor.double().numpy())
    assert found["a"][1].shape == (2,)
    needs = torch.ones(2, requires_grad=True)
    np.testing.assert_array_equal(made.ctx.backend.to_numpy(needs), [1, 1])


def test_bare_modules_are_measured_beside_their_loss():
    torch.manual_seed(0)
    backend = TorchModelBackend(nn.Linear(4, 3), nn.CrossEntropyLoss())
    made = Trainer(backend, {"test": (torch.tensor(X), torch.tensor(Y))}, args={"test_metric": "accuracy"})
    metrics = made.evaluate().metrics
    assert set(metrics) == {"accuracy", "loss"}
    with torch.no_grad():
        right = (backend.model(torch.tensor(X)).argmax(1) == torch.tensor(Y)).numpy()
    assert metrics["accuracy"] == right.mean()


def test_stratified_splits_know_the_labels_of_tensors():
    train, test = wrap(DataManager(X, Y)).split(0.2, SeedTree.root(3), stratify=True)
    shares = np.bincount(test.target.numpy()) / np.bincount(Y)
    assert np.all(np.abs(shares - 0.2) <= 1 / np.bincount(Y))
    assert len(train) + len(test) == 1500
