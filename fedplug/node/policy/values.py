"""What the values of ``node.toml`` may be: one function per kind, which returns it or says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedplug.core.numbers import is_number, is_whole
from fedplug.node.policy.schema import Range

Reader = Callable[[Any], Any]
"""Turns a plain value into one of the schema; raises `ValueError` with what is wrong, to follow the key."""

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
          "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
_SECONDS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60,
            "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400}  # fmt: skip


def flag(value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004 - one kind of error for all
    return value


def choice(*options: str) -> Reader:
    """One of some words."""

    def read(value: Any) -> str:
        if value not in options or not isinstance(value, str):
            hint = " (in quotation marks)" if isinstance(value, bool) else ""
            raise ValueError(f"must be {' or '.join(map(repr, options))}{hint}, not {value!r}")
        return value

    return read


def whole(low: int) -> Reader:
    """A whole number of at least ``low``."""

    def read(value: Any) -> int:
        if not is_whole(value, low):
            raise ValueError(f"must be a whole number of at least {low}, not {value!r}")
        return int(value)

    return read


def number(above: float, below: float | None = None) -> Reader:
    """A number greater than ``above``, and less than ``below`` if that is given."""

    def read(value: Any) -> float:
        if not is_number(value) or not value > above or (below is not None and not value < below):
            bounds = f"greater than {above:g}" + ("" if below is None else f" and less than {below:g}")
            raise ValueError(f"must be a number {bounds}, not {value!r}")
        return float(value)

    return read


def names(value: Any) -> tuple[str, ...]:
    """A list of words."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ValueError(f'must be a list of words such as ["torch", "numpy"], not {value!r}')
    return tuple(dict.fromkeys(each.strip() for each in value))


def folders(value: Any) -> tuple[Path, ...]:
    """A list of absolute folders."""
    names(value)
    found = tuple(Path(each).expanduser() for each in dict.fromkeys(value))
    for folder in found:
        if not folder.is_absolute():
            raise ValueError(f"must name folders from the root on, such as '/srv/data'; {str(folder)!r} does not")
    return found


def size(value: Any) -> int:
    """A number of bytes, written as ``"8 GiB"``."""
    return int(_amount(value, _BYTES, '"512 MiB" or "8 GiB"'))


def seconds(value: Any) -> float:
    """A time, written as ``"10 min"``."""
    found = _amount(value, _SECONDS, '"30 s", "10 min" or "2 h"')
    if not found:
        raise ValueError("must be longer than nothing")
    return found


def argument_ranges(value: Any) -> Mapping[str, Range]:
    """A table from names of training arguments to what they may be."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a table such as {{ batch_size = {{ min = 8 }} }}, not {value!r}")  # noqa: TRY004
    found: dict[str, Range] = {}
    for name, allowed in value.items():
        if isinstance(allowed, Mapping) and not allowed.keys() & {"min", "max"} and allowed:
            found |= {f"{name}.{inner}": each for inner, each in argument_ranges(allowed).items()}
        else:
            found[name] = _range(name, allowed)
    return found


def _range(name: str, value: Any) -> Range:
    if isinstance(value, Mapping):
        unknown = value.keys() - {"min", "max"}
        if unknown or not value or not all(map(is_number, value.values())):
            raise ValueError(f"{name}: a range is written as {{ min = 8, max = 512 }}, or with one of the two")
        low, high = value.get("min"), value.get("max")
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name}: nothing is at least {low:g} and at most {high:g}")
        return Range(low, high)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(each, bool | int | float | str) for each in listed):
        raise ValueError(f"{name}: give a range {{ min = 8, max = 512 }}, a value, or a list of values")
    return Range(only=tuple(listed))


def _amount(value: Any, units: Mapping[str, int], example: str) -> float:
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(f"must be written as {example}, not {value!r}")
    return float(match[1]) * units[match[2].lower()]
