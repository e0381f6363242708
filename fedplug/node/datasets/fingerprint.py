"""Fingerprints: whether files are still those that their owner registered.

A *stamp* is what the file system says (size, times, inode), which costs one look per file; a *fingerprint* is the
SHA-256 of the content, which costs reading it. As long as the stamp is the same, the content is not read again.
Whoever may write the files can forge a stamp only as root or by setting back the clock: the time of change of the
inode (``ctime``) is part of it.

A folder of more than `MOST_HASHED` bytes is not read altogether: its fingerprint covers the paths, sizes and times of
its files. A copy of it with other times then counts as changed, which its owner accepts with one command.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.paths import open_regular, walk

MOST_HASHED = 4 * 2**30
"""Bytes of a folder up to which the content of its files is hashed. Single files always are."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Stamp:
    """What the file system says of the files of a data set.

    Attributes:
        text: All of it in one word, to be compared.
        size: Bytes of all files.
        mtime_ns: When the newest of them was changed, in nanoseconds since the epoch.
    """

    text: str
    size: int
    mtime_ns: int


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """The stamp of files and folders, which are neither opened nor read.

    Args:
        paths: Paths without links.

    Raises:
        DatasetError: One of them is gone, no file or folder, or holds what no data set may.
    """
    words, size, newest = [], 0, 0
    for path in paths:
        status = _look(path)
        if stat.S_ISREG(status.st_mode):
            words.append(f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{status.st_ctime_ns}")
            size, newest = size + status.st_size, max(newest, status.st_mtime_ns)
            continue
        digest, count = hashlib.sha256(), 0
        for name, inner in walk(path):
            line = f"{name}\0{inner.st_size}:{inner.st_mtime_ns}:{inner.st_ino}:{inner.st_ctime_ns}\n"
            digest.update(os.fsencode(line))
            size, newest, count = size + inner.st_size, max(newest, inner.st_mtime_ns), count + 1
        words.append(f"{count}:{digest.hexdigest()}")
    return Stamp(";".join(words), size, newest)


def fingerprint_of(paths: Iterable[Path]) -> str:
    """The fingerprint of files and folders, as ``"sha256:..."``.

    Args:
        paths: Paths without links.

    Raises:
        DatasetError: One of them cannot be read.
    """
    whole = hashlib.sha256()
    for path in paths:
        if stat.S_ISREG(_look(path).st_mode):
            whole.update(b"file\0" + _content(path))
            continue
        found = list(walk(path))
        by_content = sum(status.st_size for _, status in found) <= MOST_HASHED
        for name, status in found:
            told = _content((path / name).resolve()) if by_content else str(status.st_mtime_ns).encode()
            whole.update(os.fsencode(name) + f"\0{status.st_size}\0".encode() + told)
    return f"sha256:{whole.hexdigest()}"


def _look(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened: {error.strerror}.") from None


def _content(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(open_regular(path), "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.digest()
