"""Signs of life and failures of a training, as they may be told: bounded in number and size, and without paths.

All of this runs in the supervisor, which plan code cannot reach.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.messages import LogLine, Progress, TaskFailure
from fedplug.node.jobs import MAX_DETAILS

MOST_METRICS = 256
"""Figures, by name, that one training may have."""

MOST_NAME = 200

MOST_LINES = 200
"""Log lines that one training may send to its researcher."""

MOST_LINE = 2000
MOST_TEXT = 64 * 1024
"""Characters of all its lines together."""

MOST_FAILURE = 4000
"""Characters of the sentences that say why it failed."""

BURST, PER_SECOND = 2000, 50
"""Signs of progress that may come at once, and so many more each second."""

_CODE = re.compile(r"[a-z][a-z-]{0,40}")


class SignFilter:
    """Lets signs of life of one training through, bounded in number and size.

    Args:
        hidden: What stands for a path, by path.
        clock: Gives monotonic seconds; for tests.

    Attributes:
        dropped: Signs that were not let through.
    """

    def __init__(self, hidden: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._hidden = hidden
        self._clock = clock
        self._lines = 0
        self._text = 0
        self._full = False
        self._names: set[str] = set()
        self._tokens = float(BURST)
        self._filled = clock()
        self._furthest: dict[str, tuple[int, int, int]] = {}
        self.dropped = 0

    def __call__(self, sign: Progress | LogLine) -> Progress | LogLine | None:
        """What may be passed on of a sign; None if nothing."""
        passed = self._progress(sign) if isinstance(sign, Progress) else self._line(sign)
        self.dropped += passed is None
        return passed

    def is_progress(self, sign: Progress | LogLine | None) -> bool:
        """Whether a sign shows that the training is further than before.

        A batch that begins (None) does, and a count that has grown; to talk is no progress.
        """
        if not isinstance(sign, Progress):
            return sign is None
        if sign.phase not in self._furthest and len(self._furthest) > MOST_METRICS:
            return False
        before, now = self._furthest.get(sign.phase), (sign.epoch, sign.step, sign.samples)
        if before is not None and now <= before:
            return False
        self._furthest[sign.phase] = now
        return True

    def _progress(self, sign: Progress) -> Progress | None:
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * PER_SECOND)
        self._filled = now
        counts = (sign.step, sign.total_steps, sign.epoch, sign.samples)
        sane = all(0 <= count < 2**53 for count in counts) and is_name(sign.phase)
        if self._tokens < 1 or not sane:
            return None
        self._tokens -= 1
        metrics = {name: value for name, value in sign.metrics.items() if self._may_be_named(name)}
        return msgspec.structs.replace(sign, metrics=metrics)

    def _may_be_named(self, name: str) -> bool:
        """Whether this is one of the first names: names that change could carry anything."""
        if name not in self._names and is_name(name) and len(self._names) < MOST_METRICS:
            self._names.add(name)
        return name in self._names

    def _line(self, sign: LogLine) -> LogLine | None:
        if self._full:
            return None
        text = printable(without(sign.text[: 2 * MOST_LINE], self._hidden), MOST_LINE)
        self._lines += 1
        self._text += len(text)
        if self._lines > MOST_LINES or self._text > MOST_TEXT:
            self._full = True
            text = f"The training has more to say than {MOST_LINES} lines or {MOST_TEXT:,} characters; the rest is "
            return msgspec.structs.replace(sign, level="warning", text=text + "not passed on.")
        return msgspec.structs.replace(sign, text=text, level=sign.level[:MOST_NAME])


def presentable(failure: TaskFailure, hidden: Mapping[str, str]) -> TaskFailure:
    """A failure as it may be told: its text comes from the process that ran the plan."""
    return msgspec.structs.replace(
        failure,
        code=failure.code if _CODE.fullmatch(failure.code) else "plan-raised",
        text=printable(without(failure.text[: 2 * MOST_FAILURE], hidden), MOST_FAILURE),
        details=printable(without(failure.details[-2 * MAX_DETAILS :], hidden)[-MAX_DETAILS:], MAX_DETAILS),
    )


def places(dataset: DatasetRecord, scratch: Path | None) -> Mapping[str, str]:
    """What stands for the paths that a plan comes across, by path; the longest first, since some begin others."""
    return _places(dataset.path, scratch, Path.home())


@functools.lru_cache(maxsize=16)
def _places(path: str, scratch: Path | None, home: Path) -> Mapping[str, str]:
    """As `places`. It is asked for each training, and follows every link of these paths."""
    data = Path(path)
    found = {str(data): "<data set>", str(data.resolve()): "<data set>", str(data.parent): "<data>"}
    if scratch is not None:
        found |= {str(scratch): "<scratch>", str(scratch.resolve()): "<scratch>"}
    found |= {sys.prefix: "<python>", sys.base_prefix: "<python>", str(home): "<home>"}
    return MappingProxyType({path: found[path] for path in sorted(found, key=len, reverse=True) if len(path) > 1})


def without(text: str, hidden: Mapping[str, str]) -> str:
    """The text with something else in the place of paths."""
    for path, name in hidden.items():
        text = text.replace(path, name)
    return text


def printable(text: str, most: int) -> str:
    """The text, cut, without what could rewrite a terminal."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text[:most]
    )


def is_name(name: str) -> bool:
    """Whether this can be the name of a figure or an array."""
    return 0 < len(name) <= MOST_NAME and name.isprintable()
