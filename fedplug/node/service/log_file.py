"""The log of a node in its folder: written while it runs, in a few files that never grow, and read by its owner.

What a training prints becomes part of it, so nothing in it may look like a line of the node's own, or be obeyed by a
terminal: lines that follow the first of a message are indented, and control characters are written as escapes.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.node.approval.review import visible
from fedplug.node.commands import node_command

LOG_FOLDER = "logs"
LOG_FILE = "node.log"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""What ``--log-level`` and ``--level`` can say."""

_MOST_BYTES = 4 * 2**20
_KEPT = 5
_LOOK = 0.2
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


def level_number(name: str) -> int:
    """The number of a level.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name.lower() not in LEVELS:
        raise UnknownNameError("log level", name, LEVELS)
    return LEVELS[name.lower()]


class LineFormatter(logging.Formatter):
    """One message, one head: what follows its first line is indented, and nothing in it is obeyed by a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The text of a message."""
        return visible(super().format(record)).replace("\n", "\n    ")


class LogFile(RotatingFileHandler):
    """The log of a node in its folder; only its owner may read it.

    Nothing is made before the first message. A disk that is full costs messages here, which are on standard error as
    well, and nothing else.

    Args:
        folder: The node's folder.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOG_FOLDER / LOG_FILE
        super().__init__(path, maxBytes=_MOST_BYTES, backupCount=_KEPT, encoding="utf-8", delay=True)
        self.setFormatter(LineFormatter())
        self._broken = False

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(mode=0o700, exist_ok=True)
        return open(
            self.baseFilename, "a", encoding=self.encoding, errors="backslashreplace",
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )  # fmt: skip

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say once that messages are lost."""
        if not self._broken:
            self._broken = True
            sys.stderr.write(f"The log file {self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")


def start_logging(folder: Path, level: int) -> None:
    """Write the messages of this process to standard error and into the node's folder.

    Args:
        folder: The node's folder.
        level: The least that is written.
    """
    screen = logging.StreamHandler()
    screen.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[screen, LogFile(folder)])


def read_log(folder: Path, number: int, level: int = logging.DEBUG, *, follow: bool = False) -> Iterator[str]:
    """The last messages of a node, line by line.

    Args:
        folder: The node's folder.
        number: How many messages.
        level: The least that is shown.
        follow: Whether to go on with what is written from now on, for ever.

    Raises:
        UsageError: There is no log.
    """
    path, chosen = folder / LOG_FOLDER / LOG_FILE, _Filter(level)
    file = _opened(path, folder)
    try:
        lines = [line for line in (*_older(path), *file) if chosen(line)]
        yield from _last(lines, number)
        while follow:
            if line := _whole_line(file):
                if chosen(line):
                    yield line
            elif _was_replaced(file, path):
                yield from filter(chosen, file)  # what was written after the look above, and before it was replaced
                file.close()
                file = _opened(path, folder)
            else:
                time.sleep(_LOOK)
    finally:
        file.close()


def _opened(path: Path, folder: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UsageError(
            f"There is no log in {path.parent}: no node has been started there.",
            cure=f"Start it: {node_command(folder, 'start')}",
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _older(path: Path) -> Iterator[str]:
    """The lines of the files that came before, the oldest first."""
    for count in range(_KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{count}")
        if older.exists():
            with older.open(encoding="utf-8", errors="replace") as file:
                yield from file


def _last(lines: Sequence[str], number: int) -> Sequence[str]:
    """The lines of the last messages."""
    heads = [place for place, line in enumerate(lines) if _HEAD.match(line)]
    return lines[heads[-number] :] if 0 < number <= len(heads) else lines if number else []


def _whole_line(file: TextIO) -> str:
    """The next line; empty if there is none yet, or only its beginning."""
    place = file.tell()
    line = file.readline()
    if line and not line.endswith("\n"):
        file.seek(place)
        return ""
    return line


def _was_replaced(file: TextIO, path: Path) -> bool:
    """Whether the log goes on in another file."""
    try:
        now = path.stat()
    except OSError:
        return False  # between the two renamings
    return now.st_ino != os.fstat(file.fileno()).st_ino


class _Filter:
    """Whether a line belongs to a message of at least this level."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._shown = True

    def __call__(self, line: str) -> bool:
        head = _HEAD.match(line)
        if head:
            self._shown = logging.getLevelNamesMapping()[head[1]] >= self._level
        return self._shown
