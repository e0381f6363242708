"""The roll of a round: who was asked, what became of them, why and when. The strategy judges by it.

A state is made for each reply, and a strategy may keep it. Yet a round of n nodes must not copy n tables of n entries.
So a state shows the tables of the roll; before the roll writes into one, it looks whether somebody holds on to it, and
goes on with a copy if so. The count of references tells.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace

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
        self._began = self._oldest = clock()  # no node has shown its last sign before `_oldest`
        self._since = dict.fromkeys(node_ids, self._began)
        self._tries: dict[str, int] = {}  # of those that have had several
        self._counts: dict[Outcome, int] = {}
        self._shown: tuple[str, ...] | None = None  # `selected`, until it changes

    @property
    def elapsed(self) -> float:
        """Seconds since the round began."""
        return self._clock() - self._began

    def ask(self, node_id: str) -> bool:
        """A node is given a task: whether once more, or as the latest to take part."""
        self._part("outcomes", "reasons", "_since", "_tries", "_counts")
        again = node_id in self._since
        if again:
            self._tries[node_id] = self._tries.get(node_id, 1) + 1
        else:
            self.selected.append(node_id)
            self.added.append(node_id)
            self._shown = None
        self._uncount(node_id)
        self.outcomes.pop(node_id, None)
        self.reasons.pop(node_id, None)
        self._note(node_id, "asked again" if again else "asked")
        return again

    def sign(self, node_id: str) -> bool:
        """A node shows progress; whether it counted as stalled until now."""
        if node_id not in self._since or self.outcomes.get(node_id) not in (None, "stalled"):
            return False
        self._part("_since")
        self._since[node_id] = self._clock()
        return self.outcomes.get(node_id) == "stalled" and self.back(node_id)

    def close(self, node_id: str, outcome: Outcome, reason: str = "") -> str:
        """Note what became of a node; the reason, made safe for a terminal, comes back."""
        reason = block(reason)  # a node's own words, which a terminal must not obey
        self._part("outcomes", "reasons", "_since", "_counts")
        self._uncount(node_id)
        self.outcomes[node_id] = outcome
        self._counts[outcome] = self._counts.get(outcome, 0) + 1
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
        self._part("outcomes", "reasons", "_since", "_counts")
        self._uncount(node_id)
        del self.outcomes[node_id], self.reasons[node_id]
        self._note(node_id, "back")
        return True

    def left_out(self, node_id: str, reason: str) -> str:
        """The round ends without a node that still trains."""
        self._part("reasons", "_since")
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
        if self._oldest > due:
            return []
        self._oldest = min((self._since[node] for node in self.selected if node not in self.outcomes), default=due)
        return [node for node in self.selected if node not in self.outcomes and self._since[node] <= due]

    def state(self, others: Callable[[], Iterable[str]] = tuple) -> RoundState:
        """What the strategy sees; ``others`` finds those that could be asked besides."""
        now = self._clock()
        selected = self._shown
        if selected is None:
            selected = self._shown = tuple(self.selected)
        return RoundState(
            selected=selected,
            outcomes=MappingProxyType(self.outcomes),
            reasons=MappingProxyType(self.reasons),
            elapsed=now - self._began,
            since=_Ages(self._since, now),
            tries=MappingProxyType(self._tries),
            others=NodesOnDemand(lambda: set(others()).difference(selected)),
            added=tuple(self.added),
            counts=MappingProxyType(self._counts),
        )

    def _part(self, *tables: str) -> None:
        """Before a change: whoever still looks at a table keeps it as it is, and the roll goes on with a copy."""
        for name in tables:
            if _references(self, name) > _ALONE:
                setattr(self, name, dict(getattr(self, name)))

    def _uncount(self, node_id: str) -> None:
        before = self.outcomes.get(node_id)
        if before is not None:
            self._counts[before] -= 1

    def _note(self, node_id: str, event: str, reason: str = "") -> None:
        """Write an event down; from now on `RoundState.since` counts from it."""
        now = self._since[node_id] = self._clock()
        if len(self.entries) < MOST_ENTRIES:
            self.entries.append(RollEntry(round(now - self._began, 3), node_id, event, reason))


def _references(owner: object, name: str) -> int:
    return sys.getrefcount(getattr(owner, name))


_ALONE = _references(SimpleNamespace(table={}), "table")
"""What `_references` comes to where nobody else has the object."""
