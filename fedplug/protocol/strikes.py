"""Unusable messages: who sends too many of them is not listened to for a while."""

from __future__ import annotations

from collections import OrderedDict, deque

from fedplug.protocol.limits import Limits

_REMEMBERED = 4096
"""Senders that are told apart. Beyond that the one whose last strike is the longest ago is forgotten."""


class Strikes:
    """Counts the unusable messages of each sender.

    Args:
        limits: How many are too many, and for how long somebody is muted then.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recent: OrderedDict[str | bytes, deque[float]] = OrderedDict()
        self._muted: OrderedDict[str | bytes, float] = OrderedDict()

    def add(self, sender: str | bytes, now: float) -> bool:
        """One more. Returns whether that is too many; its sender is muted then."""
        recent = self._recent.setdefault(sender, deque(maxlen=self._limits.malformed))
        self._recent.move_to_end(sender)
        recent.append(now)
        if len(recent) == self._limits.malformed and now - recent[0] <= self._limits.mute:
            del self._recent[sender]
            self._muted[sender] = now + self._limits.mute
            _trim(self._muted)
            return True
        _trim(self._recent)
        return False

    def muted(self, sender: str | bytes, now: float) -> float:
        """Seconds for which a sender is still not listened to; 0 if it is."""
        left = self._muted.get(sender, now) - now
        if left <= 0:
            self._muted.pop(sender, None)
        return max(0.0, left)


def _trim(table: OrderedDict[str | bytes, float] | OrderedDict[str | bytes, deque[float]]) -> None:
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
