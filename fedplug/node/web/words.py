"""How figures and times are written on the pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedplug.node.approval.review import visible

_IDENTITIES = ("dataset_id", "plan", "task", "before", "after")
_WIDE = 100


def shape(lengths: Sequence[int]) -> str:
    """E.g. ``569 x 31``."""
    return " x ".join(f"{length:,}" for length in lengths) or "-"


def size(number: float) -> str:
    """Bytes in a unit that is easy to read, e.g. ``1.4 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def seconds(amount: float) -> str:
    """A length of time, e.g. ``2 min 5 s``."""
    if amount < 10:
        return f"{amount:.1f} s"
    if amount < 60:
        return f"{amount:.0f} s"
    minutes, rest = divmod(round(amount), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(when: str | float) -> str:
    """A time of day of this machine, with its date: ``2026-01-15 09:00:14``."""
    return _local(when).strftime("%Y-%m-%d %H:%M:%S") if when else "-"


def machine_time(when: str | float) -> str:
    """A time as a machine reads it, for ``<time datetime>``."""
    return _local(when).isoformat(timespec="seconds")


def ago(when: str | float) -> str:
    """How long ago, roughly: ``3 min ago``."""
    if not when:
        return "-"
    passed = max(0.0, time.time() - _local(when).timestamp())
    if passed < 10:
        return "just now"
    for limit, unit_seconds, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if passed < limit:
            return f"{passed / unit_seconds:.0f} {unit} ago"
    return f"{passed / 86400:.0f} d ago"


def figure(value: float) -> str:
    """A scalar with four digits."""
    return f"{value:.4g}"


def facts(data: Mapping[str, Any]) -> str:
    """What an entry of the audit log says, in one line; its identities and what is empty are left out."""
    shown = [
        f"{name} {plain(value)}"
        for name, value in data.items()
        if name not in _IDENTITIES and value not in ("", [], {})
    ]
    text = visible(", ".join(shown)).replace("\n", " ")
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"


def plain(value: Any) -> str:
    """A fact in words: lists and tables without the signs of a program."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


def short(digest: str) -> str:
    """The beginning of a hash."""
    return digest[:12]


def _local(when: str | float) -> datetime:
    if isinstance(when, str):
        found = datetime.fromisoformat(when)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone()
    return datetime.fromtimestamp(when).astimezone()


FILTERS: Mapping[str, Callable[..., Any]] = {
    "shape": shape,
    "size": size,
    "seconds": seconds,
    "moment": moment,
    "machine_time": machine_time,
    "ago": ago,
    "figure": figure,
    "facts": facts,
    "plain": plain,
    "short": short,
    "visible": visible,
}
"""Filters of the templates."""
