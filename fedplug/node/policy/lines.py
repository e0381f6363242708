"""On which line of a TOML text each key stands. The standard library's parser does not tell.

Each statement is given to that parser by itself, so there is no second grammar here: a statement ends with the first
line up to which it can be parsed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_ENDS = ("]", "}", '"""', "'''")
"""One of these stands in the last line of a statement of several lines."""


def key_lines(text: str) -> dict[str, int]:
    """The line, from 1, of each table and key of a valid TOML text, by dotted key.

    Keys that are no bare words stand between quotes, as in `dotted`.

    Args:
        text: What ``tomllib.loads`` takes.
    """
    found: dict[str, int] = {}
    table: tuple[str, ...] = ()
    pending: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines knows line ends that TOML does not
        if not pending:
            first = number
        pending.append(line)
        if number > first and not any(end in line for end in _ENDS):
            continue  # so that a list of a thousand lines is not parsed a thousand times
        try:
            statement = tomllib.loads("\n".join(pending) + "\n")
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        is_table = "".join(pending).lstrip().startswith("[")
        pending = []
        for path in _paths(statement):
            if is_table:
                table = path
            found.setdefault(dotted(path if is_table else (*table, *path)), first)
    return found


def dotted(path: tuple[str, ...]) -> str:
    """The name of a key: its parts with points between them, quoted where they hold other signs than a bare key."""
    return ".".join(part if part and _is_bare(part) else f'"{part}"' for part in path)


def _is_bare(part: str) -> bool:
    return part.isascii() and all(sign.isalnum() or sign in "-_" for sign in part)


def _paths(value: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All paths into nested tables, the outer ones first; of a header, so, the last is the table itself."""
    for key, inner in value.items():
        path = (*above, key)
        yield path
        if isinstance(inner, Mapping):
            yield from _paths(inner, path)
        elif isinstance(inner, list) and inner and all(isinstance(each, Mapping) for each in inner):
            for each in inner:
                yield from _paths(each, path)
