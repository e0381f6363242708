"""The tables in a page: between ``<!-- table: NAME -->`` and ``<!-- end of table -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
_PLACE = re.compile(r"(?P<start><!-- table: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL)


def places(text: str) -> Iterator[tuple[str, str]]:
    """The names of a page's tables, and what stands there."""
    for match in _PLACE.finditer(text):
        yield match["name"], match[0][len(match["start"]) : -len(match["end"])].strip("\n")


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with its tables made anew.

    Args:
        text: The page.
        tables: What makes each table, by name.

    Raises:
        KeyError: The page has a place for a table that nobody makes.
    """
    return _PLACE.sub(lambda match: f"{match['start']}\n{tables[match['name']]()}\n\n{match['end']}", text)
