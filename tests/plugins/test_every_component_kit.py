"""Every component that FedPlug itself brings keeps the laws of its kind, as far as it can be made."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn
from torch.utils.data import Dataset

from fedplug import DataManager, MetricTypes, OverSelection, Params, QuorumStrategy
from fedplug.core.data import ArrayData
from fedplug.core.metrics import make_metrics
from fedplug.core.params import widened
from fedplug.core.plugins import PluginHost
from fedplug.core.strategy import DefaultStrategy, RandomStrategy
from fedplug.testing import PlanCase, Subject, TransportCase, check_offer, parametrize_with_checks
from fedplug.transports.inproc import InprocTransport
from fedplug_declearn import CosineDecay, Optimizer
from fedplug_scaffold import FedAverage, FedNova, Scaffold
from fedplug_sklearn import FedGaussianNB, FedPerceptron, FedSGDClassifier, FedSGDRegressor
from fedplug_sklearn.data import Rows
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.data import DatasetData, TensorData

HOST = PluginHost.discover(["declearn", "robust", "scaffold", "sklearn", "torch", "zmq"])
NUMBERS = count()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3))
CLASSES = np.arange(24) % 3
ARGS = {"loader_args": {"batch_size": 5}, "optimizer_args": {"lr": 0.05}}


def offers(*kinds):
    return [offer for kind in kinds for offer in HOST.components(kind)]


def marks_of(offer):
    """The robust ones take long, and test_robust_laws.py tries the same laws on them."""
    return [pytest.mark.slow] if offer.qualified.startswith("robust:") and offer.kind == "aggregator" else []


@pytest.mark.parametrize(
    "offer",
    [pytest.param(offer, id=offer.qualified, marks=marks_of(offer)) for offer in offers("aggregator", "agg_optimizer")],
)
def test_it_keeps_its_laws(offer):
    results = check_offer(offer)
    assert [result.reason for result in results if result.outcome == "fail"] == []
    assert results[0].outcome == "pass"
    assert any(result.outcome == "pass" for result in results[1:]), "there was no instance to try a law on"


@pytest.mark.slow
@pytest.mark.parametrize("offer", offers("aggregator", "agg_optimizer"), ids=lambda offer: offer.qualified)
def test_it_keeps_its_laws_on_many_more_cases(offer):
    assert [result.reason for result in check_offer(offer, "full") if result.outcome == "fail"] == []


class Net(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)


class Classifier(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)


class Regressor(FedSGDRegressor):
    def training_data(self):
        return DataManager(self.dataset)


class Neuron(FedPerceptron):
    def training_data(self):
        return DataManager(self.dataset)


class Bayes(FedGaussianNB):
    def training_data(self):
        return DataManager(self.dataset)


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        return torch.tensor(X[place]), int(CLASSES[place])


THREE = {"n_features": 3, "n_classes": 3}
PLANS = [
    PlanCase(Net, (X, CLASSES), training_args=ARGS),
    PlanCase(Classifier, (X, CLASSES), THREE, ARGS),
    PlanCase(Regressor, (X, X[:, 0]), {"n_features": 3}, ARGS),
    PlanCase(Neuron, (X, CLASSES), THREE, ARGS),
]
SOURCES = [
    ArrayData({"a": X, "b": [X[:, 0]]}, CLASSES),
    TensorData(torch.tensor(X), torch.tensor(CLASSES)),
    DatasetData(Pairs()),
    Rows(sparse.csr_matrix(X), CLASSES, np.arange(24.0)),
]
STRATEGIES = [
    DefaultStrategy(), RandomStrategy(0.5), RandomStrategy(count=2), QuorumStrategy(2),
    QuorumStrategy(0.8, deadline=600), OverSelection(2),
]  # fmt: skip


def with_variates(update, case):
    """What a node of Scaffold sends beside its parameters: by how much its control variate has changed."""
    sent = case.payloads[update.node_id].aux["scaffold"]
    arrays = {name: widened(array) for name, array in update.params.items() if array.dtype.kind == "f"}
    delta = {f"delta/{name}": np.asarray(array / 8, array.dtype) for name, array in arrays.items()}
    about = {"generation": sent["generation"], "fresh": np.array(int(case.ctx.round == 0))}
    return replace(update, aux={"scaffold": Params.from_arrays(delta | about)})


AGGREGATORS = [
    FedAverage("steps"),
    FedAverage("uniform"),
    FedNova(0.9),
    Subject(Scaffold(), complete=with_variates),
    Subject(Scaffold(0.5), complete=with_variates),
]
METRICS = make_metrics(list(MetricTypes)).values()
DECAY = {"still": "weight decay moves the model by itself, as its name says"}
OPTIMIZERS = [
    Optimizer(1.0),
    Optimizer(0.1, modules=["adam"]),
    Optimizer(CosineDecay(0.1, 10), modules=["momentum"]),
]


@parametrize_with_checks(
    [*AGGREGATORS, *PLANS, *SOURCES, *STRATEGIES, *OPTIMIZERS, *make_metrics(list(MetricTypes)).values()]
)
def test_laws(component, check):
    check(component)


def test_transports_can_be_mixed_in():
    mark = parametrize_with_checks([TransportCase(InprocTransport, lambda: f"inproc://kit-{next(NUMBERS)}")])
    check = next(cell.values[1] for cell in mark.mark.args[1] if cell.id == "InprocTransport-unknown-peer")
    check(mark.mark.args[1][0].values[0])


def test_naive_bayes_and_decay_break_the_laws_that_they_must():
    from fedplug.testing import check_agg_optimizer, check_training_plan

    sums = "an estimator holds means and variances: the sums that come back from it are others of the same model"
    plan = Subject(PlanCase(Bayes, (X, CLASSES), THREE), {"files": sums})
    assert {result.outcome for result in check_training_plan(plan)} == {"pass", "skip", "xfail"}
    results = check_agg_optimizer(Optimizer(0.1, decay=0.1), expected_failures=DECAY)
    assert {result.outcome for result in results} == {"pass", "xfail"}


@pytest.mark.slow
@parametrize_with_checks([*AGGREGATORS, *OPTIMIZERS], profile="full")
def test_laws_on_many_more_cases(component, check):
    check(component)
