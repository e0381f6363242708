"""A whole experiment: one node of seven sends a thousand times what it has learnt."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.simulation import Federation
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean
from fedplug_scaffold import FedAverage

TRUE = np.array([3.0, -1.0])


class Line(NumpyTrainingPlan):
    def init_model(self):
        return {"slope": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        error = data @ self.model()["slope"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data)}

    def postprocess(self, params):
        return {"slope": 1000 * params["slope"]} if self.dataset.name == "node-3" else params


def points(seed):
    x = np.random.default_rng(seed).normal(size=(60, 2))
    return x, x @ TRUE + np.random.default_rng(seed + 100).normal(0, 0.1, 60)


def trained(rule, rounds=6):
    with Experiment(
        tags="simulation",
        training_plan_class=Line,
        training_args={"epochs": 3, "optimizer_args": {"lr": 0.1}, "loader_args": {"batch_size": 20}},
        aggregator=rule,
        round_limit=rounds,
        transport=Federation({f"node-{number}": points(number) for number in range(7)}),
        seed=1,
        progress="quiet",
    ) as experiment:
        experiment.run()
        return experiment.params()


def test_the_mean_is_ruined():
    assert np.abs(trained(FedAverage())["slope"] - TRUE).max() > 1e6


@pytest.mark.parametrize(
    "rule",
    [CoordinateMedian(), TrimmedMean(1), TrimmedMean(0.2), GeometricMedian(), Krum(1), MultiKrum(1), MultiKrum(2, 3)],
    ids=lambda rule: type(rule).__name__,
)
def test_robust_rules_are_not(rule):
    np.testing.assert_allclose(trained(rule)["slope"], TRUE, atol=0.1)


def test_a_limit_slows_the_liar_down():
    """It goes on pushing, as far as the limit allows: a sixth of what the honest ones can pull back with."""
    params = trained(NormClipping(0.2), rounds=40)
    assert np.abs(params["slope"] - TRUE).max() < 0.2
    assert np.abs(trained(NormClipping(1e9), rounds=2)["slope"] - TRUE).max() > 100


def test_a_trimmed_mean_that_trims_nobody_is_no_better_than_the_mean():
    assert np.abs(trained(TrimmedMean(0.1))["slope"] - TRUE).max() > 1e6


@pytest.mark.parametrize("name", ["coordinate-median", "trimmed-mean", "geometric-median"])
def test_rules_go_by_name(name, monkeypatch):
    monkeypatch.setenv("FEDPLUG_PLUGINS", "robust,scaffold")
    from fedplug.core.plugins import PluginHost

    host = PluginHost.discover(only=["robust"])
    with Experiment(host=host, progress="quiet") as experiment:
        assert type(experiment.set_aggregator(name)) is host.component("aggregator", name)
