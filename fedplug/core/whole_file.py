"""Files that are whole or not there at all, whatever ends the process, and stay when the power goes."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path of a draft that takes the place of ``path`` when the block ends, and is removed if it raises.

    Until then ``path`` is what it was before. A process that is killed leaves the draft, ``.<name>.<random>.part``.

    Args:
        path: The file to be.

    Raises:
        OSError: The draft cannot be put on the disk, or in the place of ``path``.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def put_file(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of a file that is whole for whoever looks at it, without waiting for the disk.

    It is for files that are written often and only looked at: the power may take the last ones. A process that is
    killed leaves at most one draft beside the file, ``.<name>.part``, which the next call takes over.

    Args:
        path: The file to be; one process writes it.
        data: What is in it.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    draft.replace(path)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
