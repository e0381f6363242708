"""What plan code prints goes to the node's log: cleaned, line by line, and not without end."""

from __future__ import annotations

import logging
import threading
from typing import IO

from fedplug.node.signs import printable

MAX_LINES = 500
"""Lines of one training that are logged."""

MAX_LINE = 1000
"""Characters of one line that are logged."""

_READ = 65_536

_log = logging.getLogger("fedplug.node.plan")


class PlanOutput:
    """Reads the output of a worker process to its end, in a thread of its own.

    It goes on reading when it does not log any more: a process whose output nobody reads would stand still.

    Args:
        stream: The end of the pipe; closed at its end.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._begun = 0  # trainings; only `begin` counts them
        self._seen = 0  # those of them that the reading thread, which alone changes this and the next, knows of
        self._left = MAX_LINES
        self._thread = threading.Thread(target=self._read, name="fedplug-plan-output", daemon=True)
        self._thread.start()

    def begin(self, key: str) -> None:
        """A new training begins, and may print as much again."""
        self._begun += 1
        _log.debug("Output of training %s:", key)

    def close(self) -> None:
        """Wait for the rest of the output, but not for children of the plan that escaped and still print."""
        self._thread.join(2.0)

    def _read(self) -> None:
        rest = b""
        with self._stream:
            while data := self._stream.read1(_READ):  # type: ignore[attr-defined]
                *lines, rest = (rest + data).split(b"\n")
                for line in lines[: MAX_LINES + 1]:
                    self._put(line)
                # The rest of an endless line is not kept.
                rest = rest[: 4 * MAX_LINE]
            if rest:
                self._put(rest)

    def _put(self, line: bytes) -> None:
        if self._seen != (begun := self._begun):
            self._seen, self._left = begun, MAX_LINES
        if self._left > 0:
            text = line[: 4 * MAX_LINE].decode("utf-8", "replace").rstrip()
            _log.info("%s", printable(text, MAX_LINE))
        elif self._left == 0:
            _log.warning("The plan prints more than %d lines; the rest is not logged.", MAX_LINES)
        self._left -= 1
