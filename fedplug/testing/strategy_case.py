"""Rounds as a strategy sees them: who could train, and what becomes of those that do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.rng import SeedTree
from fedplug.core.strategy import Decision, Outcome, RoundState, Strategy
from fedplug.core.training_args import TrainingArgs
from fedplug.testing.compare import fresh
from fedplug.testing.registry import LawBrokenError, NotApplicableError, Profile, Subject

Fate = Literal["replied", "failed", "lost", "rejected", "back"]
"""What becomes of a node; one that is ``back`` was lost, came back, and has replied."""

COUNTS = (1, 2, 3, 5, 10, 20)
"""Numbers of nodes."""

_ARGS = TrainingArgs().dict()

LONG = 1e9
"""Seconds after which every deadline has passed."""

FATES: tuple[tuple[Fate, ...], ...] = (
    ("replied",),
    ("failed", "replied", "replied", "replied"),
    ("replied", "replied", "lost"),
    ("replied", "back", "rejected"),
    ("failed",),
    ("rejected",),
    ("lost",),
)
"""What may become of the nodes, in the order in which they are done, over and over."""


@dataclass(frozen=True)
class StrategyCase:
    """Three rounds.

    Attributes:
        nodes: Those that hold the data, sorted.
        fates: For each round, what becomes of the selected nodes in the order in which they are done.
        seed: Decides that order.
        first: Number of the first round.
    """

    nodes: tuple[str, ...]
    fates: tuple[tuple[Fate, ...], ...]
    seed: int = 0
    first: int = 0

    @classmethod
    def among(cls, count: int, fates: tuple[tuple[Fate, ...], ...], seed: int = 0) -> StrategyCase:
        """A case of so many nodes."""
        return cls(tuple(f"node-{number:02d}" for number in range(count)), fates, seed)

    def rest(self, rounds: int) -> StrategyCase:
        """What follows after ``rounds`` rounds."""
        return replace(self, fates=self.fates[rounds:], first=self.first + rounds)

    def until(self, rounds: int) -> StrategyCase:
        """The first ``rounds`` rounds."""
        return replace(self, fates=self.fates[:rounds])

    def context(self, place: int, selected: Sequence[str] | None = None) -> RoundContext:
        """One of the rounds, before or after nodes were selected."""
        number = self.first + place
        seed = SeedTree.root(self.seed).child("round", number)
        chosen = self.nodes if selected is None else tuple(selected)
        return RoundContext("check", number, seed, chosen, dict(_ARGS), self.nodes)

    def states(self, place: int, selected: Sequence[str]) -> Iterator[RoundState]:
        """What ``judge`` sees, from the beginning of a round until all is over, and long after."""
        order = np.random.default_rng([self.seed, self.first + place]).permutation(len(selected))
        outcomes: dict[str, Outcome] = {}
        reasons: dict[str, str] = {}
        elapsed = 0.0

        def state(seconds: float) -> RoundState:
            return RoundState(tuple(selected), dict(outcomes), dict(reasons), seconds)

        yield state(elapsed)
        for rank, index in enumerate(order.tolist()):
            node, fate = selected[index], self.fates[place][rank % len(self.fates[place])]
            steps: list[Outcome] = ["lost", "replied"] if fate == "back" else [fate]
            for outcome in steps:
                elapsed += 1.0
                if outcomes.pop(node, None) is not None:  # it is back, and trains on
                    del reasons[node]
                    yield state(elapsed)
                outcomes[node] = outcome
                if outcome != "replied":
                    reasons[node] = f"the kit's word for {outcome}"
                yield state(elapsed)
        yield state(elapsed + 1)
        yield state(LONG)

    def __str__(self) -> str:
        told = "; ".join(f"round {self.first + n + 1}: {', '.join(fates)}" for n, fates in enumerate(self.fates))
        return f"nodes: {', '.join(self.nodes)}\nwhat becomes of them, in turn: {told} (seed {self.seed})"


@dataclass(frozen=True)
class Told:
    """How a round went.

    Attributes:
        selected: Who trained.
        decision: The last word.
        state: What it was about.
    """

    selected: tuple[str, ...]
    decision: Decision
    state: RoundState

    @property
    def facts(self) -> tuple[object, ...]:
        """What must be the same where a round is repeated."""
        return self.selected, self.decision.verdict, tuple(self.state.replied)


Ask = Callable[[Strategy, RoundContext, RoundState], Decision]


def choose(strategy: Strategy, case: StrategyCase, place: int) -> tuple[str, ...]:
    """Whom a strategy selects, sorted; as the researcher takes it."""
    found: object = strategy.select(case.context(place), list(case.nodes))
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise LawBrokenError(f"select must return a list of nodes, but returned {found!r}.\n{case}")
    return tuple(sorted(set(found)))


def ask(strategy: Strategy, ctx: RoundContext, state: RoundState) -> Decision:
    """What a strategy makes of a state."""
    found: object = strategy.judge(ctx, state)
    if not isinstance(found, Decision) or found.verdict not in ("wait", "enough", "abort"):
        raise LawBrokenError(f"judge must return a Decision, but returned {found!r}.\nIt was asked about {state}.")
    return found


def run(strategy: Strategy, case: StrategyCase, asking: Ask = ask) -> list[Told]:
    """Run all rounds of a case on ``strategy`` itself; a round ends with the first word that is not ``"wait"``."""
    told = []
    for place in range(len(case.fates)):
        selected = choose(strategy, case, place)
        ctx = case.context(place, selected)
        decision, state = Decision("wait"), None
        for state in case.states(place, selected):
            decision = asking(strategy, ctx, state)
            if decision.verdict != "wait":
                break
        assert state is not None  # there is always a first one
        told.append(Told(selected, decision, state))
    return told


class StrategyTrials:
    """Every number of nodes that a strategy can choose from, with all that may become of them."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[StrategyCase]:
        """All fates; in many orders in the profile ``full``."""
        counts = [count for count in COUNTS if _can_choose(subject.component, count)]
        if not counts:
            raise NotApplicableError(f"it selects nobody from any of {', '.join(map(str, COUNTS))} nodes")
        for seed in range(10 if profile == "full" else 1):
            for count in counts if profile == "full" else counts[:3]:
                for place, fates in enumerate(FATES):
                    yield StrategyCase.among(count, (fates, FATES[0], FATES[(place + 1) % len(FATES)]), seed)

    def drawn(self, subject: Subject) -> object:
        """None: there are few things that can become of a node, and all are tried."""
        return None


def _can_choose(strategy: Strategy, count: int) -> bool:
    """Whether a strategy selects from so many nodes; it may say that they are too few."""
    case = StrategyCase.among(count, (FATES[0],))
    try:
        fresh(strategy).select(case.context(0), list(case.nodes))
    except UsageError:
        return False
    except Exception:  # noqa: BLE001 - the law about select will tell
        return True
    return True
