"""Experiments in several threads of one process: each comes to the bits that it comes to alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cohort_plans as plans
import numpy as np
import pytest

from fedplug import Experiment
from fedplug.simulation import IID, Engine, Federation, SerialEngine
from fedplug.simulation.cohort import CohortEngine

PLANS: list[Any] = [plans.Dropping, plans.Shaking, plans.Noisy, plans.Chain]
SEEDS = range(len(PLANS))


def trained(engine: Engine, plan: Any, seed: int, meanwhile: Callable[[], Any] = bool) -> bytes:
    """The parameters that an experiment ends with."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((90, 5)).astype(np.float32), rng.integers(0, 3, 90)
    federation = Federation.from_arrays(x, y, partition=IID(5), seed=seed, engine=engine)
    args = {"epochs": 2, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}}
    with Experiment(
        tags="simulation", transport=federation, training_plan_class=plan, training_args=args, round_limit=4,
        seed=seed, progress="quiet", save_breakpoints=False,
    ) as experiment:  # fmt: skip
        meanwhile()
        experiment.run()
        return bytes(experiment.params().buffer)


@pytest.mark.parametrize("make", [SerialEngine, CohortEngine])
def test_experiments_in_threads_come_to_what_each_comes_to_alone(make: Callable[[], Engine]) -> None:
    alone = [trained(make(), plan, seed) for plan, seed in zip(PLANS, SEEDS, strict=True)]
    begun = threading.Barrier(len(PLANS))

    def beside_others(plan: Any, seed: int) -> bytes:
        return trained(make(), plan, seed, lambda: begun.wait(60))

    with ThreadPoolExecutor(len(PLANS)) as pool:
        found = list(pool.map(beside_others, PLANS, SEEDS))
    assert found == alone
