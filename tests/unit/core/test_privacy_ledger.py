"""The account of what rounds have spent."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.core.privacy_ledger import Asked, PrivacyLedger, gaussian_epsilon

CENTRAL = {"type": "central", "sigma": 2.0, "clip": 1.0, "delta": 1e-5, "poisson": True}
LOCAL = {**CENTRAL, "type": "local"}


def replies_of(nodes, metrics=None, state: str = "none") -> dict[str, TrainReply]:
    return {
        node: TrainReply(
            key=TaskKey(experiment_id="e", round=0, node_id=node), sample_count=1, metrics=metrics or {}, state=state
        )
        for node in nodes
    }


def played(ledger: PrivacyLedger, args, *nodes, number=0, metrics=None, state="none", acked=-1, out=0.0, asked="q"):
    """One round that is complete; ``out`` stands for its result, ``asked`` for what the nodes were sent."""
    replies = replies_of(nodes, metrics, state)
    result = RoundResult(Params.from_arrays({"w": [out]}), replies, {}, {"loss": 1.0, "dp_epsilon": 77.0}, 0.1)
    context = RoundContext(round=number, training_args={"dp_args": args})
    return ledger.note(context, result, dict.fromkeys(nodes, Asked(acked, asked)))


def stopped(ledger: PrivacyLedger, args, *nodes, number=0, metrics=None, state="none", acked=-1, asked="q") -> None:
    """One round in which updates had come when it was stopped."""
    context = RoundContext(round=number, training_args={"dp_args": args})
    ledger.note_unfinished(context, replies_of(nodes, metrics, state), dict.fromkeys(nodes, Asked(acked, asked)))


def epsilons(ledger: PrivacyLedger) -> dict[str, float]:
    return {node: told["epsilon"] for node, told in ledger.report().items()}


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
    assert gaussian_epsilon([(1e-300, 1)], 1e-5) == math.inf
    assert gaussian_epsilon([(2.0, 8)], 1e-5) == pytest.approx(gaussian_epsilon([(2.0, 4), (1.0, 1)], 1e-5), rel=1e-12)
    assert gaussian_epsilon([(1e6, 1)], 1e-2) == 0  # never below


def test_central_rounds_count_for_the_nodes_that_were_in_them():
    ledger = PrivacyLedger()
    played(ledger, CENTRAL, "lyon", "paris")
    result = played(ledger, {**CENTRAL, "sigma": 1.0}, "paris", number=1)
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
    figures = {"dp_epsilon": 2.5, "dp_sample_rate": 0.2}
    result = played(ledger, LOCAL, "lyon", number=1, metrics=figures, state="kept", acked=0)
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
    for number, (args, state) in enumerate(rounds):
        result = played(ledger, args, "lyon", number=number, metrics={"dp_epsilon": 1.0}, state=state)
    report = ledger.report()["lyon"]
    assert report["epsilon"] == math.inf
    assert reason in report["reason"]
    assert "dp_epsilon" not in result.metrics


@pytest.mark.parametrize(
    ("args", "state", "reason"),
    [
        (LOCAL, "none", "the node states no epsilon"),
        (LOCAL, "absent", "the node's account was lost; see its log"),
        ({**LOCAL, "sigma": 0.0}, "none", "there was no noise (sigma 0)"),
    ],
)
def test_a_node_that_states_no_epsilon_has_none(args, state, reason):
    ledger = PrivacyLedger()
    assert "dp_epsilon" not in played(ledger, args, "lyon", state=state).metrics
    assert ledger.report()["lyon"]["epsilon"] == math.inf
    assert ledger.report()["lyon"]["reason"] == reason
    played(ledger, LOCAL, "lyon", number=1, acked=0, metrics={"dp_epsilon": 1.0}, state="kept")
    assert ledger.report()["lyon"]["reason"] == reason  # it does not come back


# rounds that are run again -----------------------------------------------------------------------------------


def test_a_round_that_is_run_again_with_the_same_result_counts_once():
    for args, figures in ((CENTRAL, {}), (LOCAL, {"dp_epsilon": 1.0})):
        ledger, twin = PrivacyLedger(), PrivacyLedger()
        for number in range(3):
            played(ledger, args, "lyon", number=number, acked=number - 1, out=number, metrics=figures)
            played(twin, args, "lyon", number=number, acked=number - 1, out=number, metrics=figures)
        for number in (1, 2):  # back to after the first round
            result = played(ledger, args, "lyon", number=number, acked=number - 1, out=number, metrics=figures)
            assert result.metrics["dp_epsilon"] == epsilons(twin)["lyon"]
        for each in (ledger, twin):
            played(each, args, "lyon", number=3, acked=2, out=3, metrics=figures)
        assert ledger.state_dict() == twin.state_dict()
        assert math.isfinite(epsilons(ledger)["lyon"])


def test_a_central_round_with_another_result_is_one_more_mechanism():
    ledger = PrivacyLedger()
    for number in range(4):
        played(ledger, CENTRAL, "lyon", "paris", number=number, out=number)
    played(ledger, CENTRAL, "lyon", number=3, out=99)
    played(ledger, CENTRAL, "lyon", number=3, out=99)
    played(ledger, CENTRAL, "lyon", number=3, out=3)
    assert epsilons(ledger) == {
        "lyon": gaussian_epsilon([(2.0, 5)], 1e-5), "paris": gaussian_epsilon([(2.0, 4)], 1e-5)
    }  # fmt: skip
    assert ledger.report()["lyon"]["rounds"] == 5


def test_a_local_round_with_another_result_breaks_the_accounts_of_its_nodes():
    ledger, figures = PrivacyLedger(), {"dp_epsilon": 1.0}
    for number in range(3):
        played(ledger, LOCAL, "lyon", "nice", "paris", number=number, acked=number - 1, out=number, metrics=figures)
    result = played(ledger, LOCAL, "lyon", number=2, acked=1, out=99, metrics=figures, asked="other")
    assert "dp_epsilon" not in result.metrics
    assert epsilons(ledger) == {"lyon": math.inf, "nice": 1.0, "paris": 1.0}
    assert ledger.report()["lyon"]["reason"] == "round 3 was run twice, with different results"
    # Nice was left out of it, but its account has gone back all the same.
    played(ledger, LOCAL, "nice", number=3, acked=1, out=100, metrics=figures)
    assert "goes on from before round 3, which it leaves out" in ledger.report()["nice"]["reason"]
    assert epsilons(ledger)["paris"] == 1.0


def test_a_node_that_gives_its_answer_again_has_told_nothing_new_whatever_the_others_do():
    ledger, figures = PrivacyLedger(), {"dp_epsilon": 1.0}
    played(ledger, LOCAL, "lyon", "nice", metrics=figures)
    played(ledger, LOCAL, "lyon", out=1, metrics=figures)  # nice is away this time
    assert epsilons(ledger) == {"lyon": 1.0, "nice": 1.0}
    played(ledger, LOCAL, "lyon", out=2, metrics={**figures, "loss": 0.5})
    assert epsilons(ledger) == {"lyon": math.inf, "nice": 1.0}


# rounds that are not completed -------------------------------------------------------------------------------


def test_a_local_update_of_an_unfinished_round_counts_and_is_free_if_it_is_asked_for_again():
    ledger, figures = PrivacyLedger(), {"dp_epsilon": 1.0, "dp_sample_rate": 0.1}
    stopped(ledger, LOCAL, "lyon", metrics=figures)
    assert ledger.report() == {
        "lyon": {"type": "local", "epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.1, "rounds": 0}
    }
    stopped(ledger, LOCAL, "lyon", metrics=figures)
    played(ledger, LOCAL, "lyon", metrics=figures)
    played(ledger, LOCAL, "lyon", number=1, acked=0, metrics={"dp_epsilon": 2.0}, state="kept")
    assert epsilons(ledger) == {"lyon": 2.0}
    stopped(ledger, LOCAL, "lyon", number=1, acked=0, metrics={"dp_epsilon": 2.0}, state="kept")  # went back, stopped
    played(ledger, LOCAL, "lyon", number=2, acked=1, metrics={"dp_epsilon": 3.0}, state="kept")
    assert epsilons(ledger) == {"lyon": 3.0}


@pytest.mark.parametrize(
    ("args", "later", "broken"),
    [
        (LOCAL, {"asked": "other"}, True),
        (LOCAL, {"number": 1}, True),  # the node was away when the round was tried again
        (None, {}, True),
        (CENTRAL, {}, True),
    ],
)
def test_what_came_in_an_unfinished_round_and_is_not_asked_again_breaks_a_local_account(args, later, broken):
    ledger, figures = PrivacyLedger(), {"dp_epsilon": 1.0}
    stopped(ledger, args, "lyon", metrics=figures)
    if "number" in later:
        later = {**later, "asked": "other"}
    played(ledger, LOCAL, "lyon", metrics=figures, out=5, **later)
    assert epsilons(ledger) == {"lyon": math.inf if broken else 1.0}
    assert "in a round that was not completed" in ledger.report()["lyon"]["reason"]


def test_going_back_and_stopping_a_round_does_not_make_epsilon_smaller():
    ledger = PrivacyLedger()
    for number in range(3):
        played(ledger, LOCAL, "lyon", number=number, acked=number - 1, out=number, metrics={"dp_epsilon": 1.0 + number})
    stopped(ledger, LOCAL, "lyon", number=1, acked=0, metrics={"dp_epsilon": 2.0}, asked="other")
    assert epsilons(ledger) == {"lyon": math.inf}
    assert ledger.report()["lyon"]["reason"] == "round 2 was begun again, from before round 3"


def test_a_central_round_that_is_not_completed_has_published_nothing():
    for args in (CENTRAL, None):
        ledger = PrivacyLedger()
        stopped(ledger, args, "lyon")
        assert ledger.report() == {}
        played(ledger, CENTRAL, "lyon")
        assert epsilons(ledger) == {"lyon": gaussian_epsilon([(2.0, 1)], 1e-5)}


def test_rounds_without_privacy_report_nothing():
    ledger = PrivacyLedger()
    assert played(ledger, None, "lyon").metrics == {"loss": 1.0}
    assert ledger.report() == {}


def test_the_account_goes_on_after_a_breakpoint():
    ledger = PrivacyLedger()
    played(ledger, CENTRAL, "lyon", "paris")
    played(ledger, None, "nice", number=1)
    saved = json.loads(json.dumps(ledger.state_dict(), allow_nan=False))
    twin = PrivacyLedger()
    twin.load_state_dict(saved)
    for each in (ledger, twin):
        played(each, CENTRAL, "lyon", "nice", number=2)
    assert twin.report() == ledger.report()
    assert twin.report()["nice"]["epsilon"] == math.inf
    assert (twin.count, twin.is_used) == (3, True)
    damaged = ({**saved, "nodes": {"lyon": {"what": 1}}}, {**saved, "count": "x"}, {**saved, "published": 1})
    for wrong in ({}, {"nodes": []}, *damaged):
        with pytest.raises(UsageError, match="no account of privacy"):
            twin.load_state_dict(wrong)
