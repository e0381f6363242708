"""Aggregators, driven through rounds as the researcher drives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fedplug.core.aggregator import Aggregator
from fedplug.core.errors import UpdateRejectedError
from fedplug.core.params import Params
from fedplug.testing.cases import Case, cases
from fedplug.testing.compare import fresh
from fedplug.testing.registry import NotApplicableError, Profile, Subject

SEEDS = 12
"""Roots of the random draws in the profile ``full`` where Hypothesis is missing."""


def play(aggregator: Aggregator, case: Case) -> list[Params]:
    """The result of each round, on a fresh copy."""
    return play_on(fresh(aggregator), case)


def play_on(aggregator: Aggregator, case: Case) -> list[Params]:
    """The result of each round, on ``aggregator`` itself."""
    results: list[Params] = []
    for number in range(len(case.rounds)):
        now = prepared(aggregator, case.rest(number, results[-1] if results else case.start))
        result: Any = aggregator.aggregate(now.start, list(now.updates), now.ctx)
        results.append(result)
    return results


def prepared(aggregator: Aggregator, case: Case, *, drop: bool = False) -> Case:
    """The first round of ``case`` as it is when its updates have arrived.

    Args:
        aggregator: It is asked what nodes receive, and whether it can use what they send.
        case: The round.
        drop: Whether to leave out updates that it refuses, as the researcher does.

    Raises:
        NotApplicableError: It refuses updates that have nothing beside the parameters, and nobody has said what that
            should be.
    """
    case = case.copied()
    payloads = {node: aggregator.node_payload(node, case.ctx) for node in case.ctx.node_ids}
    now = replace(case, payloads=payloads)
    updates = []
    for update in case.updates:
        sent = update if case.complete is None else case.complete(update, now)
        try:
            aggregator.check_update(sent, case.start)
        except UpdateRejectedError as error:
            if drop:
                continue
            if case.complete is None:
                raise unfinished(error) from None
            raise
        updates.append(sent)
    return replace(now, updates=tuple(updates))


def unfinished(error: UpdateRejectedError) -> NotApplicableError:
    """Why a law cannot be tried on a component that refuses plain updates."""
    return NotApplicableError(
        f"it refuses updates that have nothing beside the parameters ({error.message}); "
        "Subject(component, complete=...) says what nodes send"
    )


def remembers(aggregator: Aggregator, complete: Any = None) -> bool:
    """Whether it has learnt something after a round."""
    made = fresh(aggregator)
    if made.state_dict():
        return True
    case = next(cases(max(2, made.tags.minimum_updates)))
    try:
        play_on(made, replace(case, complete=complete))
    except Exception:  # noqa: BLE001 - a law will tell
        return False
    return bool(made.state_dict())


@dataclass(frozen=True)
class AggregatorTrials:
    """Cases for aggregators.

    Attributes:
        rounds: Number of rounds of each; 1 means one, or three if the aggregator remembers rounds.
        single: Whether a single case is enough.
    """

    rounds: int = 1
    single: bool = False

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[Case]:
        """All layouts and numbers of nodes; of several seeds in the profile ``full``."""
        for seed in range(SEEDS if profile == "full" else 1):
            for case in cases(subject.component.tags.minimum_updates, seed=seed, rounds=self._rounds(subject)):
                yield replace(case, complete=subject.complete)
                if self.single:
                    return

    def drawn(self, subject: Subject) -> Any:
        """Layouts, numbers of nodes, weights and values, as Hypothesis sees fit."""
        if self.single:
            return None
        from fedplug.testing import strategies

        drawn = strategies.cases(subject.component.tags.minimum_updates, rounds=self._rounds(subject))
        return drawn.map(lambda case: replace(case, complete=subject.complete))

    def _rounds(self, subject: Subject) -> int:
        return 3 if self.rounds == 1 and remembers(subject.component, subject.complete) else self.rounds
