"""A clock that jumps from event to event, stations that serve in order of arrival, and lines that carry bytes."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Clock:
    """Simulated time, in seconds. Events of the same time happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = count()

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen in so many seconds.

        Raises:
            ValueError: The time is negative or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"Nothing can happen in {seconds} seconds.")
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), action))

    def run(self, done: Callable[[], bool] = lambda: False, limit: float = math.inf) -> bool:
        """Go on until ``done``, until nothing is left to happen, or to the time ``limit``.

        Returns:
            Whether it was ``done``.
        """
        while not done():
            if not self._heap or self._heap[0][0] > limit:
                return False
            self.now, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()
        return True


class Station:
    """Servers with one queue: who came first is served first, and nobody is interrupted.

    Args:
        clock: The time.
        servers: How many are served at once.

    Attributes:
        busy: Seconds of service so far, of all servers together.
        longest: The most jobs that waited at once.
    """

    def __init__(self, clock: Clock, servers: int = 1) -> None:
        if servers < 1:
            raise ValueError(f"A station needs a server, not {servers}.")
        self.busy = 0.0
        self.longest = 0
        self._clock = clock
        self._free = servers
        self._queue: deque[tuple[float, Action]] = deque()

    def ask(self, seconds: float, done: Action) -> None:
        """Queue for a service of so many seconds; ``done`` is called at its end."""
        self._queue.append((seconds, done))
        if self._free:
            self._free -= 1
            self._serve()
        else:
            self.longest = max(self.longest, len(self._queue))

    def _serve(self) -> None:
        seconds, done = self._queue.popleft()
        self.busy += seconds
        self._clock.after(seconds, lambda: self._served(done))

    def _served(self, done: Action) -> None:
        if self._queue:
            self._serve()
        else:
            self._free += 1
        done()


class Thread:
    """What works one thing after the other, and needs a core for it.

    Args:
        clock: The time.
        cores: The cores of its machine, which it shares; None if there are always enough.
        slower: All work takes so many times as long.

    Attributes:
        busy: Seconds of work so far.
    """

    def __init__(self, clock: Clock, cores: Station | None = None, slower: float = 1.0) -> None:
        self.busy = 0.0
        self._cores = cores
        self._slower = slower
        self._alone = Station(clock)
        self._queue: deque[tuple[float, Action]] = deque()
        self._working = False

    def ask(self, seconds: float, done: Action) -> None:
        """Queue for so many seconds of processor time; ``done`` is called at its end."""
        seconds *= self._slower
        self.busy += seconds
        if self._cores is None:
            self._alone.ask(seconds, done)
            return
        self._queue.append((seconds, done))
        if not self._working:
            self._next()

    def _next(self) -> None:
        assert self._cores is not None
        self._working = bool(self._queue)
        if self._working:
            seconds, done = self._queue.popleft()
            self._cores.ask(seconds, lambda: self._finished(done))

    def _finished(self, done: Action) -> None:
        self._next()
        done()


class Line:
    """One direction of a network link: so many bytes a second, one message after the other, then a delay.

    Args:
        clock: The time.
        bandwidth: Bytes a second; `math.inf` for a line that is never the narrow place.
        latency: Seconds from end to end.

    Attributes:
        carried: Bytes so far.
    """

    def __init__(self, clock: Clock, bandwidth: float = math.inf, latency: float = 0.0) -> None:
        if not bandwidth > 0:
            raise ValueError(f"A line needs a bandwidth above zero, not {bandwidth}.")
        self.carried = 0.0
        self._clock = clock
        self._bandwidth = bandwidth
        self._latency = latency
        self._station = Station(clock)

    @property
    def busy(self) -> float:
        """Seconds in which something was on its way onto the line."""
        return self._station.busy

    def send(self, nbytes: float, arrived: Action) -> None:
        """Carry a message; ``arrived`` is called when its last byte is there."""
        self.carried += nbytes
        self._station.ask(nbytes / self._bandwidth, lambda: self._clock.after(self._latency, arrived))
