"""The account of what rounds have spent."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.core.privacy_ledger import PrivacyLedger, gaussian_epsilon

CENTRAL = {"type": "central", "sigma": 2.0, "clip": 1.0, "delta": 1e-5, "poisson": True}
LOCAL = {**CENTRAL, "type": "local"}


def played(ledger: PrivacyLedger, args, *nodes: str, metrics=None, state: str = "none") -> RoundResult:
    replies = {
        node: TrainReply(
            key=TaskKey(experiment_id="e", round=0, node_id=node), sample_count=1, metrics=metrics or {}, state=state
        )
        for node in nodes
    }
    result = RoundResult(Params.from_arrays({"w": np.zeros(1)}), replies, {}, {"loss": 1.0, "dp_epsilon": 77.0}, 0.1)
    return ledger.note(RoundContext(training_args={"dp_args": args}), result)


@given(st.floats(1, 20), st.integers(1, 200), st.floats(1e-8, 1e-2))
def test_epsilon_is_a_bound_that_the_papers_allow(sigma, times, delta):
    epsilon = gaussian_epsilon([(sigma, times)], delta)
    rho = times / (2 * sigma**2)
    # No better than the privacy of a Gaussian mechanism can be (Balle and Wang, ICML 2018, theorem 8: the exact delta
    # of that epsilon) ...
    mu = math.sqrt(2 * rho)
    exact = normal_cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal_cdf(-mu / 2 - epsilon / mu)
    assert exact <= delta * (1 + 1e-9)
    # ... and no worse than the older conversion at any of the orders (Mironov 2017, proposition 3).
    assert epsilon <= min(a * rho + math.log(1 / delta) / (a - 1) for a in (1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 63.0))


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_epsilon_adds_up_over_noise_of_several_kinds_and_knows_its_ends():
    assert gaussian_epsilon([], 1e-5) == 0
    assert gaussian_epsilon([(1.0, 0)], 1e-5) == 0
    assert gaussian_epsilon([(1.0, 3), (0.0, 1)], 1e-5) == math.inf
    assert gaussian_epsilon([(2.0, 8)], 1e-5) == pytest.approx(gaussian_epsilon([(2.0, 4), (1.0, 1)], 1e-5), rel=1e-12)
    assert gaussian_epsilon([(1e6, 1)], 1e-2) == 0  # never below


def test_central_rounds_count_for_the_nodes_that_were_in_them():
    ledger = PrivacyLedger()
    played(ledger, CENTRAL, "lyon", "paris")
    result = played(ledger, {**CENTRAL, "sigma": 1.0}, "paris")
    report = ledger.report()
    assert report["lyon"] == {
        "type": "central", "epsilon": gaussian_epsilon([(2.0, 1)], 1e-5), "delta": 1e-5, "sample_rate": 1.0, "rounds": 1
    }  # fmt: skip
    assert report["paris"]["epsilon"] == gaussian_epsilon([(2.0, 1), (1.0, 1)], 1e-5)
    assert report["paris"]["rounds"] == 2
    assert result.metrics == {
        "loss": 1.0, "dp_epsilon": report["paris"]["epsilon"], "dp_delta": 1e-5, "dp_sample_rate": 1.0
    }  # fmt: skip


def test_local_rounds_are_reported_by_the_nodes():
    ledger = PrivacyLedger()
    played(ledger, LOCAL, "lyon", metrics={"dp_epsilon": 1.5, "dp_sample_rate": 0.1})
    result = played(ledger, LOCAL, "lyon", metrics={"dp_epsilon": 2.5, "dp_sample_rate": 0.2}, state="kept")
    assert ledger.report() == {
        "lyon": {"type": "local", "epsilon": 2.5, "delta": 1e-5, "sample_rate": 0.2, "rounds": 2}
    }
    assert result.metrics["dp_epsilon"] == 2.5


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [
        ([(None, "none"), (CENTRAL, "none")], "without differential privacy"),
        ([(CENTRAL, "none"), (None, "none")], "without differential privacy"),
        ([(CENTRAL, "none"), (LOCAL, "none")], "both types"),
        ([(LOCAL, "none"), (LOCAL, "none")], "the model was set anew"),
        ([({**CENTRAL, "sigma": 0.0}, "none")], "sigma 0"),
    ],
    ids=["before", "after", "mixed", "anew", "no-noise"],
)
def test_where_nothing_can_be_promised_epsilon_is_infinite(rounds, reason):
    ledger = PrivacyLedger()
    for args, state in rounds:
        result = played(ledger, args, "lyon", metrics={"dp_epsilon": 1.0}, state=state)
    report = ledger.report()["lyon"]
    assert report["epsilon"] == math.inf
    assert reason in report["reason"]
    assert "dp_epsilon" not in result.metrics


def test_a_node_that_states_no_epsilon_has_none():
    ledger = PrivacyLedger()
    assert "dp_epsilon" not in played(ledger, LOCAL, "lyon").metrics
    assert ledger.report()["lyon"]["epsilon"] == math.inf


def test_rounds_without_privacy_report_nothing():
    ledger = PrivacyLedger()
    assert played(ledger, None, "lyon").metrics == {"loss": 1.0}
    assert ledger.report() == {}


def test_the_account_goes_on_after_a_breakpoint():
    ledger = PrivacyLedger()
    played(ledger, CENTRAL, "lyon", "paris")
    played(ledger, None, "nice")
    saved = json.loads(json.dumps(ledger.state_dict(), allow_nan=False))
    twin = PrivacyLedger()
    twin.load_state_dict(saved)
    for each in (ledger, twin):
        played(each, CENTRAL, "lyon", "nice")
    assert twin.report() == ledger.report()
    assert twin.report()["nice"]["epsilon"] == math.inf
    for wrong in ({}, {"nodes": {"lyon": {"what": 1}}}, {"nodes": []}):
        with pytest.raises(UsageError, match="no account of privacy"):
            twin.load_state_dict(wrong)
