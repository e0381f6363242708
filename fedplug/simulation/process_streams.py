"""What is printed and logged in a worker process of a simulation, passed on to the simulation."""

from __future__ import annotations

import io
import logging
import threading
import traceback
from collections.abc import Callable

from fedplug.simulation.process_messages import Output, Remark


class Remarks(logging.Handler):
    """Sends the library's log to the simulation.

    Args:
        say: Takes a line of it.
    """

    def __init__(self, say: Callable[[Remark], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self._say(Remark(record.name, record.levelno, text))


class Printed(io.TextIOBase):
    """Sends what plans print to the simulation, whose own streams may be those of a notebook.

    Threads of plans may print as well; what they print goes with the next message.

    Args:
        say: Takes what is printed; in the thread that has made this stream.
        now: The number of the task that runs; 0 if none does.
        error: Whether this is the stream for errors.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, say: Callable[[Output], None], now: Callable[[], int], *, error: bool) -> None:
        self._say = say
        self._now = now
        self._error = error
        self._thread = threading.get_ident()
        self._others: list[str] = []

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Pass a text on."""
        if threading.get_ident() != self._thread:
            self._others.append(text)
            return len(text)
        others, self._others = self._others, []
        whole = "".join([*others, text])
        self._say(Output(self._now(), whole.encode(errors="backslashreplace").decode(), self._error))
        return len(text)
