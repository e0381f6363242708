"""Scaffold equals the paper's equations, for NumPy, PyTorch and scikit-learn, whoever takes part.

The reference, `scaffold_kit.paper`, has option II as the paper writes it, ``c_i - c + (x - y_i) / (K eta)``; what the
nodes compute is the mean of their gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scaffold_kit import BEST, BEST_OF_THREE, THREE, TWO, Net, bowls, ends, experiment, of_paper, paper
from scipy.special import expit
from torch import nn

from fedplug import DataManager, NumpyTrainingPlan, RandomStrategy
from fedplug_scaffold import FedAverage, Scaffold
from fedplug_sklearn import FedSGDClassifier
from fedplug_torch import TorchTrainingPlan


class Line(NumpyTrainingPlan):
    """Linear regression by the mean squared error; it begins away from zero."""

    def init_model(self, model_args):
        return {"weight": np.full((1, model_args["features"]), 0.5), "bias": np.full(1, -0.25)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        error = data @ self.model()["weight"][0] + self.model()["bias"] - target
        return (error**2).mean(), {
            "weight": 2 * (error @ data)[None] / len(data),
            "bias": 2 * error.mean(keepdims=True),
        }


class TorchLine(TorchTrainingPlan):
    """The same."""

    def init_model(self, model_args):
        made = nn.Linear(model_args["features"], 1).double()
        nn.init.constant_(made.weight, 0.5)
        nn.init.constant_(made.bias, -0.25)
        return made

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=False)

    def training_step(self, data, target):
        return ((self.forward(data.double()).squeeze(1) - target) ** 2).mean()


PLANS = pytest.mark.parametrize("plan", [Line, TorchLine], ids=["NumPy", "PyTorch"])
LR = 0.05


def clouds(seed: int, nodes: int, features: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows in eighths, which PyTorch's single precision holds exactly; each node has its own line and its own size."""
    rng = np.random.default_rng(seed)
    found = {}
    for index in range(nodes):
        rows = int(rng.integers(2, 8))
        x = rng.integers(-8, 9, size=(rows, features)) / 8
        found[f"n{index}"] = x, rng.integers(-16, 17, size=rows) / 8
    return found


def gradient_of(x: np.ndarray, y: np.ndarray, batch: int, steps: int) -> Any:
    """Of the mean squared error of batch after batch, over weight and bias in one vector."""
    starts = range(0, len(x), batch)[:steps]

    def gradient(point: np.ndarray, k: int) -> np.ndarray:
        rows = slice(starts[k % len(starts)], starts[k % len(starts)] + batch)
        error = x[rows] @ point[:-1] + point[-1] - y[rows]
        return 2 * np.append(error @ x[rows], error.sum()) / len(error)

    return gradient


@PLANS
@given(
    seed=st.integers(0, 2**32 - 1), nodes=st.integers(1, 5), features=st.integers(1, 3), batch=st.integers(1, 8),
    steps=st.integers(1, 6), rounds=st.integers(1, 6), server_lr=st.sampled_from([0.5, 1.0, 1.5]), data=st.data(),
)  # fmt: skip
@settings(max_examples=12)
def test_every_round_is_that_of_the_paper(plan, seed, nodes, features, batch, steps, rounds, server_lr, data):
    some = data.draw(st.integers(1, nodes), label="nodes a round")
    parts = clouds(seed, nodes, features)
    args = {"num_updates": steps, "optimizer_args": {"lr": LR}, "loader_args": {"batch_size": batch}}
    with experiment(
        Net(parts), plan, model_args={"features": features}, training_args=args, aggregator=Scaffold(server_lr),
        node_selection_strategy=RandomStrategy(count=some),
    ) as exp:  # fmt: skip
        found = []
        for _ in range(rounds):
            exp.run(1)
            found.append(np.append(exp.params()["weight"], exp.params()["bias"]))
        chosen = [list(replies) for replies in exp.training_replies().values()]
    assert [len(each) for each in chosen] == [some] * rounds
    gradients = {node: gradient_of(x, y, batch, steps) for node, (x, y) in parts.items()}
    start = np.append(np.full(features, 0.5), -0.25)
    expected = paper(gradients, start, chosen, lr=LR, steps=steps, server_lr=server_lr)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@PLANS
