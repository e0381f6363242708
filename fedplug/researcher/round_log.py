"""The rounds of an experiment in a file that only grows, so that a breakpoint costs no more after a thousand rounds.

``EXPERIMENT_FOLDER/history/rounds.jsonl`` holds a line of JSON for each round. A breakpoint names the bytes that belong
to it: the file, how many, and their SHA-256. What stands behind them belongs to a later breakpoint, or to none (the
process ended between the two), and is never touched: whoever goes on from an earlier place gets a file of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fedplug.core.errors import BreakpointError
from fedplug.core.whole_file import sync

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
    def go_on(cls, folder: Path, place: LogPlace, data: bytes) -> RoundLog:
        """The log of a breakpoint, whose bytes are ``data``."""
        log = cls(folder)
        log._file = log._folder / place.file
        log._nbytes = len(data)
        log._digest.update(data)
        return log

    def append(self, lines: Sequence[bytes], all_lines: Callable[[], Sequence[bytes]]) -> LogPlace:
        """Add lines, durably, and return the place that a breakpoint names.

        Args:
            lines: What is new.
            all_lines: Gives everything, for a file that was removed.

        Raises:
            OSError: They cannot be written; what was there stays.
        """
        if self._file is None:
            self._start(b"")
        elif not self._is_ours():
            # Somebody else has gone on in the file, or it is gone: nothing behind our bytes is ever touched.
            before = self._before()
            self._start(_joined(all_lines()) if before is None else before)
            lines = [] if before is None else lines
        assert self._file is not None
        data = _joined(lines)
        if data:
            with self._file.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._nbytes += len(data)
            self._digest.update(data)
        return LogPlace(file=self._file.name, nbytes=self._nbytes, sha256=self._digest.hexdigest())

    def _is_ours(self) -> bool:
        """Whether the file ends where we have stopped writing."""
        assert self._file is not None
        try:
            return self._file.stat().st_size == self._nbytes
        except OSError:
            return False

    def _before(self) -> bytes | None:
        """What we have written so far; None if it is not there any more."""
        assert self._file is not None
        place = LogPlace(file=self._file.name, nbytes=self._nbytes, sha256=self._digest.hexdigest())
        try:
            return read_lines(self._folder.parent, place)
        except BreakpointError:
            return None

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
        self._nbytes, self._digest = len(data), hashlib.sha256(data)


def read_lines(folder: Path, place: LogPlace) -> bytes:
    """The bytes of a log that belong to a breakpoint.

    Args:
        folder: The experiment's folder.
        place: Where they lie.

    Raises:
        BreakpointError: The file is not there, or is not what it was.
    """
    path = folder / FOLDER / place.file
    if Path(place.file).name != place.file or not place.file.endswith(".jsonl"):
        raise BreakpointError(f"{place.file!r} cannot be the name of a log of rounds.")
    try:
        with path.open("rb") as file:
            data = file.read(max(0, place.nbytes))
    except OSError as error:
        raise BreakpointError(
            f"The rounds of the breakpoint cannot be read from {path}: {error.strerror or error}.",
            cure="An experiment's folder must be moved as a whole.",
        ) from None
    if hashlib.sha256(data).hexdigest() != place.sha256:
        raise BreakpointError(
            f"The rounds of the breakpoint are damaged: {path} has changed.",
            cure="Load an earlier breakpoint: fewer of these bytes belong to it.",
        )
    return data


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
