"""What is said of a journal that is damaged, or cannot be written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedplug.core.errors import DiskFullError, JournalError, StoreError

# What SQLite says of a file whose pages, or whose description of the tables, are not as they were written.
_DAMAGES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT})


def journal_error(path: Path, error: sqlite3.Error) -> StoreError:
    """The error of ours for one of SQLite.

    Args:
        path: The journal.
        error: What SQLite raised.
    """
    if isinstance(error, sqlite3.ProgrammingError):
        return StoreError(f"The journal {path} has been closed.")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(
            f"The disk is full: the journal {path} cannot be written.", cure="Free some disk space; nothing is lost."
        )
    if code in _DAMAGES:
        return damaged(path, str(error))
    return StoreError(
        f"The journal {path} cannot be used: {error}.", cure="Check the disk, and that this user may write the folder."
    )


def damaged(path: Path, what: str, record: int = 0) -> JournalError:
    """The error for a journal that is not as it was written.

    Args:
        path: The journal.
        what: What is wrong, with a small letter and without a full stop.
        record: Number of the first record that is not as it was; 0 if it is not about one.
    """
    return JournalError(
        f"The journal {path} is damaged: {what}.",
        record=record,
        cure="Restore it from a back-up, or move it away: what it says of work under way is lost then.",
    )
