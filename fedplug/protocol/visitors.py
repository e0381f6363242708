"""Who came to the researcher's door and was not let in: counted each time, told once."""

from __future__ import annotations

from collections import OrderedDict

from fedplug.core.keys import Refusal, fingerprint
from fedplug.core.transport import TurnedAway

_REMEMBERED = 1024
"""Visitors that are told apart. Whoever makes up keys by the thousand can make the log long, but not without end."""

_AGAIN = 3600.0
"""Seconds after which a visitor who still comes is told of again."""


class Visitors:
    """Decides which visitors are worth a line in the log: one for each and each reason, not one for each try."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[Refusal, str], float] = OrderedDict()

    def turned_away(self, visitor: TurnedAway, now: float) -> str:
        """A line for the log; empty if all was said."""
        name = (visitor.refusal, visitor.key or visitor.place)
        before = self._told.get(name)
        if before is not None and now - before < _AGAIN:
            return ""
        if before is None and len(self._told) >= _REMEMBERED:
            oldest = next(iter(self._told))
            if now - self._told[oldest] < _AGAIN:
                return ""
            del self._told[oldest]
        self._told[name] = now
        self._told.move_to_end(name)
        return _words(visitor)

    def let_in(self, key: str) -> None:
        """The holder of a key is connected: if it is turned away later, that is news."""
        self._told.pop((Refusal.UNKNOWN_KEY, key), None)


def _words(visitor: TurnedAway) -> str:
    place = f" at {visitor.place}" if visitor.place else ""
    match visitor.refusal:
        case Refusal.UNKNOWN_KEY:
            return (
                f"A node{place} was not let in: its key {fingerprint(visitor.key)} is not allowed. If it is one of "
                f"yours, type this with its id for NODE: fedplug researcher allow NODE {visitor.key}"
            )
        case Refusal.WRONG_KEY:
            return (
                f"A node{place} did not come in: it trusts another key than yours. If it is one of yours, compare the "
                "fingerprints with its owner; yours is shown by: fedplug keys show"
            )
        case Refusal.PLAINTEXT_NODE:
            return (
                f"Somebody{place} wanted to connect without encryption and was not let in. If it is one of your nodes, "
                "send its owner your public key (fedplug keys show); they type: fedplug node trust KEY"
            )
        case Refusal.PLAINTEXT_RESEARCHER:
            return (
                f"Somebody{place} wanted to connect with encryption, which needs keys of yours, and did not come in. "
                "If it is one of your nodes, make them with: fedplug researcher init"
            )
        case Refusal.NO_ANSWER:
            return (
                "Nobody can connect: it cannot be found out which keys are allowed. The error before this line says "
                "why; 'fedplug researcher list' tries the same"
            )
        case Refusal.FULL:
            return (
                "No more nodes can connect: this process has almost as many connections and files open as it may. "
                "Those that are connected stay. Allow it more before it is started, e.g. with: ulimit -n 65536"
            )
