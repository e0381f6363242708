"""State of components (plain data with `Params` in it) as JSON-like data and a list of `Params`, and back.

JSON has no NaN, no infinity, no bytes and no arrays. Each of these becomes a dict with one key that begins with
``$``; a dict of the user's whose keys begin so is wrapped likewise. So `thaw` gives exactly what `freeze` was given,
but that tuples become lists.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.params import Params

_MAX_DEPTH = 32


def freeze(value: Any, arrays: list[Params], what: str = "the state", depth: int = 0) -> Any:
    """``value`` as JSON-like data; each `Params` in it is appended to ``arrays``, each once.

    Args:
        value: None, bool, int of 64 bits, float, str, bytes, `Params`, and dicts with text as keys, lists and tuples of
            them; NumPy scalars count as numbers.
        arrays: Takes the `Params`.
        what: How an error calls the value.
        depth: How deep ``value`` lies in what was first given.

    Raises:
        UsageError: There is something else in it.
    """
    if isinstance(value, Params):
        known = [index for index, each in enumerate(arrays) if each is value]
        if not known:
            arrays.append(value)
        return {"$params": known[0] if known else len(arrays) - 1}
    value = value.item() if hasattr(value, "dtype") and getattr(value, "shape", None) == () else value
    if value is None or isinstance(value, bool | str):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if depth < _MAX_DEPTH and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        plain = {str(key): freeze(each, arrays, f"{what}[{key!r}]", depth + 1) for key, each in value.items()}
        return {"$dict": plain} if any(key.startswith("$") for key in plain) else plain
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [freeze(each, arrays, f"{what}[{index}]", depth + 1) for index, each in enumerate(value)]
    raise UsageError(
        f"{what} holds a {type(value).__name__}, which cannot be saved.",
        cure="It may hold numbers, text, bytes, Params, and lists and dicts (with text as keys) of them.",
    )


def thaw(value: Any, arrays: Sequence[Params], depth: int = 0) -> Any:
    """What `freeze` was given.

    Raises:
        CodecError: It is not what `freeze` returned.
    """
    if depth > 2 * _MAX_DEPTH:
        raise CodecError("A saved state is nested too deep.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [thaw(each, arrays, depth + 1) for each in value]
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CodecError(f"A saved state holds {type(value).__name__} where plain data should be.")
    special = [key for key in value if key.startswith("$")]
    if not special:
        return {key: thaw(each, arrays, depth + 1) for key, each in value.items()}
    kind, content = special[0], value[special[0]]
    if len(value) == 1:
        if kind == "$params" and isinstance(content, int) and 0 <= content < len(arrays):
            return arrays[content]
        if kind == "$float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if kind == "$dict" and isinstance(content, dict):
            return {key: thaw(each, arrays, depth + 1) for key, each in content.items()}
        if kind == "$bytes" and isinstance(content, str):
            try:
                return base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError):
                pass
    raise CodecError(f"A saved state holds {kind!r}, which means nothing.")
