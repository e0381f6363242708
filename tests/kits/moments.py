"""Lets something happen at any one moment of a piece of Python code: another thread's turn, or Ctrl-C."""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, Self


class Moment:
    """While it lasts, ``happens`` is called once: before the ``number``-th step of this thread in some code.

    Args:
        number: From 0.
        where: The end of the path of the file whose code is meant; or the name of one function in it, behind a colon.
        happens: What happens.
        calls_only: Count only steps behind which Python lets go of its lock and looks for signals: those that follow
            a call. Otherwise each single instruction counts.

    Attributes:
        came: Whether the code has so many steps.
    """

    def __init__(self, number: int, where: str, happens: Callable[[], object], *, calls_only: bool = False) -> None:
        self._left = number
        self._file, _, self._function = where.partition(":")
        self._happens = happens
        self._calls_only = calls_only
        self._last: dict[FrameType, str] = {}
        self.came = False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self._before)
        self._last.clear()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if self.came or not code.co_filename.endswith(self._file) or self._function not in ("", code.co_name):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "opcode" or self.came:
            return self._step
        before, self._last[frame] = self._last.get(frame, ""), _name(frame.f_code, frame.f_lasti)
        if self._calls_only and not before.startswith("CALL"):
            return self._step
        self._left -= 1
        if self._left < 0:
            self.came = True
            sys.settrace(self._before)
            self._happens()
        return self._step


def moments(where: str, happens: Callable[[], object], *, calls_only: bool = False) -> Iterator[Moment]:
    """A `Moment` for each step of the code that runs within it, one after the other, until there are no more."""
    for number in itertools.count():
        moment = Moment(number, where, happens, calls_only=calls_only)
        yield moment
        if not moment.came:
            return


def _name(code: CodeType, at: int) -> str:
    return dis.opname[code.co_code[at]]
