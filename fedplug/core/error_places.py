"""Where in somebody's own code an error has come up: the part of a traceback that its reader can change."""

from __future__ import annotations

import linecache
import sys
import sysconfig
import traceback
from types import FrameType
from typing import NamedTuple

_LIBRARIES = tuple(path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib"))


class _Place(NamedTuple):
    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.file}"


def place_of(error: BaseException) -> str:
    """Where ``error`` was raised: the last line that is neither FedPlug's nor a library's, as text."""
    frames = _frames(error)
    own = [each for each in frames if not _is_ours(each[0]) and not _is_library(each[0])]
    foreign = [each for each in frames if not _is_ours(each[0])]
    chosen = (own or foreign or frames)[-1:]
    return str(_place(*chosen[0])) if chosen else "not known"


def short_traceback(error: BaseException, message: str, cure: str, details: str = "") -> list[str]:
    """An error as a notebook shows it: what, the cure, where it was called from, and what has caused it.

    Args:
        error: The error.
        message: Its text.
        cure: What can be done about it.
        details: What nodes have told; only that it is there is said.
    """
    lines = [f"{type(error).__name__}: {message}", *([cure] if cure else [])]
    frames = _frames(error)
    first = next((place for place, (frame, _) in enumerate(frames) if _is_ours(frame)), len(frames))
    if first:
        lines += _told("In", _place(*frames[first - 1]))
    cause, seen = error.__cause__, {id(error)}
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        text = "".join(traceback.format_exception_only(cause)).strip()
        lines += ["", f"Caused by {text}", f"    at {place_of(cause)}"]
        cause = cause.__cause__
    if details:
        lines += ["", "What the nodes told, with their tracebacks: import sys; print(sys.last_value.details)"]
    lines += ["", "The whole traceback: import sys, traceback; traceback.print_exception(sys.last_value)"]
    return lines


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_tb(error.__traceback__))


def _is_ours(frame: FrameType) -> bool:
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return top == "fedplug" or top.startswith("fedplug_")


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return "site-packages" in file or file.startswith((*_LIBRARIES, "<frozen"))


def _told(how: str, place: _Place) -> list[str]:
    return ["", f"{how} {place}:" if place.code else f"{how} {place}.", *([f"    {place.code}"] if place.code else [])]


def _place(frame: FrameType, line: int) -> _Place:
    file = frame.f_code.co_filename
    code = linecache.getline(file, line, frame.f_globals).strip()
    return _Place(_cell(file) or file, line, code)


def _cell(file: str) -> str:
    """What a notebook calls the cell; empty if it is a file."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    named = getattr(getattr(shell, "compile", None), "format_code_name", None)
    found = named(file) if named is not None else None
    return " ".join(map(str, found)) if isinstance(found, tuple) else ""
