"""Quorum and over-selection: who trains, when a round ends, and what it says when it is given up. Time is simulated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.quorum import OverSelection, QuorumStrategy
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Decision, RoundState

NODES = [f"n{number:02d}" for number in range(20)]
ABC = ("a", "b", "c")


def ctx(number=0):
    return RoundContext("e", number, SeedTree.root(5).child("round", number))


def state(outcomes, elapsed=1.0, selected=ABC, reasons=None):
    return RoundState(tuple(selected), outcomes, reasons or {}, elapsed)


def verdict(strategy, outcomes, elapsed=1.0, selected=ABC):
    return strategy.judge(ctx(), state(outcomes, elapsed, selected)).verdict


R, F, L, X = "replied", "failed", "lost", "rejected"


@pytest.mark.parametrize(
    ("outcomes", "elapsed", "patient", "hasty"),
    [
        ({}, 0, "wait", "wait"),
        ({"a": R}, 9, "wait", "wait"),
        ({"a": R, "b": R}, 9, "wait", "enough"),
        ({"a": R, "b": R, "c": R}, 9, "enough", "enough"),
        ({"a": R, "b": R}, 10, "enough", "enough"),
        ({"a": R, "b": R, "c": F}, 1, "enough", "enough"),
        ({"a": R, "b": R, "c": X}, 1, "enough", "enough"),
        # lost: waited for as long as the quorum needs it, until the deadline, and no longer
        ({"a": R, "b": R, "c": L}, 1, "enough", "enough"),
        ({"a": R, "b": L, "c": L}, 9, "wait", "wait"),
        ({"a": R, "b": L, "c": F}, 9, "wait", "wait"),
        ({"b": L}, 9, "wait", "wait"),
        ({"a": R, "b": L, "c": F}, 10, "abort", "abort"),
        # out of reach
        ({"b": F, "c": X}, 1, "abort", "abort"),
        ({"a": F, "b": F, "c": L}, 1, "abort", "abort"),
        # too late
        ({"a": R}, 10, "abort", "abort"),
        ({}, 11, "abort", "abort"),
    ],
)
def test_two_of_three_within_ten_seconds(outcomes, elapsed, patient, hasty):
    assert verdict(QuorumStrategy(2, deadline=10), outcomes, elapsed) == patient
    assert verdict(QuorumStrategy(2, deadline=10, wait_for="quorum"), outcomes, elapsed) == hasty


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({"a": R, "b": R, "c": L}, "enough"),
        ({"c": L}, "wait"),
        ({"a": R, "c": L}, "wait"),
        ({"b": L, "c": L}, "abort"),
        ({"a": R, "b": F, "c": L}, "abort"),
    ],
)
def test_without_a_deadline_a_lost_node_is_out(outcomes, expected):
    assert verdict(QuorumStrategy(2), outcomes, elapsed=1e9) == expected


@pytest.mark.parametrize("away", ["lost", "stalled"])
def test_who_is_away_may_come_until_the_deadline_whatever_keeps_him(away):
    assert verdict(QuorumStrategy(2, deadline=10), {"a": R, "b": away, "c": away}, 9) == "wait"
    assert verdict(QuorumStrategy(2), {"a": R, "b": away, "c": away}) == "abort"
    assert verdict(QuorumStrategy(2), {"a": R, "b": R, "c": away}) == "enough"


@pytest.mark.parametrize(
    ("outcomes", "elapsed", "patient", "hasty"),
    [
        ({"c": "interrupted"}, 1, Decision("wait", ask=("c",)), Decision("wait", ask=("c",))),
        ({"a": R, "b": R, "c": "interrupted"}, 1, Decision("wait", ask=("c",)), "enough"),
        ({"a": R, "b": R, "c": "interrupted"}, 10, "enough", "enough"),
    ],
)
def test_who_was_restarted_gets_his_task_again_where_it_helps(outcomes, elapsed, patient, hasty):
    for expected, wait_for in ((patient, "all"), (hasty, "quorum")):
        strategy = QuorumStrategy(2, deadline=10, wait_for=wait_for)
        decision = strategy.judge(ctx(), state(outcomes, elapsed))
        assert (decision if isinstance(expected, Decision) else decision.verdict) == expected


def replaced(outcomes, added=(), number=0, strategy=None):
    strategy = strategy or QuorumStrategy(1.0, count=3, replace=True)
    others = tuple(node for node in NODES if node not in added)
    now = RoundState((*ABC, *added), outcomes, dict.fromkeys(outcomes, "why"), 1.0, others=others, added=tuple(added))
    return strategy.judge(ctx(number), now)


def test_another_node_takes_the_place_of_one_that_is_out():
    first = replaced({"a": R, "b": F})
    assert first.verdict == "wait"
    assert len(first.ask) == 1
    assert set(first.ask) < set(NODES)
    assert replaced({"a": R, "b": F}) == first, "the seed decides, nothing else"
    assert len({replaced({"a": R, "b": F}, number=number).ask for number in range(10)}) > 1
    assert replaced({"a": R, "b": F}, added=first.ask).ask == (), "one for one"
    assert replaced({"a": R, "b": F, "c": R, first.ask[0]: R}, added=first.ask).verdict == "enough"
    second = replaced({"a": R, "b": F, first.ask[0]: F}, added=first.ask)
    assert len(second.ask) == 1
    assert second.ask != first.ask
    assert len(replaced({"a": F, "b": "lost", "c": "stalled"}).ask) == 3


def test_without_spare_nodes_nobody_is_replaced():
    now = RoundState(ABC, {"a": R, "b": F, "c": R}, {"b": "why"}, 1.0)
    assert QuorumStrategy(1.0, count=3, replace=True).judge(ctx(), now).verdict == "abort"
    with pytest.raises(UsageError, match="all nodes train"):
        QuorumStrategy(1.0, replace=True)
    with pytest.raises(UsageError, match="True or False"):
        QuorumStrategy(1, count=2, replace="yes")


@given(
    outcomes=st.dictionaries(st.sampled_from(NODES), st.sampled_from([R, F, L, X])),
    quorum=st.one_of(st.integers(1, 20), st.floats(0.01, 1.0)),
    elapsed=st.floats(0, 20),
    deadline=st.sampled_from([None, 10.0]),
    wait_for=st.sampled_from(["all", "quorum"]),
)
def test_a_round_ends_with_a_quorum_or_not_at_all_and_never_hangs(outcomes, quorum, elapsed, deadline, wait_for):
    strategy = QuorumStrategy(quorum, deadline=deadline, wait_for=wait_for)
    now = state(outcomes, elapsed, NODES)
    decision = strategy.judge(ctx(), now)
    enough = len(now.replied) >= strategy.needed(len(NODES))
    if decision.verdict == "enough":
        assert enough
    if decision.verdict == "abort":
        assert not enough
        assert decision.reason
    if decision.verdict == "wait":
        assert deadline is None or elapsed < deadline
        assert now.missing or deadline is not None, "somebody must still be able to come"
        assert not (enough and wait_for == "quorum")


@pytest.mark.parametrize("step", range(1, 101))
def test_a_share_is_rounded_up_and_not_by_the_error_of_a_product(step):
    for selected in (1, 7, 10, 30, 100):
        assert QuorumStrategy(step / 100).needed(selected) == -(-step * selected // 100)


def test_the_share_is_of_those_selected():
    strategy = QuorumStrategy(0.5, count=4)
    assert len(strategy.select(ctx(), NODES)) == 4
    assert verdict(strategy, {"a": R, "b": R}, selected="abcd") == "wait"
    assert verdict(strategy, {"a": R, "b": R, "c": F, "d": F}, selected="abcd") == "enough"
    assert verdict(strategy, {"a": R, "b": F, "c": F, "d": F}, selected="abcd") == "abort"


def test_one_is_a_node_and_one_point_nought_is_all():
    assert QuorumStrategy(1).needed(20) == 1
    assert QuorumStrategy(1.0).needed(20) == 20


def test_who_trains():
    assert QuorumStrategy(2).select(ctx(), NODES) == NODES
    for strategy in (QuorumStrategy(2, fraction=0.25), QuorumStrategy(2, count=5)):
        rounds = [strategy.select(ctx(number), NODES) for number in range(9)]
        assert rounds == [strategy.select(ctx(number), NODES) for number in range(9)]
        assert {len(picked) for picked in rounds} == {5}
        assert all(picked == sorted(set(picked)) for picked in rounds)
        assert len({tuple(picked) for picked in rounds}) > 5


def test_a_round_that_is_given_up_says_who_is_missing_and_why():
    reasons = {"b": "no memory", "c": "silence for 6 s"}
    given_up = QuorumStrategy(3, deadline=60).judge(
        ctx(), state({"a": R, "b": F, "c": L}, 60, (*ABC, "d"), reasons=reasons)
    )
    assert given_up == Decision(
        "abort",
        "1 reply of the 3 needed had come by the deadline of 60 s: "
        "'b' failed (no memory); 'c' lost (silence for 6 s); 'd' still training.",
    )
    out_of_reach = QuorumStrategy(2).judge(ctx(), state({"a": R, "b": F, "c": L}, reasons=reasons))
    assert out_of_reach.reason == (
        "2 replies needed, of which at most 1 can still be had: 'b' failed (no memory); 'c' lost (silence for 6 s)."
    )
    with_deadline = QuorumStrategy(3, deadline=60).judge(ctx(), state({"a": R, "b": F, "c": L}, reasons=reasons))
    assert with_deadline.reason.startswith("3 replies needed, of which at most 2 can still be had: 'b' failed")


def test_of_many_missing_nodes_some_are_named():
    decision = QuorumStrategy(20, deadline=1).judge(ctx(), state({}, 1.0, NODES))
    assert "'n09' still training and 10 more." in decision.reason
    assert "n10" not in decision.reason


def test_why_a_node_was_not_waited_for():
    assert QuorumStrategy(2, deadline=90).judge(ctx(), state({"a": R, "b": R}, 90)).reason == (
        "it had not replied by the deadline of 90 s"
    )
    assert QuorumStrategy(2, wait_for="quorum").judge(ctx(), state({"a": R, "b": R})).reason == (
        "2 replies had come before its own, and no more were needed"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "got None"),
        ({"quorum": 0}, "got 0"),
        ({"quorum": 0.0}, "got 0.0"),
        ({"quorum": 1.5}, "got 1.5"),
        ({"quorum": True}, "got True"),
        ({"quorum": "2"}, "got '2'"),
        ({"quorum": float("nan")}, "got nan"),
        ({"quorum": 2, "fraction": 0.5, "count": 3}, "fraction or count, not both"),
        ({"quorum": 2, "fraction": 1.5}, r"fraction must lie in \(0, 1\], got 1.5"),
        ({"quorum": 2, "fraction": "half"}, "got 'half'"),
        ({"quorum": 2, "count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"quorum": 2, "count": 2.0}, "count must be a whole number"),
        ({"quorum": 3, "count": 2}, "A quorum of 3 can never be reached: only 2 nodes would train"),
        ({"quorum": 2, "deadline": 0}, "deadline must be a number of seconds above zero"),
        ({"quorum": 2, "deadline": float("inf")}, "deadline"),
        ({"quorum": 2, "deadline": "1 h"}, "deadline"),
        ({"quorum": 2, "wait_for": "some"}, "wait_for must be 'all' or 'quorum'"),
    ],
)
def test_a_quorum_that_makes_no_sense_is_refused_at_once(arguments, words):
    with pytest.raises(UsageError, match=words):
        QuorumStrategy(**arguments)


def test_too_few_nodes_for_the_quorum_are_told_before_anything_is_sent():
    with pytest.raises(UsageError, match=r"A quorum of 4 cannot be reached: 3 of 3 nodes would train"):
        QuorumStrategy(4).select(ctx(), ABC)
    with pytest.raises(UsageError, match=r"2 of 20 nodes would train"):
        QuorumStrategy(3, fraction=0.1).select(ctx(), NODES)


# over-selection --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "size"),
    [
        (OverSelection(10), 13),
        (OverSelection(10, extra=0.25), 13),
        (OverSelection(10, extra=0.1), 11),
        (OverSelection(10, extra=0), 10),
        (OverSelection(10, extra=5), 20),
        (OverSelection(1), 2),
    ],
)
def test_more_train_than_are_needed(strategy, size):
    picked = strategy.select(ctx(), NODES)
    assert len(picked) == size
    assert picked == sorted(set(picked))
    assert picked == strategy.select(ctx(), NODES)


@pytest.mark.parametrize(
    ("outcomes", "elapsed", "expected"),
    [
        ({"a": R}, 1, "wait"),
        ({"a": R, "b": R}, 1, "enough"),
        ({"a": F, "b": R}, 1, "wait"),
        ({"a": F, "b": F, "c": L}, 1, "abort"),
        ({"a": F, "b": L}, 59, "wait"),
        ({"a": R}, 60, "abort"),
    ],
)
def test_the_first_replies_count(outcomes, elapsed, expected):
    assert verdict(OverSelection(2, deadline=60), outcomes, elapsed) == expected


@pytest.mark.parametrize(
    "arguments", [{}, {"count": 0}, {"count": 2.0}, {"count": 2, "extra": -1}, {"count": 2, "deadline": -1}]
)
def test_an_over_selection_that_makes_no_sense_is_refused_at_once(arguments):
    with pytest.raises(UsageError):
        OverSelection(**arguments)


def test_over_selection_does_not_settle_for_less():
    with pytest.raises(UsageError, match="needs 4 updates, but only 3 nodes could train"):
        OverSelection(4).select(ctx(), ABC)
