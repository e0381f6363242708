"""The kit for strategies: ours and those of the page keep the laws, and each planted bug breaks these laws."""

from __future__ import annotations

import random

import pytest

from fedplug import Decision, OverSelection, QuorumStrategy, Strategy
from fedplug.core.components import Component, Offer
from fedplug.core.errors import UsageError
from fedplug.core.plugins import PluginHost
from fedplug.core.strategy import DefaultStrategy, RandomStrategy
from fedplug.testing import STRATEGY_CHECKS, check_offer, check_strategy, parametrize_with_checks


class TakeTurns(Strategy):
    """Correct, and remembers whose turn it is; as in docs/strategies.md."""

    def __init__(self, count=2):
        self.count = count
        self._turns = {}

    def select(self, ctx, nodes):
        return sorted(nodes, key=lambda node: self._turns.get(node, 0))[: self.count]

    def judge(self, ctx, state):
        if state.missing:
            return Decision("wait")
        for node in state.selected:
            self._turns[node] = self._turns.get(node, 0) + 1
        return Decision("enough") if state.replied else Decision("abort", f"nobody replied: {dict(state.reasons)}")

    def state_dict(self):
        return {"turns": self._turns}

    def load_state_dict(self, state):
        self._turns = dict(state["turns"])


class Lenient(Strategy):
    """Correct: all nodes, and whoever has replied when nobody trains any more."""

    def select(self, ctx, nodes):
        return list(nodes)

    def judge(self, ctx, state):
        if state.missing:
            return Decision("wait")
        return Decision("enough") if state.replied else Decision("abort", "nobody replied")


CORRECT = [
    DefaultStrategy(),
    RandomStrategy(0.5),
    RandomStrategy(count=2),
    QuorumStrategy(2),
    QuorumStrategy(0.8, deadline=600),
    QuorumStrategy(0.5, fraction=0.5, wait_for="quorum"),
    OverSelection(2),
    OverSelection(3, extra=0.5, deadline=60),
    TakeTurns(),
    Lenient(),
]


class Invents(Lenient):
    def select(self, ctx, nodes):
        return [*nodes, "node-99"]


class SelectsNobody(Lenient):
    def select(self, ctx, nodes):
        return []

    def judge(self, ctx, state):
        return Decision("abort", "nobody trains")


class Takes(Lenient):
    """Empties the list that it was given."""

    def select(self, ctx, nodes):
        return [nodes.pop() for _ in range(len(nodes))]


class NeverContent(Lenient):
    def select(self, ctx, nodes):
        raise UsageError("There are too few nodes.")


class GlobalChance(Lenient):
    def select(self, ctx, nodes):
        return random.sample(nodes, len(nodes) // 2 + 1)


class SaysTrue(Lenient):
    def judge(self, ctx, state):
        return not state.missing


class Silent(Lenient):
    def judge(self, ctx, state):
        decision = super().judge(ctx, state)
        return Decision("abort") if decision.verdict == "abort" else decision


class Scribbles(Lenient):
    def judge(self, ctx, state):
        decision = super().judge(ctx, state)
        state.outcomes.clear()
        return decision


class EnoughOfNothing(Lenient):
    def judge(self, ctx, state):
        return Decision("wait" if state.missing else "enough")


class WaitsForEver(Lenient):
    """For a reply that cannot come any more."""

    def judge(self, ctx, state):
        return Decision("enough" if len(state.replied) == len(state.selected) else "wait")


class WaitsForTheLost(Lenient):
    """Without a deadline."""

    def judge(self, ctx, state):
        if state.missing or "lost" in state.outcomes.values():
            return Decision("wait")
        return super().judge(ctx, state)


class CountsCalls(Lenient):
    """Gives up after so many calls, as if they came once a second."""

    calls = 0

    def judge(self, ctx, state):
        if state.elapsed == 0:
            self.calls = 0
        self.calls += 1
        return Decision("abort", "that took too long") if self.calls > 8 else super().judge(ctx, state)


class RemembersWhomItChose(Lenient):
    def select(self, ctx, nodes):
        self._chosen = list(nodes)
        return self._chosen

    def judge(self, ctx, state):
        if len(state.outcomes) < len(self._chosen):
            return Decision("wait")
        return super().judge(ctx, state)


class ForgetsTurns(TakeTurns):
    """A breakpoint does not keep whose turn it is."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class HidesItsArgument(Lenient):
    def __init__(self, patience=10):
        self._patience = patience


class AddsUp(TakeTurns):
    """What is loaded is added to what is there, so a round that failed has still been."""

    def load_state_dict(self, state):
        for node, turns in state["turns"].items():
            self._turns[node] = max(turns, self._turns.get(node, 0))


CAUGHT_BY = {
    Invents: {"select"},
    SelectsNobody: {"select"},
    Takes: {"select"},
    NeverContent: {"select"},
    GlobalChance: {"repeatable", "often", "config", "resume", "undone"},
    SaysTrue: {"repeatable", "decision", "early", "ends", "often", "unasked", "config", "resume", "undone"},
    Silent: {"decision"},
    Scribbles: {"decision"},
    EnoughOfNothing: {"early"},
    WaitsForEver: {"ends"},
    WaitsForTheLost: {"ends"},
    CountsCalls: {"often"},
    RemembersWhomItChose: {"unasked"},
    HidesItsArgument: {"config"},
    ForgetsTurns: {"resume", "undone"},
    AddsUp: {"undone"},
}


def outcomes(strategy):
    return {result.check: result for result in check_strategy(strategy, on_fail="report")}


@parametrize_with_checks(CORRECT)
def test_correct_strategies_keep_the_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(CORRECT, profile="full")
def test_correct_strategies_keep_the_laws_in_many_more_rounds(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = outcomes(mutant())
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in STRATEGY_CHECKS} == set().union(*CAUGHT_BY.values())


@pytest.mark.parametrize(
    ("mutant", "law", "words"),
    [
        (Invents, "select", "select chose 'node-99', which is not one of the nodes"),
        (WaitsForEver, "ends", 'Nobody trains any more, but judge says "wait", for ever'),
        (WaitsForTheLost, "ends", "who is lost has not come back in 1e+09 seconds"),
        (EnoughOfNothing, "early", 'Nobody has replied, but judge says "enough"'),
        (CountsCalls, "often", "judge was asked four times instead of once about each state"),
        (RemembersWhomItChose, "unasked", "judge raised AttributeError where select had not been called"),
        (ForgetsTurns, "resume", "The run was saved after round 1 and resumed with a new strategy"),
        (SaysTrue, "decision", "judge must return a Decision, but returned False"),
    ],
)
def test_what_is_wrong_is_told(mutant, law, words):
    reason = outcomes(mutant())[law].reason
    assert words in reason
    assert "node-00" in reason


class NeedsAShare(DefaultStrategy):
    def __init__(self, share):
        self.share = share


def test_what_is_made_without_arguments_is_checked_by_name_and_other_classes_say_their_cases():
    host = PluginHost.discover(only=[], found=[])
    results = {o.component.name: {r.outcome for r in check_offer(o)} for o in host.components("strategy")}
    assert results == {key: {"pass"} for key in ("all", "over-selection", "quorum", "random")}
    (loads, *others) = check_offer(Offer("strategy", "mine", Component("share", NeedsAShare)))
    assert loads.outcome == "pass"
    assert {result.outcome for result in others} == {"skip"}
    assert "NeedsAShare() raised TypeError" in others[0].reason
