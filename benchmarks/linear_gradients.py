"""L1: a batch gradient of a linear model, over the two matrix products it needs. D1: declearn over torch.optim."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.common import Result, cpu_time, median_pairs


def run(quick: bool = False) -> list[Result]:
    """L1: measure; ``quick`` repeats less often."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return [products(5 if quick else 20, 3 if quick else 9), digits(200 if quick else 1000)]


def _ready(samples: int, features: int, classes: int, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """An objective, its estimator with random coefficients, rows, and labels."""
    from sklearn.linear_model import SGDClassifier

    from fedplug_sklearn.linear import LinearObjective, prepare

    rng = np.random.default_rng(0)
    estimator = SGDClassifier(learning_rate="constant", eta0=0.1, **settings)
    prepare(estimator, features, classes)
    estimator.coef_[...] = rng.normal(size=estimator.coef_.shape) / np.sqrt(features)
    return (
        LinearObjective(estimator), estimator, rng.normal(size=(samples, features)), rng.integers(classes, size=samples)
    )  # fmt: skip


def products(repeats: int, pairs: int) -> Result:
    """Objective and gradients on 1,024 x 784 x 10, against ``X @ W.T`` and ``D.T @ X`` alone."""
    objective, estimator, x, y = _ready(1024, 784, 10, loss="log_loss")
    slopes = np.random.default_rng(1).normal(size=(1024, 10))

    def ours() -> float:
        with cpu_time() as taken:
            for _ in range(repeats):
                objective(x, y)
        return taken[0] / repeats * 1e3

    def bare() -> float:
        with cpu_time() as taken:
            for _ in range(repeats):
                _ = x @ estimator.coef_.T
                _ = slopes.T @ x
        return taken[0] / repeats * 1e3

    figure, ceiling, ratios = median_pairs(ours, bare, pairs)
    return Result(
        "L1", "linear gradients over their two products, a batch", figure, "ms", ceiling, 3.0, {"ratios": ratios}
    )


def digits(repeats: int) -> Result:
    """One batch of 64 of digits (64 features, 10 classes); the products are so small that calls rule."""
    objective, _, x, y = _ready(64, 64, 10, loss="hinge")
    with cpu_time() as taken:
        for _ in range(repeats):
            objective(x, y)
    return Result("L1", "linear gradients of digits at batch 64, a batch", taken[0] / repeats * 1e3, "ms", None, 0.5)


def run_declearn(quick: bool = False) -> list[Result]:
    """D1: a step of declearn's Adam through `fedplug_declearn.Optimizer`, against torch's own."""
    import torch

    from fedplug_declearn import Optimizer

    torch.set_num_threads(1)
    results = []
    for what, sizes in (("MLP of 2,410", (64, 32, 10)), ("MLP of 1.2 million", (784, 1024, 384, 10))):
        layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        params = dict(torch.nn.Sequential(*layers).named_parameters())
        for param in params.values():
            param.grad = torch.randn_like(param)
        live = {name: param.detach() for name, param in params.items()}
        gradients = {name: param.grad for name, param in params.items()}
        theirs = torch.optim.Adam(params.values(), lr=0.001)
        mine = Optimizer(lr=0.001, modules=[("adam", {"beta_2": 0.999, "eps": 1e-8})])
        repeats = 5 if quick else 30

        def ours(mine: Any = mine, live: Any = live, gradients: Any = gradients, repeats: int = repeats) -> float:
            with cpu_time() as taken:
                for _ in range(repeats):
                    mine.step(live, gradients)
            return taken[0] / repeats * 1e3

        def torchs(theirs: Any = theirs, repeats: int = repeats) -> float:
            with cpu_time() as taken:
                for _ in range(repeats):
                    theirs.step()
            return taken[0] / repeats * 1e3

        figure, ceiling, ratios = median_pairs(ours, torchs, 3 if quick else 9)
        results.append(
            Result("D1", f"declearn Adam over torch Adam, {what}", figure, "ms", ceiling, 4.0, {"ratios": ratios})
        )
    return results
