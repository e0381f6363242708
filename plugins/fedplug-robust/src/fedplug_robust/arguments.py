"""What all rules refuse alike: arguments that make no sense, and rounds with too few updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from fedplug.core.errors import NoUpdatesError, RoundError, UsageError
from fedplug.core.params import Params
from fedplug.core.update import Update
from fedplug_robust.order import by_values


def whole_number(rule: str, name: str, value: object, least: int) -> int:
    """``value``, if it is a whole number of at least ``least``.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UsageError(
            f"{name} of {rule} must be a whole number of at least {least}, got {value!r}.",
            cure=f"E.g. {rule}({name}={max(least, 2)}).",
        )
    return int(value)


def positive_number(rule: str, name: str, value: object, example: str) -> float:
    """``value``, if it is a finite number above zero.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise UsageError(
            f"{name} of {rule} must be a finite number above zero, got {value!r}.",
            cure=f"E.g. {rule}({name}={example}).",
        )
    return float(value)


def gathered(rule: str, start: Params, updates: Sequence[Update], least: int, why: str, cure: str) -> list[Update]:
    """The updates of a round, checked, in an order that does not depend on their nodes' names.

    Args:
        rule: How messages call the rule.
        start: The global parameters.
        updates: The updates.
        least: The smallest number that will do.
        why: Where that number comes from, for the message.
        cure: What to do about too few.

    Raises:
        NoUpdatesError: There is none.
        RoundError: There are fewer than ``least``.
        ParamsError: One is laid out otherwise than the global parameters.
    """
    if not updates:
        raise NoUpdatesError(
            f"{rule} has nothing to aggregate: no update arrived.", cure="Check that at least one node replied."
        )
    if len(updates) < least:
        raise RoundError(f"{rule} needs {least} updates or more ({why}), but {len(updates)} arrived.", cure=cure)
    for update in updates:
        update.params.require(start.spec)
    return by_values(updates)
