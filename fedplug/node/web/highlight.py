"""A training plan as coloured lines, alone or against an earlier version.

The colours are for comfort only: every line that was added or removed carries a sign and a word as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from markupsafe import Markup, escape

from fedplug.core.errors import PlanError
from fedplug.node.approval.review import visible

MOST_COMPARED = 5_000
"""Lines of the longest text that is compared with another: a plan made to be slow to compare must not be."""

_MOST_COLOURED = 300_000  # characters; a longer text is shown without colours
_CONTEXT = 4
_NAMES = {"added": ("+", "added"), "removed": ("-", "removed"), "same": ("", ""), "gap": ("", "")}


@dataclass(frozen=True)
class Row:
    """One line of what is shown.

    Attributes:
        kind: ``"same"``, ``"added"``, ``"removed"``, or ``"gap"`` for lines that are left out.
        code: The line, highlighted; of a gap, how many lines it stands for.
        old: Its number in the earlier version; 0 if it is not in it.
        new: Its number in this version; 0 if it is not in it.
    """

    kind: Literal["same", "added", "removed", "gap"]
    code: Markup
    old: int = 0
    new: int = 0

    @property
    def sign(self) -> str:
        """What stands before it: ``+``, ``-`` or nothing."""
        return _NAMES[self.kind][0]

    @property
    def word(self) -> str:
        """The sign for those who hear the page."""
        return _NAMES[self.kind][1]


def code_rows(text: str) -> list[Row]:
    """All lines of a text."""
    return [Row("same", line, number, number) for number, line in enumerate(_lines(text), start=1)]


def diff_rows(old: str, new: str) -> list[Row]:
    """The lines of two texts in which they differ, with some lines around them; empty if they are equal.

    Raises:
        PlanError: They are too long to be compared.
    """
    longest = max(len(_split(old)), len(_split(new)))
    if longest > MOST_COMPARED:
        raise PlanError(
            f"This plan has {longest:,} lines, too many to be compared here.",
            cure="Read it as a whole, or compare it with another tool.",
        )
    before, after = _lines(old), _lines(new)
    # Compared as text and not as HTML: equal lines may be coloured differently inside a long string. The matcher's
    # `autojunk` bounds what thousands of equal lines cost.
    groups = SequenceMatcher(None, _split(old), _split(new)).get_grouped_opcodes(_CONTEXT)
    rows: list[Row] = []
    seen = 0
    for group in groups:
        rows += _gap(group[0][3] - seen)
        for tag, a_from, a_to, b_from, b_to in group:
            if tag == "equal":
                rows += (Row("same", after[b_from + n], a_from + n + 1, b_from + n + 1) for n in range(b_to - b_from))
            else:
                rows += (Row("removed", before[n], old=n + 1) for n in range(a_from, a_to))
                rows += (Row("added", after[n], new=n + 1) for n in range(b_from, b_to))
        seen = group[-1][4]
    if rows:
        rows += _gap(len(after) - seen)
    return rows


def _gap(lines: int) -> Iterator[Row]:
    if lines > 0:
        yield Row("gap", Markup("{} unchanged {}").format(lines, "line" if lines == 1 else "lines"))


def _split(text: str) -> list[str]:
    return text.split("\n")


def _lines(text: str) -> list[Markup]:
    """The lines of a text as HTML, each whole in itself. What Pygments makes of them is escaped."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    # Signs that a screen would obey are spelled out; a carriage return would shift the numbers besides.
    safe = visible(text)
    if len(safe) > _MOST_COLOURED:
        return [escape(line) for line in _split(safe)]
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    lines = str(highlight(safe, lexer, HtmlFormatter(nowrap=True))).split("\n")
    expected = len(_split(text))
    return [Markup(line) for line in [*lines, ""][:expected]]  # noqa: S704 - escaped by Pygments
