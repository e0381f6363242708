"""The lossy lane: progress and log lines, limited in rate; the oldest give way, and are counted."""

from __future__ import annotations

from collections import Counter, deque

from fedplug.core.messages import LogLine, Progress
from fedplug.protocol.limits import Limits
from fedplug.wire import headers as h

_MOST = 32
"""Signs in one message."""


class SignLane:
    """Signs of life that wait to be sent.

    Args:
        limits: Rate and room.
        stats: Counts ``signs_dropped``.
    """

    def __init__(self, limits: Limits, stats: Counter[str]) -> None:
        self._limits = limits
        self._stats = stats
        self._waiting: deque[Progress | LogLine] = deque()
        self._tokens = limits.sign_rate
        self._filled = 0.0

    def put(self, message: Progress | LogLine) -> None:
        """Add a sign; the oldest goes if there is no room."""
        if len(self._waiting) >= self._limits.sign_backlog:
            self._waiting.popleft()
            self._stats["signs_dropped"] += 1
        self._waiting.append(message)

    def deadline(self, now: float) -> float | None:
        """When something may be sent; None if nothing waits."""
        if not self._waiting:
            return None
        self._fill(now)
        return now if self._tokens >= 1 else now + (1 - self._tokens) / self._limits.sign_rate

    def flush(self, session: h.Session, now: float) -> h.Event | None:
        """The message that may be sent now; None if there is none."""
        self._fill(now)
        number = min(len(self._waiting), int(self._tokens), _MOST)
        if number < 1:
            return None
        self._tokens -= number
        taken = [self._waiting.popleft() for _ in range(number)]
        return h.Event(
            session=session,
            progress=tuple(message for message in taken if isinstance(message, Progress)),
            logs=tuple(message for message in taken if isinstance(message, LogLine)),
            dropped=self._stats["signs_dropped"],
        )

    def _fill(self, now: float) -> None:
        # One second's worth is the most that can be saved up.
        self._tokens = min(self._limits.sign_rate, self._tokens + (now - self._filled) * self._limits.sign_rate)
        self._filled = now
