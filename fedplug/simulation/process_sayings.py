"""What worker processes say besides results, told as if there was one: in the order of the tasks, and once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from fedplug.simulation.engines import Emit
from fedplug.simulation.process_messages import Output, Remark, Sign


class Sayings:
    """Signs of progress and what plans print wait for the turn of their task; lines of the log do not."""

    def __init__(self) -> None:
        self._held: dict[int, list[Sign | Output]] = {}
        self._told: dict[str, set[int]] = {}  # lines of the log → workers that have said them
        self._awaited = 0
        self._emit: Emit | None = None

    def begin(self, number: int, emit: Emit) -> None:
        """It is the turn of a task; tells what is there already."""
        self._awaited, self._emit = number, emit
        for each in (0, number):
            for message in self._held.pop(each, ()):
                self._tell(message)

    def end(self) -> None:
        """It is nobody's turn."""
        self._awaited, self._emit = 0, None

    def take(self, number: int, said: Sequence[Sign | Output]) -> None:
        """Tell it, or keep it until its task's turn. What comes without a task goes with the one whose turn it is."""
        if self._emit is not None and number in (0, self._awaited):
            for message in said:
                self._tell(message)
        else:
            self._held.setdefault(number, []).extend(said)

    def forget(self, number: int) -> None:
        """What a task has said is of no interest any more."""
        self._held.pop(number, None)

    def remark(self, worker: int, remark: Remark) -> None:
        """Log a line, once for all workers that say the same."""
        told = self._told.get(remark.text)
        if told is None or worker in told:
            self._told[remark.text] = {worker}
            logging.getLogger(remark.logger).log(remark.level, "%s", remark.text)
        else:
            told.add(worker)

    def _tell(self, message: Sign | Output) -> None:
        if isinstance(message, Output):
            (sys.stderr if message.error else sys.stdout).write(message.text)
        elif self._emit is not None and (sign := message.progress or message.line) is not None:
            self._emit(sign)
