"""Whether a write-ahead log of SQLite was damaged, or only cut off by a crash.

SQLite reads a log up to the first frame that is not as it was written, and takes the rest for the torn tail of a
crash. That is right for the transaction that was being written. But a transaction is on the disk before the next one
begins: a bad frame with later transactions behind it was damaged, and what follows it must not vanish in silence.

The format is that of https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
import tempfile
from pathlib import Path

_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # the byte order of the checksums
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MASK = 0xFFFFFFFF


def is_damaged(path: Path) -> bool:
    """Whether the log has lost something that was on the disk for good.

    A log that is not there has not; nor one of which only the last transaction is bad, which no reader can tell from
    one that was being written.

    Args:
        path: The file ``<database>-wal``. No other process writes it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return False
    if len(data) <= _HEADER.size:
        return False  # it is flushed before anything follows it
    magic, version, page, _, *salts, sum1, sum2 = _HEADER.unpack_from(data)
    order = _MAGIC.get(magic, "")
    if not order or version != 3_007_000 or _checksum(order, data[:24], (0, 0)) != (sum1, sum2):
        return any(data)
    bad = committed = False
    sums, size = (sum1, sum2), _FRAME.size + page
    for start in range(_HEADER.size, len(data) - size + 1, size):
        _, commit, *marks, frame1, frame2 = _FRAME.unpack_from(data, start)
        if not bad:
            body = data[start + _FRAME.size : start + size]
            expected = _checksum(order, body, _checksum(order, data[start : start + 8], sums))
            sums = (frame1, frame2)
            bad = marks != salts or expected != sums
        elif marks != salts:
            return False  # left over from before the log was begun anew
        elif committed:
            return True
        committed = bad and (committed or commit != 0)
    return False


def last_readable(database: Path, query: str) -> int:
    """What SQLite finds when it reads a database with a damaged log as if that were only torn.

    It reads a copy, since it would cut the log off.

    Args:
        database: The database; its log lies beside it.
        query: Gives a number; 0 is returned in the place of NULL, or if not even that can be read.

    Raises:
        OSError: There is no room for a copy.
    """
    with tempfile.TemporaryDirectory(prefix="fedplug-journal-") as folder:
        copy = Path(folder) / database.name
        for ending in ("", "-wal"):
            shutil.copy(f"{database}{ending}", f"{copy}{ending}")
        try:
            with contextlib.closing(sqlite3.connect(copy)) as db:
                return int(db.execute(query).fetchone()[0] or 0)
        except (sqlite3.Error, TypeError, ValueError):
            return 0


def _checksum(order: str, data: memoryview, start: tuple[int, int]) -> tuple[int, int]:
    a, b = start
    for first, second in struct.iter_unpack(f"{order}2I", data):
        a = (a + first + b) & _MASK
        b = (b + second + a) & _MASK
    return a, b
