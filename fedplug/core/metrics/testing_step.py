"""What a ``testing_step`` may return, brought into one form: named finite-or-not numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedplug.core.errors import PlanError


def as_metrics(value: Any) -> dict[str, float]:
    """Metrics by name, from a number, a dict of numbers, or a list of numbers.

    A lone number is called ``metric``; those of a list ``metric_1``, ``metric_2`` and so on. Anything that
    ``float`` takes counts as a number, so zero-dimensional arrays and tensors do.

    Raises:
        PlanError: ``value`` is none of these.
    """
    if isinstance(value, Mapping):
        return {str(name): _number(each, f"the metric {name!r}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return {f"metric_{i}": _number(each, f"item {i} of its list") for i, each in enumerate(value, start=1)}
    return {"metric": _number(value, "its value")}


def _number(value: Any, what: str) -> float:
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    kind = "nothing (is a return missing?)" if value is None else f"a {type(value).__name__}"
    raise PlanError(
        f"testing_step must return a number, or a dict or list of numbers; {what} is {kind}.",
        cure='E.g. return {"accuracy": correct / len(target)}.',
    )
