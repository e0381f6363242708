"""Walking a folder whose content nobody vouches for: links that lead out and special files are refused.

The names in a folder may be those of patients. Its owner is told them, so that a file can be found; what may travel
to a researcher speaks of numbers instead. `Folder.entry` is the one place that decides.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedplug.core.errors import DatasetError

MAX_FILES = 2_000_000
"""Most entries of one data set's folder."""


@dataclass(frozen=True)
class Folder:
    """A folder that holds a data set.

    Attributes:
        root: The folder, without links in its path.
        label: How messages call the data set, e.g. ``"Data set 'scans'"``.
        for_owner: Whether messages go to the owner of the files, and so may say their names.
    """

    root: Path
    label: str
    for_owner: bool

    @classmethod
    def at(cls, path: Path, label: str, *, for_owner: bool) -> Folder:
        """The folder at ``path``.

        Raises:
            DatasetError: It is not there, or no folder.
        """
        try:
            root = path.resolve(strict=True)
            is_folder = stat.S_ISDIR(root.stat().st_mode)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is a link to itself"
            raise DatasetError(f"The folder of {_lower(label)} cannot be opened: {reason}.") from None
        if not is_folder:
            raise DatasetError(f"{label} is a single file, but its type wants a folder.")
        return cls(root, label, for_owner)

    def entry(self, path: Path, number: int) -> str:
        """How messages call a file or folder in it: by name for the owner, else by its number (from 1)."""
        if self.for_owner:
            return f"{self.label}: {str(path.relative_to(self.root))!r}"
        return f"{self.label}: file {number}"

    def children(self, of: Path | None = None) -> tuple[list[Path], list[Path]]:
        """Folders and files in one folder, each sorted by name; hidden ones (``.name``) are passed over.

        Args:
            of: A folder inside this one; this one by default.

        Raises:
            DatasetError: Something there is a link that leads out, or neither a file nor a folder; or it cannot be
                read.
        """
        folders, files = [], []
        try:
            with os.scandir(of or self.root) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise DatasetError(f"A folder of {_lower(self.label)} cannot be read: {error.strerror}.") from None
        if len(entries) > MAX_FILES:
            raise DatasetError(f"{self.label} holds more than {MAX_FILES:,} files in one folder.")
        for number, entry in enumerate(entries, 1):
            path = Path(entry.path)
            try:
                if entry.is_symlink():
                    self._check_inside(path, number)
                mode = entry.stat().st_mode
            except (OSError, RuntimeError):
                raise DatasetError(f"{self.entry(path, number)} is a link that leads nowhere.") from None
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif stat.S_ISREG(mode):
                files.append(path)
            else:
                raise DatasetError(
                    f"{self.entry(path, number)} is neither a file nor a folder.",
                    cure="Devices, pipes and sockets are never opened; take it away.",
                )
        return folders, files

    def inner_folders(self) -> list[Path]:
        """The folders in it, of which there must be at least one.

        Raises:
            DatasetError: There is none, or as `children`.
        """
        folders, _ = self.children()
        if not folders:
            raise DatasetError(f"{self.label} is a folder without folders in it.")
        return folders

    def _check_inside(self, path: Path, number: int) -> None:
        if not path.resolve(strict=True).is_relative_to(self.root):
            raise DatasetError(
                f"{self.entry(path, number)} is a link that leads out of the folder.",
                cure="Copy what it points to into the folder, or add the folder that it points to.",
            )


def open_file(path: Path, what: str) -> IO[bytes]:
    """Open a regular file for reading, and nothing else: neither a link nor a pipe that was put in its place.

    Args:
        path: The file; its folder has been walked before.
        what: How messages call it.

    Raises:
        DatasetError: It is gone, may not be read, or is no regular file.
    """
    try:
        descriptor = os.open(path.resolve(strict=True), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is a link to itself"
        raise DatasetError(f"{what} cannot be opened: {reason}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DatasetError(f"{what} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:]
