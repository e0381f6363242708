"""The folder of a data set as its type sees it: its files, and what messages may call them.

The names in a folder may be those of patients. Its owner is told them, so that a file can be found; what may travel
to a researcher speaks of numbers instead. `Folder.entry` is the one place that decides.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.paths import open_regular, walk


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
    for_owner: bool = True

    def files(self) -> list[PurePath]:
        """The paths of all files below it, relative to it and sorted; hidden ones are passed over.

        Raises:
            DatasetError: There are links that lead out, devices and the like, or a folder cannot be read.
        """
        try:
            return sorted(PurePath(relative) for relative, _ in walk(self.root))
        except DatasetError as error:
            if self.for_owner:
                inside = error.message.replace(f"{self.root}{os.sep}", "").replace(str(self.root), "its folder")
                raise DatasetError(f"{self.label}: {inside}", cure=error.cure) from None
            raise DatasetError(
                f"The folder of {lower(self.label)} cannot be read, or holds what no data set may.",
                cure="The node's owner sees what it is with: fedplug node dataset check",
            ) from None

    def entry(self, relative: PurePath, number: int) -> str:
        """How messages call a file in it: by name for the owner, else by its number (from 1)."""
        return f"{self.label}: {str(relative)!r}" if self.for_owner else f"{self.label}: file {number}"

    def open(self, relative: PurePath, what: str) -> IO[bytes]:
        """Open a regular file in it for reading, and nothing else that was put in its place.

        Args:
            relative: One of `files`.
            what: How messages call it.

        Raises:
            DatasetError: It is gone, may not be read, is no regular file, or a link that leads out.
        """
        try:
            real = (self.root / relative).resolve(strict=True)
            if not real.is_relative_to(self.root):
                raise DatasetError(f"{what} is a link that leads out of the folder.")
            return os.fdopen(open_regular(real), "rb")
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "there is no such regular file"
            raise DatasetError(f"{what} cannot be opened: {reason}.") from None


def lower(label: str) -> str:
    """A label in the middle of a sentence."""
    return label[:1].lower() + label[1:]
