"""What counts as a number where a user gives one: Python's own, and no truth value."""

from __future__ import annotations

from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number and not a truth value; NaN and infinities are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object, least: int | None = None) -> TypeGuard[int]:
    """Whether ``value`` is an integer and not a truth value, and no less than ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)
