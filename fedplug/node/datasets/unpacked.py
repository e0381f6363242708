"""The bytes of a file that gzip may have packed, in memory that does not depend on what they claim."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import IO, cast

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array

MAX_RATIO = 1032
"""Deflate never packs better than this (zlib's technical details), so a header that needs more lies."""

_CHUNK = 2**20


class Unpacked:
    """Reads on from the start of a file; a packed one is unpacked chunk by chunk.

    Args:
        file: The open file.
        what: How messages call it.

    Attributes:
        packed: Whether gzip has packed it.
        size: Bytes of the file as it lies on the disk.
        place: How many unpacked bytes have been read.
    """

    def __init__(self, file: IO[bytes], what: str) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.packed = file.read(2) == b"\x1f\x8b"
        self.place = 0
        self._what = what
        file.seek(0)
        self._stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb")) if self.packed else file

    def can_hold(self, nbytes: int) -> bool:
        """Whether the file can have exactly so many unpacked bytes, by its size on the disk alone."""
        return nbytes <= self.size * MAX_RATIO if self.packed else nbytes == self.size

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer at the end.

        Raises:
            DatasetError: The file cannot be read or unpacked.
        """
        parts, missing = [], count
        try:
            while missing and (found := self._stream.read(min(missing, _CHUNK))):
                parts.append(found)
                missing -= len(found)
        except EOFError:
            raise DatasetError(f"{self._what} is cut off: it cannot be unpacked as gzip.") from None
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{self._what} cannot be unpacked as gzip: {error}.") from None
        except OSError as error:
            raise DatasetError(f"{self._what} cannot be read: {error.strerror or 'an error of the disk'}.") from None
        self.place += count - missing
        return b"".join(parts)

    def skip(self, count: int) -> int:
        """Read on, and forget what was read.

        Returns:
            How many bytes there were: fewer than ``count`` at the end.
        """
        start = self.place
        while (missing := count - (self.place - start)) > 0 and self.read(min(missing, _CHUNK)):
            pass
        return self.place - start

    def fill(self, target: Array) -> int:
        """Read into an array of bytes.

        Returns:
            How many bytes there were: fewer than it has at the end.
        """
        done = 0
        while done < target.size and (found := self.read(min(target.size - done, _CHUNK))):
            target[done : done + len(found)] = np.frombuffer(found, np.uint8)
            done += len(found)
        return done
