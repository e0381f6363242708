"""Signals that end the demo: all of them as Ctrl-C does, and none in the middle of starting or stopping a node."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A `kill`, and a terminal that is closed, raise KeyboardInterrupt as Ctrl-C does.

    What was to be ignored (``nohup``, a shell's background jobs) stays ignored, but for SIGTERM.
    """
    kept = [number for number in _ENDING if number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN]
    with _handled([number for number in _ENDING if number not in kept], _interrupt):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that would end the demo wait until the block is over."""
    came: list[int] = []
    with _handled(
        [number for number in _ENDING if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL)],
        lambda number, _: came.append(number),
    ):
        yield
    if came:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what every handler is given
    raise KeyboardInterrupt


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # another thread gets no signals
        return
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)
