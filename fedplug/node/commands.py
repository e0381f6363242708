"""Commands that messages tell an owner to type next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DEFAULT_FOLDER = Path("fedplug-node")


def node_command(folder: Path | None, *words: str) -> str:
    """A command for the node in ``folder``, which is named only if it is not where the command looks anyway.

    Args:
        folder: The node's folder; None for a node in memory.
        *words: What follows ``fedplug node``.
    """
    usual = Path(os.environ.get("FEDPLUG_NODE", DEFAULT_FOLDER)).absolute()
    place: list[str] = []
    if folder is not None and folder.absolute() != usual:
        here = Path.cwd()
        inside = folder.absolute().is_relative_to(here) and folder.absolute() != here
        place = ["--folder", str(folder.absolute().relative_to(here) if inside else folder)]
    return shlex.join(["fedplug", "node", *place, *words])
