"""Disks of the simulator: what is written is safe once `flush` has returned; before that a power cut decides."""

from __future__ import annotations

import random
from typing import Any


class PowerCut(BaseException):
    """A process ends here and now: no error, which somebody might handle.

    Args:
        who: ``"researcher"``, or the id of a node.
        point: Where: a name of `fedplug.core.crash_points.POINTS`.
    """

    def __init__(self, who: str, point: str) -> None:
        super().__init__(f"{who} at {point}")
        self.who = who
        self.point = point


class SimulatedDisk:
    """The disk of one process: a journal, to which records are appended, and files."""

    def __init__(self) -> None:
        self.records: list[tuple[Any, ...]] = []
        self._safe = 0
        self._files: dict[Any, Any] = {}
        self._pending: list[tuple[Any, Any]] = []

    @property
    def files(self) -> dict[Any, Any]:
        """The files by name, as the process that writes them sees them."""
        files = dict(self._files)
        for name, content in self._pending:
            _put(files, name, content)
        return files

    def append(self, *record: Any) -> None:
        """Add a record to the journal."""
        self.records.append(record)

    def write(self, name: Any, content: Any) -> None:
        """Write a file; None removes it."""
        self._pending.append((name, content))

    def flush(self) -> None:
        """Wait until everything is safe."""
        self._safe = len(self.records)
        self._files, self._pending = self.files, []

    def cut(self, rng: random.Random) -> None:
        """The power was cut: of what was not flushed, the records up to some place and any of the files are there."""
        del self.records[rng.randint(self._safe, len(self.records)) :]
        for name, content in self._pending:
            if rng.random() < 0.5:
                _put(self._files, name, content)
        self._pending = []
        self._safe = len(self.records)


def _put(files: dict[Any, Any], name: Any, content: Any) -> None:
    if content is None:
        files.pop(name, None)
    else:
        files[name] = content
