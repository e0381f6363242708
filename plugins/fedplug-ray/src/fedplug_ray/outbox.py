"""What a worker has to tell while it trains: gathered, so that many small things make one message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from fedplug.core.params import Array
from fedplug_ray.parcels import Line, News, Result, Sign

GATHER = 0.05
"""Seconds that news may wait for more of it, while the training goes on."""


class Outbox:
    """Filled by the thread that trains, emptied by the one that talks to the driver."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_over = False
        self._clear()

    def sign(self, number: int, sign: Sign) -> None:
        """A sign of life of a task."""
        with self._changed:
            self._signs.append((number, sign))
            self._wake()

    def line(self, line: Line) -> None:
        """A line of the log."""
        with self._changed:
            self._lines.append(line)
            self._wake()

    def result(self, result: Result, vectors: list[Array]) -> None:
        """The result of a task, and the vectors that follow it by themselves."""
        with self._changed:
            self._results.append(result)
            self._vectors += vectors
            self._wake()

    def end(self) -> None:
        """Nothing will follow."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def news(self) -> Iterator[Any]:
        """All that is told: `News`, each with the vectors of its results in a list behind it, if there are any.

        Waits for them until the end. One list, as each thing that goes through the object store costs a millisecond.
        """
        is_over = False
        while not is_over:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._is_filled)
                self._changed.wait_for(lambda: self._is_over, GATHER)
                is_over, is_filled = self._is_over, self._is_filled
                news = News(tuple(self._signs), tuple(self._lines), tuple(self._results))
                vectors = self._vectors
                self._clear()
            if is_filled:
                yield news
                if vectors:
                    yield vectors

    def _clear(self) -> None:
        self._is_filled = False
        self._signs: list[tuple[int, Sign]] = []
        self._lines: list[Line] = []
        self._results: list[Result] = []
        self._vectors: list[Array] = []

    def _wake(self) -> None:
        if not self._is_filled:  # only the first of many things: the other thread takes them all
            self._is_filled = True
            self._changed.notify()
