"""Ctrl-C, held back for as long as several things change together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C is heard when the block is over: what it changes, it changes as a whole or not at all.

    For short blocks that wait for nothing. In a thread that Ctrl-C does not interrupt, and where no function of Python
    hears it, there is nothing to hold back.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            before(*heard[0])
