"""What a look at a machine, or at a node, came to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from fedplug.core.errors import FedplugError

State = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        area: What it is about, e.g. ``"store"``.
        state: ``"ok"``; ``"warning"``: it works, but deserves a look; ``"problem"``: something does not work.
        text: What was found.
        cure: What to do about it; empty where all is well.
    """

    area: str
    state: State
    text: str
    cure: str = ""


def ok(area: str, text: str) -> Finding:
    """All is well."""
    return Finding(area, "ok", text)


def warning(area: str, text: str, cure: str) -> Finding:
    """It works, but deserves a look."""
    return Finding(area, "warning", text, cure)


def problem(area: str, text: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(area, "problem", text, cure)


def guarded(area: str, found: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of a check; if it fails itself, that is one more, and the other checks go on."""
    try:
        yield from found
    except FedplugError as error:
        yield problem(area, error.message, error.cure)
    except Exception as error:  # noqa: BLE001 - whatever is wrong here, the other checks are wanted all the more
        yield problem(area, f"This could not be looked at: {type(error).__name__}: {error}", "Report this.")
