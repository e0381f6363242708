from __future__ import annotations

import pytest

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Decision, DefaultStrategy, RandomStrategy, RoundState

NODES = [f"n{number}" for number in range(10)]


def ctx(number=0):
    return RoundContext("e", number, SeedTree.root(5).child("round", number))


def state(outcomes, selected=("a", "b", "c"), reasons=None):
    return RoundState(selected, outcomes, reasons or {}, 1.0)


def test_the_state_of_a_round():
    now = state({"c": "replied", "a": "lost"})
    assert (now.replied, now.missing, now.dropped) == (["c"], ["b"], ["a"])
    assert (now.number("replied"), now.number("replied", "lost"), now.number("stalled")) == (1, 2, 0)


@pytest.mark.parametrize("strategy", [DefaultStrategy(), RandomStrategy(0.5)])
@pytest.mark.parametrize(
    ("outcomes", "decision"),
    [
        ({}, Decision("wait")),
        ({"a": "replied", "c": "replied"}, Decision("wait")),
        ({"a": "replied", "b": "replied", "c": "replied"}, Decision("enough")),
        ({"b": "failed"}, Decision("abort", "node 'b' failed: no memory")),
        ({"b": "rejected", "c": "lost"}, Decision("abort", "node 'b' rejected: no memory (and 1 more)")),
        ({"b": "refused"}, Decision("abort", "node 'b' refused: no memory")),
        ({"a": "replied", "b": "lost", "c": "stalled"}, Decision("wait")),
        ({"b": "interrupted"}, Decision("wait", ask=("b",))),
    ],
)
def test_all_must_reply(strategy, outcomes, decision):
    assert strategy.judge(ctx(), state(outcomes, reasons={"b": "no memory"})) == decision


@pytest.mark.parametrize("outcome", ["lost", "stalled"])
@pytest.mark.parametrize("strategy", [DefaultStrategy(patience=5), RandomStrategy(0.5, patience=5)])
def test_a_node_that_is_away_has_some_time_to_come_back(strategy, outcome):
    def judged(seconds):
        now = RoundState(("a", "b"), {"a": outcome}, {"a": "silence"}, 100.0, since={"a": seconds, "b": 90.0})
        return strategy.judge(ctx(), now)

    assert judged(4.9) == Decision("wait")
    assert judged(5) == Decision("abort", f"node 'a' {outcome}: silence, and was not back within 5 s")


def test_without_patience_a_lost_node_ends_the_round_at_once():
    assert DefaultStrategy(patience=0).judge(ctx(), state({"b": "lost"})).verdict == "abort"


def test_a_node_that_is_restarted_over_and_over_ends_the_round():
    now = RoundState(("a",), {"a": "interrupted"}, {"a": "restarted"}, 1.0, tries={"a": 3})
    assert DefaultStrategy().judge(ctx(), now) == Decision("abort", "node 'a' interrupted: restarted")


@pytest.mark.parametrize("args", [{"patience": -1}, {"silence": float("inf")}, {"patience": "long"}, {"silence": True}])
def test_spans_of_time_must_be_some(args):
    with pytest.raises(UsageError, match=f"{next(iter(args))} must be a number of seconds"):
        DefaultStrategy(**args)
    with pytest.raises(UsageError):
        RandomStrategy(0.5, **args)


def test_default_takes_all():
    assert DefaultStrategy().select(ctx(), NODES) == NODES


@pytest.mark.parametrize(
    ("strategy", "size"),
    [
        (RandomStrategy(0.3), 3),
        (RandomStrategy(1.0), 10),
        (RandomStrategy(0.001), 1),
        (RandomStrategy(count=4), 4),
        (RandomStrategy(count=99), 10),
    ],
)
def test_random_takes_so_many_sorted_and_without_repetition(strategy, size):
    picked = strategy.select(ctx(), NODES)
    assert len(picked) == size
    assert picked == sorted(set(picked))
    assert set(picked) <= set(NODES)


def test_random_depends_on_the_seed_and_the_round_only():
    strategy = RandomStrategy(0.5)
    rounds = [strategy.select(ctx(number), NODES) for number in range(20)]
    assert rounds == [RandomStrategy(0.5).select(ctx(number), NODES) for number in range(20)]
    assert len({tuple(picked) for picked in rounds}) > 10
    assert set().union(*rounds) == set(NODES)


@pytest.mark.parametrize("args", [{}, {"fraction": 0.5, "count": 2}, {"fraction": 0}, {"fraction": 1.5}, {"count": 0}])
def test_random_refuses_what_makes_no_sense(args):
    with pytest.raises(UsageError):
        RandomStrategy(**args)


class Forgiving(DefaultStrategy):
    """Leaves a node out for a while after it has failed; what it remembers survives a breakpoint."""

    def __init__(self, rounds=2):
        self.rounds = rounds
        self._banned = {}

    def select(self, ctx, nodes):
        return [node for node in nodes if self._banned.get(node, 0) <= ctx.round] or list(nodes)

    def judge(self, ctx, state):
        for node in state.dropped:
            self._banned[node] = ctx.round + 1 + self.rounds
        return Decision("wait" if state.missing else "enough")

    def state_dict(self):
        return {"banned": dict(self._banned)}

    def load_state_dict(self, state):
        self._banned = dict(state["banned"])


def test_a_strategy_can_remember():
    strategy = Forgiving()
    assert strategy.judge(ctx(0), state({"a": "replied", "b": "failed", "c": "replied"})).verdict == "enough"
    again = Forgiving()
    again.load_state_dict(strategy.state_dict())
    for one in (strategy, again):
        assert [one.select(ctx(number), ["a", "b", "c"]) for number in (1, 2, 3)] == [
            ["a", "c"],
            ["a", "c"],
            ["a", "b", "c"],
        ]


def test_a_strategy_without_memory_says_so():
    assert DefaultStrategy().state_dict() == {}
    DefaultStrategy().load_state_dict({})
    with pytest.raises(UsageError, match=r"DefaultStrategy keeps no state, but was given \['banned'\]"):
        DefaultStrategy().load_state_dict({"banned": {}})
