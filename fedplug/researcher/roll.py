"""The roll of a round: who was asked, what became of them, why and when. The strategy judges by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fedplug.core.context import RollEntry
from fedplug.core.messages import TaskFailure
from fedplug.core.strategy import NodesOnDemand, Outcome, RoundState
from fedplug.researcher.progress.text import block

MOST_ENTRIES = 10_000
"""A round whose nodes come and go more often than this keeps the first entries."""

_INTERRUPTED = frozenset(("interrupted", "update-lost"))
_REFUSED = frozenset(
    ("not-approved", "policy", "budget", "dataset-changed", "dataset-removed", "no-dataset", "no-space", "node-stops")
)


def outcome_of(failure: TaskFailure) -> Outcome:
    """What a node's failure means for the round."""
    if failure.code in _INTERRUPTED:
        return "interrupted"
    return "refused" if failure.code in _REFUSED else "failed"


class _Ages(Mapping[str, float]):
    """Seconds between points of time and now; worked out when they are asked for, as a state is made for each reply."""

    def __init__(self, since: Mapping[str, float], now: float) -> None:
        self._since = since
        self._now = now

    def __getitem__(self, node_id: str) -> float:
        return self._now - self._since[node_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._since)

    def __len__(self) -> int:
        return len(self._since)


class Roll:
    """Knows of every node of a round where it stands.

    Args:
        node_ids: The nodes that were selected, sorted.
        clock: Gives monotonic seconds; for tests.
    """

    def __init__(self, node_ids: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.selected = list(node_ids)
        self.added: list[str] = []
        self.outcomes: dict[str, Outcome] = {}
        self.reasons: dict[str, str] = {}
        self.entries: list[RollEntry] = []
        self._clock = clock
        self._began = clock()
        self._since = dict.fromkeys(node_ids, self._began)
        self._tries: dict[str, int] = {}  # of those that have had several

    @property
    def elapsed(self) -> float:
        """Seconds since the round began."""
        return self._clock() - self._began

    def ask(self, node_id: str) -> bool:
        """A node is given a task: whether once more, or as the latest to take part."""
        again = node_id in self._since
        if again:
            self._tries[node_id] = self._tries.get(node_id, 1) + 1
        else:
            self.selected.append(node_id)
            self.added.append(node_id)
        self._since[node_id] = self._clock()
        self.outcomes.pop(node_id, None)
        self.reasons.pop(node_id, None)
        self._note(node_id, "asked again" if again else "asked")
        return again

    def sign(self, node_id: str) -> bool:
        """A node shows progress; whether it counted as stalled until now."""
        if node_id not in self._since or self.outcomes.get(node_id) not in (None, "stalled"):
            return False
        self._since[node_id] = self._clock()
        return self.outcomes.get(node_id) == "stalled" and self.back(node_id)

    def close(self, node_id: str, outcome: Outcome, reason: str = "") -> str:
        """Note what became of a node; the reason, made safe for a terminal, comes back."""
        reason = block(reason)  # a node's own words, which a terminal must not obey
        self.outcomes[node_id] = outcome
        self._since[node_id] = self._clock()
        if outcome == "replied":
            self.reasons.pop(node_id, None)
        else:
            self.reasons[node_id] = reason
        self._note(node_id, outcome, reason)
        return reason

    def back(self, node_id: str) -> bool:
        """A node that was lost or stalled works again; whether it was."""
        if self.outcomes.get(node_id) not in ("lost", "stalled"):
            return False
        del self.outcomes[node_id], self.reasons[node_id]
        self._since[node_id] = self._clock()
        self._note(node_id, "back")
        return True

    def left_out(self, node_id: str, reason: str) -> str:
        """The round ends without a node that still trains."""
        self.reasons[node_id] = block(reason) or "the round was complete without it"
        self._note(node_id, "left out", self.reasons[node_id])
        return self.reasons[node_id]

    def is_given_up(self, node_id: str) -> bool:
        """Whether nothing more can come from a node.

        One that is away may be back in time, and one that was interrupted may get its task again.
        """
        return self.outcomes.get(node_id) in ("failed", "refused", "rejected")

    def silent(self, silence: float) -> list[str]:
        """The nodes that still train and have shown no progress for so many seconds."""
        due = self._clock() - silence
        return [node for node in self.selected if node not in self.outcomes and self._since[node] <= due]

    def state(self, others: Callable[[], Iterable[str]] = tuple) -> RoundState:
        """What the strategy sees; ``others`` finds those that could be asked besides."""
        now = self._clock()
        return RoundState(
            selected=tuple(self.selected),
            outcomes=dict(self.outcomes),
            reasons=dict(self.reasons),
            elapsed=now - self._began,
            since=_Ages(dict(self._since), now),
            tries=dict(self._tries),
            others=NodesOnDemand(lambda: set(others()).difference(self.selected)),
            added=tuple(self.added),
        )

    def _note(self, node_id: str, event: str, reason: str = "") -> None:
        if len(self.entries) < MOST_ENTRIES:
            self.entries.append(RollEntry(round(self.elapsed, 3), node_id, event, reason))
