"""Where data may lie: below the folders that the owner allowed, and never a device, a pipe or a link that leads out.

Messages name paths, so they are for owners. What travels to a researcher is made in `fedplug.node.datasets.freshness`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fedplug.core.errors import DatasetError, UsageError

MAX_FILES = 2_000_000
"""Most files of one data set."""

Takes = Literal["file", "folder", "both"]

_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def real_path(path: str | Path, roots: Sequence[Path] = ()) -> Path:
    """The absolute path without links, if it lies below one of ``roots``.

    Args:
        path: As the owner wrote it; ``~`` is their home.
        roots: The folders below which data must lie; none: no such limit.

    Raises:
        UsageError: There is nothing, or it lies elsewhere when all links are followed.
        DatasetError: The system does not let us look.
    """
    if "\0" in str(path):
        raise UsageError("A path cannot hold a null character.", cure="Check the path.")
    try:
        given = Path(path).expanduser().absolute()
        real = given.resolve()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise DatasetError(f"{path} cannot be looked at: {reason}.") from None
    if not is_below(real, roots):
        through = f", where {given} leads," if real != Path(os.path.normpath(given)) else ""
        raise UsageError(
            f"{real}{through} does not lie below a folder that this node may use.",
            cure=f"Allowed: {', '.join(map(str, roots))}. Others are allowed in node.toml: roots, under [data].",
        )
    return real


def is_below(real: Path, roots: Sequence[Path]) -> bool:
    """Whether a path without links lies in one of ``roots``, or there are none."""
    # Asked for each task, so by names: a `Path` for each step of the way takes ten times as long.
    return not roots or any(_is_in(os.fspath(real), os.path.realpath(os.path.expanduser(root))) for root in roots)  # noqa: PTH111 - as above


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)


def check_source(path: Path, takes: Takes) -> os.stat_result:
    """Check that a path leads to what a type takes, which this user may read.

    Args:
        path: A path without links.
        takes: What the type takes.

    Returns:
        What the file system says of it.

    Raises:
        UsageError: There is nothing.
        DatasetError: It is something else, may not be read, or is an empty file.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.", cure="Check the path.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be looked at: {error.strerror}.") from None
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        what = next((words for test, words in _KINDS if test(status.st_mode)), "not a regular file")
        raise DatasetError(f"{path} is {what}.", cure="Only files and folders can be data sets.")
    if is_folder and takes == "file":
        raise DatasetError(f"{path} is a folder.", cure="Name a file, or a --type that takes folders.")
    if not is_folder and takes == "folder":
        raise DatasetError(f"{path} is a file.", cure="Name the folder that holds the data.")
    if not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):
        raise DatasetError(
            f"{path} may not be read by this user.", cure="Allow it (chmod, chgrp), or run the node as its owner."
        )
    if not is_folder and not status.st_size:
        raise DatasetError(f"{path} is empty.")
    return status


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder, by its path inside it, sorted; hidden ones (``.name``) are passed over.

    Links are followed where they stay inside the folder; to a folder they are not, as their files come anyway.

    Raises:
        DatasetError: There is a link that leads out or nowhere, or something that is neither file nor folder; or a
            folder cannot be read; or there are more than `MAX_FILES`.
    """
    count = 0
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(here) as found:
                entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise DatasetError(f"{here} cannot be read: {error.strerror}.") from None
        folders = []
        for entry in entries:
            status = _inside(entry, folder)
            if stat.S_ISDIR(status.st_mode):
                if not entry.is_symlink():
                    folders.append(Path(entry.path))
                continue
            count += 1
            if count > MAX_FILES:
                raise DatasetError(f"{folder} holds more than {MAX_FILES:,} files.", cure="Split the data set.")
            yield os.path.relpath(entry.path, folder), status
        pending += reversed(folders)


def _inside(entry: os.DirEntry[str], folder: Path) -> os.stat_result:
    """What an entry is, or leads to."""
    try:
        if entry.is_symlink() and not Path(entry.path).resolve(strict=True).is_relative_to(folder):
            raise DatasetError(
                f"{entry.path} is a link that leads out of {folder}.",
                cure="Copy what it points to into the folder, or add the folder that it points to.",
            )
        status = entry.stat()
    except (OSError, RuntimeError):
        raise DatasetError(f"{entry.path} is a link that leads nowhere.", cure="Take it away.") from None
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        what = next((words for test, words in _KINDS if test(status.st_mode)), "neither a file nor a folder")
        raise DatasetError(
            f"{entry.path} is {what}.", cure="Devices, pipes and sockets are never opened: take it away."
        )
    return status


def open_regular(path: Path) -> int:
    """Open a regular file for reading, and nothing that was put in its place: neither a link nor a pipe.

    Args:
        path: A path without links.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OSError: It cannot be opened (a link: ``ELOOP``), or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return descriptor
