"""What is printed and logged in a worker process of a simulation, passed on to the simulation.

A fork of the process, such as a loader of data may start, has no part in that: it would speak into the middle of what
the process says. What it has to say goes where the process was started.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from fedplug.simulation.process_messages import Output, Remark


class Remarks(logging.Handler):
    """Sends the library's log to the simulation.

    Args:
        say: Takes a line of it.
    """

    def __init__(self, say: Callable[[Remark], None]) -> None:
        super().__init__()
        self._say = say
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        if os.getpid() == self._process:
            self._say(Remark(record.name, record.levelno, text))
        else:
            _print(f"{text}\n", sys.__stderr__)


class Printed(io.TextIOBase):
    """Sends what plans print to the simulation, whose own streams may be those of a notebook.

    Args:
        say: Takes what is printed, in any thread.
        now: The number of the task that runs; 0 if none does.
        error: Whether this is the stream for errors.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, say: Callable[[Output], None], now: Callable[[], int], *, error: bool) -> None:
        self._say = say
        self._now = now
        self._error = error
        self._process = os.getpid()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Pass a text on."""
        if os.getpid() == self._process:
            self._say(Output(self._now(), text.encode(errors="backslashreplace").decode(), self._error))
        else:
            _print(text, sys.__stderr__ if self._error else sys.__stdout__)
        return len(text)


def _print(text: str, stream: TextIO | None) -> None:
    if stream is not None:
        stream.write(text)
        stream.flush()
