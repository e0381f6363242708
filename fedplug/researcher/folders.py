"""Where experiments keep their files: ``$FEDPLUG_DIR/var/experiments/Experiment_0001``, ``_0002``, ..."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedplug.core.errors import UsageError

DEFAULT_HOME = "~/fedplug"
"""Used where the environment variable ``FEDPLUG_DIR`` is not set."""

_NUMBERED = re.compile(r"Experiment_(\d{4,})")


def home_folder() -> Path:
    """The folder that holds everything of this researcher."""
    return Path(os.environ.get("FEDPLUG_DIR") or DEFAULT_HOME).expanduser().absolute()


def experiments_root() -> Path:
    """The folder that holds all experiments of this researcher."""
    return home_folder() / "var" / "experiments"


def check_folder_name(name: str) -> str:
    """``name``, if it can be the name of one folder.

    Raises:
        UsageError: It is empty, a path, or a name that file systems keep for themselves.
    """
    if not name or name in (".", "..") or re.search(r'[/\\\x00-\x1f:*?"<>|]', name):
        raise UsageError(
            f"{name!r} cannot be the name of an experiment's folder.",
            cure="Use a plain name such as 'breast-cancer-01'; set FEDPLUG_DIR to choose where it lies.",
        )
    return name


def make_experiment_folder(name: str | None) -> Path:
    """Create and return an experiment's folder, which only this user may look into: models and updates tell of data.

    Args:
        name: Its name; None for the next free ``Experiment_NNNN``. A folder of that name may exist already; it keeps
            the rights that it has.

    Raises:
        UsageError: It cannot be created.
    """
    root = experiments_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            folder = root / check_folder_name(name)
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder
        numbers = [int(match[1]) for entry in root.iterdir() if (match := _NUMBERED.fullmatch(entry.name))]
        number = max(numbers, default=0) + 1
        while True:  # another experiment may take the number between the look and the mkdir
            folder = root / f"Experiment_{number:04d}"
            try:
                folder.mkdir(mode=0o700)
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UsageError(
            f"The folder for experiments cannot be created: {error}.",
            cure="Set the environment variable FEDPLUG_DIR to a folder that you may write to.",
        ) from None


def set_aside(path: Path) -> None:
    """Give what lies at ``path``, if anything, the first free name ``<name>.replaced-1``, ``-2`` and so on."""
    number = 1
    while path.exists():
        aside = path.with_name(f"{path.name}.replaced-{number}")
        if not aside.exists():
            path.rename(aside)
        number += 1