def test_the_first_round_is_fedaverage_of_equal_weights_to_the_bit(plan):
    args = {"num_updates": 7, "optimizer_args": {"lr": LR}, "loader_args": {"batch_size": 2}}
    shared: dict[str, Any] = {"model_args": {"features": 2}, "training_args": args}
    with (
        experiment(Net(clouds(3, 3, 2)), plan, **shared) as scaffold,
        experiment(Net(clouds(3, 3, 2)), plan, aggregator=FedAverage("uniform"), **shared) as average,
    ):
        scaffold.run(1)
        average.run(1)
        assert scaffold.params() == average.params()
        scaffold.run(1)
        average.run(1)
        assert scaffold.params() != average.params()


# where it ends ---------------------------------------------------------------------------------------------


def test_it_converges_to_the_optimum_at_the_rate_that_was_measured():
    with experiment(Net(bowls(TWO))) as exp:
        found = ends(exp, 40)
    errors = [abs(found[rounds - 1] - BEST) for rounds in (5, 10, 20, 40)]
    assert errors[:3] == pytest.approx([1.7e-2, 3.1e-4, 1.1e-7], rel=0.05)
    assert errors[3] < 2e-14
    np.testing.assert_allclose(found, of_paper(TWO, 40), rtol=0, atol=1e-12)


def test_fedaverage_stalls_at_its_bias():
    with experiment(Net(bowls(TWO)), aggregator=FedAverage("uniform")) as exp:
        assert ends(exp, 40)[-1] == pytest.approx(0.6091934519, abs=1e-10)


def test_nodes_with_more_samples_do_not_count_more():
    with experiment(Net(bowls(TWO, {"p": 1, "q": 5}))) as exp:
        np.testing.assert_allclose(ends(exp, 10), of_paper(TWO, 10), rtol=0, atol=1e-12)


def test_with_two_of_three_nodes_a_round_it_converges_too():
    with experiment(Net(bowls(THREE)), node_selection_strategy=RandomStrategy(count=2)) as exp:
        found = ends(exp, 150)
        chosen = [list(replies) for replies in exp.training_replies().values()]
    assert len({tuple(each) for each in chosen}) == 3
    np.testing.assert_allclose(found, of_paper(THREE, chosen), rtol=0, atol=1e-12)
    assert found[-1] == pytest.approx(BEST_OF_THREE, abs=1e-6)


# scikit-learn ----------------------------------------------------------------------------------------------


class Classifier(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=100)


def spots(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around centres that move from node to node; each class is there."""
    rng = np.random.default_rng(seed)
    y = np.arange(9 + seed) % 3
    return rng.normal(np.eye(3, 2)[y] * (1 + seed), 1.0), y


def log_loss_of(x: np.ndarray, y: np.ndarray, alpha: float) -> Any:
    """The gradient of three logistic regressions, each class against the rest, with ``alpha / 2 ||w||^2``."""

    def gradient(point: np.ndarray, k: int) -> np.ndarray:
        w, b = point[:6].reshape(3, 2), point[6:]
        slopes = expit(x @ w.T + b) - (y[:, None] == np.arange(3))
        return np.append((slopes.T @ x / len(x) + alpha * w).ravel(), slopes.mean(axis=0))

    return gradient


@pytest.mark.parametrize("steps", [1, 5])
def test_a_linear_model_of_scikit_learn_is_trained_by_the_papers_equations(steps):
    parts = {node: spots(index) for index, node in enumerate("abc")}
    with experiment(
        Net(parts), Classifier, training_args={"num_updates": steps, "optimizer_args": {"lr": 0.2}},
        model_args={"n_features": 2, "n_classes": 3, "loss": "log_loss", "alpha": 0.01},
    ) as exp:  # fmt: skip
        found = []
        for _ in range(8):
            exp.run(1)
            found.append(np.append(exp.params()["coef_"].ravel(), exp.params()["intercept_"]))
    gradients = {node: log_loss_of(x, y, 0.01) for node, (x, y) in parts.items()}
    expected = paper(gradients, np.zeros(9), [parts] * 8, lr=0.2, steps=steps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
