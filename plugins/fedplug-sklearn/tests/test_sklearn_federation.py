"""Whole federations of scikit-learn plans on real data, against all data in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.metrics import accuracy_score, r2_score

from fedplug import DataManager, Experiment
from fedplug.simulation import Federation
from fedplug_sklearn import FedSGDClassifier, FedSGDRegressor


class Classifier(FedSGDClassifier):
    def training_data(self):
        return DataManager(self.dataset)


class Regressor(FedSGDRegressor):
    def training_data(self):
        return DataManager(self.dataset)


def gradients(classes: int | None, x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, alpha: float):
    """Of log loss (one model per class, each against the rest) or half the squared error, plus alpha/2 ||w||^2."""
    scores = x @ w.T + b
    if classes is None:
        slopes = scores - y[:, None]
    else:
        labels = y[:, None] == (np.array([1]) if classes == 2 else np.arange(classes))
        slopes = expit(scores) - labels
    return slopes.T @ x / len(x) + alpha * w, slopes.mean(axis=0)


@dataclass(frozen=True)
class Task:
    load: Callable[..., Any]
    plan: type
    classes: int | None
    args: dict[str, Any]
    lr: float
    rounds: int
    batch_size: int = 16


TASKS = {
    "breast cancer": Task(load_breast_cancer, Classifier, 2, {"loss": "log_loss", "alpha": 0.001}, 0.05, 20),
    "digits": Task(load_digits, Classifier, 10, {"loss": "log_loss", "alpha": 0.0001}, 0.1, 25),
    "diabetes": Task(load_diabetes, Regressor, None, {"alpha": 0.001}, 0.01, 30),
}


@cache
def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features; a regression's target is standardised too."""
    task = TASKS[name]
    x, y = task.load(return_X_y=True)
    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    return x, y if task.classes else (y - y.mean()) / y.std()


def model_of(name: str, parts: dict[str, np.ndarray], rounds: int, seed: int = 1, **args: Any):
    """The global model after training on rows ``parts`` of the data, and the experiment's parameters."""
    (x, y), task = data(name), TASKS[name]
    sizes = {"n_features": x.shape[1]} | ({"n_classes": task.classes} if task.classes else {})
    with Experiment(
        tags="simulation", transport=Federation({node: (x[rows], y[rows]) for node, rows in parts.items()}),
        training_plan_class=task.plan, model_args=sizes | task.args, seed=seed, progress="quiet",
        training_args={"optimizer_args": {"lr": task.lr}, **args},
    ) as experiment:  # fmt: skip
        experiment.run(rounds)
        return experiment.training_plan().model()


def uneven(count: int, nodes: int = 4) -> dict[str, np.ndarray]:
    """All rows, in parts of different sizes."""
    order = np.random.default_rng(0).permutation(count)
    return {f"node-{i}": part for i, part in enumerate(np.split(order, [count // 10, count // 4, count // 2])[:nodes])}


@pytest.mark.parametrize("name", TASKS)
def test_one_full_batch_a_round_is_gradient_descent_on_all_rows(name: str) -> None:
    (x, y), task = data(name), TASKS[name]
    parts = uneven(len(x))
    assert sum(map(len, parts.values())) == len(x)
    model = model_of(name, parts, 12, num_updates=1, loader_args={"batch_size": len(x)})
    w, b = np.zeros_like(np.atleast_2d(model.coef_)), np.zeros_like(model.intercept_)
    for _ in range(12):
        dw, db = gradients(task.classes, x, y, w, b, task.args["alpha"])
        w, b = w - task.lr * dw, b - task.lr * db
    assert np.abs(w).max() > 0.01
    np.testing.assert_allclose(np.atleast_2d(model.coef_), w, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.intercept_, b, rtol=1e-9, atol=1e-9)


def by_label(labels: np.ndarray, rows: np.ndarray, seed: int, nodes: int = 4, alpha: float = 0.5) -> list[np.ndarray]:
    """Each label's rows go to nodes by shares that are Dirichlet(alpha); drawn again until each node has some rows."""
    rng = np.random.default_rng(seed)
    while True:
        parts: list[list[int]] = [[] for _ in range(nodes)]
        for label in np.unique(labels):
            mine = rng.permutation(rows[labels == label])
            cuts = (np.cumsum(rng.dirichlet([alpha] * nodes)) * len(mine)).astype(int)[:-1]
            for part, some in zip(parts, np.split(mine, cuts), strict=True):
                part.extend(some.tolist())
        if min(map(len, parts)) >= 10:
            return [np.array(part) for part in parts]


@pytest.mark.parametrize(
    "name", ["breast cancer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("diabetes", "digits"))]
)
def test_nodes_with_other_labels_come_close_to_all_rows_in_one_place(name: str) -> None:
    (x, y), task = data(name), TASKS[name]
    score = r2_score if task.classes is None else accuracy_score
    found = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        held_out, rows = order[: len(x) // 4], order[len(x) // 4 :]
        labels = y[rows] if task.classes else np.digitize(y[rows], np.quantile(y[rows], [0.25, 0.5, 0.75]))
        parts = {f"node-{i}": part for i, part in enumerate(by_label(labels, rows, seed))}
        args = {"epochs": 1, "loader_args": {"batch_size": task.batch_size}}
        apart = model_of(name, parts, task.rounds, seed, **args)
        pooled = model_of(name, {"all": rows}, task.rounds, seed, **args)
        found.append([score(y[held_out], model.predict(x[held_out])) for model in (apart, pooled)])
    apart, pooled = np.mean(found, axis=0)
    assert pooled > {"breast cancer": 0.95, "digits": 0.93, "diabetes": 0.4}[name]
    assert apart > pooled - 0.02
