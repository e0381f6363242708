"""FedProx asks the nodes for the proximal term, and averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scaffold_kit import THREE, TWO, Net, bowls, ends, experiment

from fedplug import Experiment
from fedplug.core.component_config import config_of, make
from fedplug.core.errors import SettingsError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.testing import parametrize_with_checks
from fedplug_scaffold import FedAverage, FedProx

ARGS = {"num_updates": 20, "optimizer_args": {"lr": 0.05}}


@parametrize_with_checks([FedProx(), FedProx(0.5, "uniform"), FedProx(1, "steps")])
def test_laws(component, check):
    check(component)


@pytest.mark.parametrize("weighting", ["samples", "steps", "uniform"])
def test_it_is_fedaverage_of_nodes_that_were_given_mu(weighting):
    data = bowls(THREE, {"p": 1, "q": 3, "z": 2})
    net = Net(data)
    with (
        experiment(net, aggregator=FedProx(2, weighting), training_args=ARGS) as exp,
        experiment(Net(data), aggregator=FedAverage(weighting), training_args={**ARGS, "fedprox_mu": 2.0}) as other,
        experiment(Net(data), aggregator=FedAverage(weighting), training_args=ARGS) as without,
    ):
        for each in (exp, other, without):
            each.run(2)
        assert exp.params() == other.params()
        assert exp.params() != without.params()
    assert [args["fedprox_mu"] for args in net.asked] == [2.0] * 6
    assert all(aux == {} for _, aux in net.sent)


def test_its_bias_is_smaller_than_that_of_fedaverage():
    """A node moves by ``(1 - (1 - eta (a + mu))^K) a (b - x) / (a + mu)``; where the sum is zero, all stand still."""
    mu, parts = 1.0, []
    for a, b in TWO.values():
        parts.append(((1 - (1 - 0.05 * (a + mu)) ** 20) * a / (a + mu), b))
    stands = sum(share * b for share, b in parts) / sum(share for share, _ in parts)
    assert stands == pytest.approx(0.67425, abs=1e-5)
    with experiment(Net(bowls(TWO)), aggregator=FedProx(mu)) as exp:
        assert ends(exp, 60)[-1] == pytest.approx(stands, abs=1e-12)


@pytest.mark.parametrize(("asked", "fits"), [(0.5, True), (None, True), (0, True), (0.25, False)])
def test_training_args_must_not_ask_for_another_mu(asked, fits):
    net = Net(bowls(TWO))
    with experiment(net, aggregator=FedProx(0.5), training_args={**ARGS, "fedprox_mu": asked}) as exp:
        if fits:
            assert exp.run(1) == 1
        else:
            with pytest.raises(SettingsError, match=r"fedprox_mu=0\.25, but the aggregator is FedProx\(mu=0\.5\)"):
                exp.run(1)
    assert {args["fedprox_mu"] for args in net.asked} == ({0.5} if fits else set())


@pytest.mark.parametrize("mu", [0, -0.1, float("inf"), float("nan"), True, "0.1", None])
def test_a_mu_that_is_none_is_refused(mu):
    with pytest.raises(UsageError, match="FedProx needs mu > 0"):
        FedProx(mu)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(UsageError, match="no weighting named 'sample'"):
        FedProx(0.1, "sample")


def test_it_is_found_by_its_name_and_written_down():
    assert PluginHost.discover(only=["scaffold"]).component("aggregator", "fedprox") is FedProx
    config: dict[str, Any] = {"mu": 0.25, "weighting": "uniform"}
    assert config_of(make(FedProx, config)) == config
    assert config_of(FedProx()) == {"mu": 0.01, "weighting": "samples"}


def test_it_goes_on_from_a_breakpoint(fedplug_dir: Path):
    with experiment(Net(bowls(TWO)), aggregator=FedProx(0.5)) as whole:
        whole.run(3)
    with experiment(Net(bowls(TWO)), aggregator=FedProx(0.5), save_breakpoints=True) as exp:
        exp.run(1)
    with Experiment.load_breakpoint(transport=Net(bowls(TWO)), progress="quiet") as again:
        again.run(2)
        assert again.params() == whole.params()
