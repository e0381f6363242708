"""Settings of a method: an attribute of the plan, or an entry of the experiment's ``model_args``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedplug.core.errors import PlanError
from fedplug.core.training_plan import TrainingPlan


def setting(plan: TrainingPlan, name: str) -> Any:
    """``model_args[name]``, or else the plan's attribute."""
    return plan.model_args().get(name, getattr(plan, name))


def number(plan: TrainingPlan, name: str) -> float:
    """A setting that is a finite number from 0 up."""
    value = setting(plan, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise PlanError(f"{name} must be a number >= 0, got {value!r}.")
    return float(value)


def count(plan: TrainingPlan, name: str, low: int = 1, *, optional: bool = False) -> Any:
    """A setting that is a whole number from ``low`` up, or None where that is allowed."""
    value = setting(plan, name)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise PlanError(f"{name} must be a whole number >= {low}{' or None' if optional else ''}, got {value!r}.")
    return value


def arguments(plan: TrainingPlan, name: str) -> dict[str, Any]:
    """A setting that is a dict of arguments."""
    value = setting(plan, name)
    if not isinstance(value, Mapping):
        raise PlanError(f"{name} must be a dict, got {value!r}.")
    return dict(value)


def names(plan: TrainingPlan, name: str) -> tuple[str, ...]:
    """A setting that is a list of names or globs."""
    value = setting(plan, name)
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise PlanError(f"{name} must be a list of names, got {value!r}.")
    return tuple(value)
