"""What a user has passed, as an error message shows it: short, and never the data itself."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping

_LONGEST = 60
_SIMPLE = (bool, int, float, complex, str, bytes, os.PathLike, type(None))


def shown(value: object) -> str:
    """``value`` in at most some 60 characters; of mappings, arrays and all that is longer, only what kind it is.

    A wrong argument is often the right value in the wrong place, such as the rows of a data set.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    simple = isinstance(value, _SIMPLE)
    if isinstance(value, list | tuple | set | frozenset):
        simple = all(isinstance(each, _SIMPLE) for each in value)
    try:
        text = reprlib.repr(value) if simple else "" if _holds_data(value) else repr(value)
    except Exception:  # noqa: BLE001 - a __repr__ is anybody's code
        text = ""
    if text and len(text) <= _LONGEST and "\n" not in text:
        return text
    if simple and text:
        return f"{text[: _LONGEST - 3]}... ({type(value).__name__})"
    name = "array" if type(value).__name__ == "ndarray" else type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _holds_data(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple | set | frozenset) or hasattr(value, "__array__")
