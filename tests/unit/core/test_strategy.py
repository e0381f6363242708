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


@pytest.mark.parametrize("strategy", [DefaultStrategy(), RandomStrategy(0.5)])
@pytest.mark.parametrize(
    ("outcomes", "decision"),
    [
        ({}, Decision("wait")),
        ({"a": "replied", "c": "replied"}, Decision("wait")),
        ({"a": "replied", "b": "replied", "c": "replied"}, Decision("enough")),
        ({"b": "failed"}, Decision("abort", "node 'b' failed: no memory")),
        ({"b": "lost", "c": "rejected"}, Decision("abort", "node 'b' lost: no memory (and 1 more)")),
    ],
)
def test_all_must_reply(strategy, outcomes, decision):
    assert strategy.judge(ctx(), state(outcomes, reasons={"b": "no memory"})) == decision


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
