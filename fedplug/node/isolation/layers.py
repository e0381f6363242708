"""What is to be enforced on a worker process, and what was."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from fedplug.core.errors import RefusedError, StoreError


class Confinement(msgspec.Struct, frozen=True):
    """What a worker process may do.

    Attributes:
        scratch: Folder that it may write into.
        memory: Most bytes of address space; 0: no limit.
        file_size: Most bytes of a file that it writes.
        processes: How many further processes it may have; 0: none.
        threads: How many processor cores it may use; 0: all.
        gpu: Whether it may use a GPU.
        required: Whether it must not run a plan unless all of this is enforced.
    """

    scratch: str
    memory: int = 0
    file_size: int = 2 * 2**30
    processes: int = 0
    threads: int = 0
    gpu: bool = True
    required: bool = False


class Layer(msgspec.Struct, frozen=True):
    """One layer of isolation, after it was tried.

    Attributes:
        name: What it is about, e.g. ``"network"``.
        state: ``"on"``, ``"partly"`` or ``"missing"``.
        text: What is enforced, or why it is not and how to get it.
    """

    name: str
    state: Literal["on", "partly", "missing"]
    text: str


class ForbiddenError(RefusedError, PermissionError):
    """A training did something that the isolation of its process does not allow.

    It is a `PermissionError` too, since libraries that try to write a cache, or to look for a network, know how to go
    on without if they get one.
    """

    def __init__(self, text: str) -> None:
        super().__init__(
            f"The training was stopped from {text}: the node does not allow that.",
            code="policy",
            cure="A training may compute, read its own data set, and write below its scratch folder (tempfile).",
        )


def require_all(layers: list[Layer]) -> None:
    """Refuse to go on if a layer is missing.

    Raises:
        StoreError: One is; all that are missing are named.
    """
    missing = [f"{layer.name}: {layer.text}" for layer in layers if layer.state == "missing"]
    if missing:
        listed = "\n".join(f"  - {text}" for text in missing)
        raise StoreError(
            f"The isolation of trainings that resources.isolation requires is not possible here:\n{listed}",
            cure='Mend that, or set isolation = "best" in node.toml to enforce what this system can.',
        )


def below(path: str, roots: tuple[str, ...]) -> bool:
    """Whether an absolute path is one of ``roots`` or lies below one."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def real(path: str | Path) -> str:
    """The path with all links followed; what does not exist stays as it is."""
    return str(Path(path).resolve())
