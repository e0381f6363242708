"""Looking for files, below the folders that the owner allowed and nowhere else."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedplug.core.errors import DatasetError, UsageError
from fedplug.node.policy.schema import Policy

MOST_ENTRIES = 500
"""Entries of one folder that are shown."""


@dataclass(frozen=True)
class Entry:
    """A file or a folder that is shown.

    Attributes:
        name: Its name.
        path: Its whole path.
        folder: Whether it is a folder.
        size: In bytes; 0 for a folder.
        changed: Time of its last change, in seconds since the epoch.
    """

    name: str
    path: str
    folder: bool
    size: int
    changed: float


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: The folder.
        parent: The folder above, if it may be seen.
        entries: Folders, then files, by name.
        left_out: How many more there are.
    """

    folder: Path
    parent: Path | None
    entries: tuple[Entry, ...]
    left_out: int


def roots_of(policy: Policy) -> tuple[Path, ...]:
    """The folders below which may be looked: those of the rules, or everything if the rules name none."""
    return policy.data.roots or (Path("/"),)


def start_of(policy: Policy) -> Path | None:
    """Where looking begins; None if there are several places to choose from."""
    if not policy.data.roots:
        return Path.home()
    return policy.data.roots[0] if len(policy.data.roots) == 1 else None


def allowed(path: str | Path, roots: Sequence[Path]) -> Path:
    """The real path of a file or folder, if it lies below one of ``roots`` when all links are followed.

    Raises:
        UsageError: It does not, or is not there. The two are told apart only below the roots.
    """
    outside = UsageError(
        f"{path} does not lie below a folder that this node may use.",
        cure="Allowed: " + ", ".join(map(str, roots)) + ". Others are allowed in Settings: roots, under [data].",
    )
    if "\0" in str(path) or not Path(path).is_absolute():
        raise outside
    try:
        real = Path(path).resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise outside from None
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise outside
    if not real.exists():
        raise UsageError(f"There is no file or folder {path}.", cure="It may have been moved: look again.")
    return real


def list_folder(path: str | Path, roots: Sequence[Path]) -> Listing:
    """What a folder holds: its files and folders, without hidden ones, links that lead out, and devices.

    Raises:
        UsageError: It may not be looked at, or is not a folder.
        DatasetError: The system does not let us.
    """
    folder = allowed(path, roots)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", cure="Choose a folder.")
    try:
        found = sorted(folder.iterdir(), key=lambda each: each.name.casefold())
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be looked into: {error.strerror}.",
            cure="Allow it to the user of this node (chmod, chgrp), or choose another folder.",
        ) from None
    entries = [entry for each in found if (entry := _entry(each, roots)) is not None]
    entries.sort(key=lambda entry: not entry.folder)
    above = folder.parent
    parent = above if above != folder and any(above.is_relative_to(root.resolve()) for root in roots) else None
    return Listing(folder, parent, tuple(entries[:MOST_ENTRIES]), max(0, len(entries) - MOST_ENTRIES))


def _entry(path: Path, roots: Sequence[Path]) -> Entry | None:
    if path.name.startswith("."):
        return None
    try:
        if path.is_symlink():
            allowed(path, roots)
        status = path.stat()
    except (OSError, UsageError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return Entry(path.name, str(path), True, 0, status.st_mtime)
    if stat.S_ISREG(status.st_mode):
        return Entry(path.name, str(path), False, status.st_size, status.st_mtime)
    return None
