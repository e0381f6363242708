"""Words and figures for people, made safe.

Names, reasons and log lines come from other machines. Before any of them reaches a terminal it goes through
`one_line` or `block`, which leave no character that a terminal would obey instead of show.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import IO

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 2_000
_LARGE = 100_000
_BOUND = "_error_bound"


def one_line(text: str, limit: int = _LONGEST) -> str:
    """``text`` on one line of at most ``limit`` characters, without control and direction characters.

    Line breaks become single spaces; every other character that has no face becomes U+FFFD.
    """
    short = text[: limit + 1]
    flat = "".join(" " if char in "\n\r\t\v\f" else _visible(char) for char in short)
    return flat[: limit - 1] + "…" if len(flat) > limit else flat


def block(text: str, limit: int = 10 * _LONGEST) -> str:
    """``text`` with its line breaks, each line made safe as in `one_line`."""
    return "\n".join(one_line(line) for line in text[:limit].split("\n")) if text else ""


def number(value: float | None) -> str:
    """A loss or a metric in four significant digits; ``-`` where there is none."""
    return "-" if value is None else f"{float(value):.4g}"


def count(value: float | None) -> str:
    """A quantity in at most six characters, e.g. ``980``, ``12.3k``, ``4.1M``; ``-`` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.1f}{unit}" if abs(value) < size * 1e4 else f"{value / size:.0e}{unit}"
    return f"{value:.0f}" if abs(value) >= 10 or float(value).is_integer() else f"{value:.1f}"


def size(value: float | None) -> str:
    """Bytes in decimal units, e.g. ``1.2 MB``; ``-`` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``1:05`` (minutes) or ``1:02:03`` (hours); ``-`` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= _LARGE:
        return "-"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plural(amount: int, noun: str) -> str:
    """``1 round``, ``2 rounds``."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def is_bound(name: str) -> bool:
    """Whether a metric only says how exact another one is, such as ``test_global_auc_error_bound``."""
    return name.endswith(_BOUND)


def metric_names(metrics: Mapping[str, float]) -> list[str]:
    """The names in the order people look for them: the loss, then the others by alphabet; no error bounds."""
    return sorted((name for name in metrics if not is_bound(name)), key=lambda name: (name != "loss", name))


def metrics_line(metrics: Mapping[str, float], limit: int = 6) -> str:
    """``loss 0.41, accuracy 0.93``: at most ``limit`` metrics, and how many more there are."""
    names = metric_names(metrics)
    told = [f"{one_line(name, 40)} {number(metrics[name])}" for name in names[:limit]]
    left = len(names) - limit
    return ", ".join(told) + (f" and {left} more" if left > 0 else "")


def put(stream: IO[str] | None, text: str) -> None:
    """Write ``text`` and a line break, and flush. A stream that lacks a character gets its escape instead."""
    if stream is None:  # a program without a console (pythonw) has no standard streams
        return
    encoding = getattr(stream, "encoding", None)
    if encoding:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text + "\n")
    stream.flush()


def _visible(char: str) -> str:
    # C*: control, format (bidirectional overrides), surrogate, private use, unassigned. Zl, Zp: line breaks.
    category = unicodedata.category(char)
    return REPLACEMENT if category[0] == "C" or category in ("Zl", "Zp") else char
