"""The rounds of an experiment in a file that only grows, so that a breakpoint costs no more after a thousand rounds.

``EXPERIMENT_FOLDER/history/rounds.jsonl`` holds a line of JSON for each round. A breakpoint names the bytes that belong
to it: the file, how many, and their SHA-256. What stands behind them belongs to a later breakpoint, or to none (the
process ended between the two), and is never touched: whoever goes on from an earlier place gets a file of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedplug.core.errors import BreakpointError
from fedplug.core.params_file import sync

FOLDER = "history"
"""In the experiment's folder."""


class LogPlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bytes of a log that belong to a breakpoint.

    Attributes:
        file: Name of the file.
        nbytes: How many, from its beginning.
        sha256: Their digest, in hex.
    """

    file: str
    nbytes: int
    sha256: str


class RoundLog:
    """Writes lines, and remembers how far.

    Args:
        folder: The experiment's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._file: Path | None = None
        self._nbytes = 0
        self._digest = hashlib.sha256()

    @classmethod
    def go_on(cls, folder: Path, place: LogPlace) -> tuple[RoundLog, list[bytes]]:
        """The log of a breakpoint, and its lines.

        Raises:
            BreakpointError: The file is not there, or is not what it was.
        """
        log = cls(folder)
        path = log._folder / place.file
        if Path(place.file).name != place.file or not place.file.endswith(".jsonl"):
            raise BreakpointError(f"{place.file!r} cannot be the name of a log of rounds.")
        try:
            with path.open("rb") as file:
                data = file.read(place.nbytes)
                more = bool(file.read(1))
        except OSError as error:
            raise BreakpointError(
                f"The rounds of the breakpoint cannot be read from {path}: {error.strerror or error}.",
                cure="An experiment's folder must be moved as a whole.",
            ) from None
        log._digest.update(data)
        if log._digest.hexdigest() != place.sha256:
            raise BreakpointError(f"The rounds of the breakpoint are damaged: {path} has changed.")
        log._nbytes = len(data)
        if more:
            log._start(data)
        else:
            log._file = path
        return log, data.splitlines()

    def append(self, lines: Sequence[bytes]) -> LogPlace:
        """Add lines, durably, and return the place that a breakpoint names.

        Raises:
            OSError: They cannot be written; what was there stays.
        """
        if self._file is None:
            self._start(b"")
        assert self._file is not None
        data = b"".join(line + b"\n" for line in lines)
        if data:
            with self._file.open("r+b") as file:
                file.truncate(self._nbytes)  # what a full disk has left of an earlier try
                file.seek(self._nbytes)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._nbytes += len(data)
            self._digest.update(data)
        return LogPlace(file=self._file.name, nbytes=self._nbytes, sha256=self._digest.hexdigest())

    def _start(self, data: bytes) -> None:
        """Begin a file that nobody else writes to, with ``data``."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = self._folder / ("rounds.jsonl" if number == 1 else f"rounds-{number}.jsonl")
            try:
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                break
            except FileExistsError:
                number += 1
        sync(self._folder)
        self._file = path
