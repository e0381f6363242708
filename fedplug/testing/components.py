"""What ``fedplug plugins check`` tests of a component: that it loads, is what it claims to be, and obeys its laws."""

from __future__ import annotations

import importlib
import inspect

from fedplug.core.components import Kind, Offer, label
from fedplug.testing.registry import CheckResult

_BASES: dict[Kind, str] = {
    "training_plan": "fedplug.core.training_plan:TrainingPlan",
    "aggregator": "fedplug.core.aggregator:Aggregator",
    "strategy": "fedplug.core.strategy:Strategy",
    "data_manager": "fedplug.core.data:BatchSource",
    "transport": "fedplug.core.transport:Transport",
    "metric": "fedplug.core.metrics:Metric",
}

_LOADS = "The target can be imported, and is a class of its kind."


def check_offer(offer: Offer) -> list[CheckResult]:
    """Test one component.

    An aggregator is tested against the laws that its tags claim, if it can be made without arguments.
    """
    try:
        target = offer.load()
    except Exception as error:  # noqa: BLE001 - the report is the point, whatever a stranger's module raises
        return [CheckResult("loads", "fail", _LOADS, str(error))]
    module, _, name = _BASES[offer.kind].partition(":")
    base = getattr(importlib.import_module(module), name)
    if not (isinstance(target, type) and issubclass(target, base)):
        reason = f"A {label(offer.kind)} must be a class derived from {name}, but {target!r} is not."
        return [CheckResult("loads", "fail", _LOADS, reason)]
    loads = CheckResult("loads", "pass", _LOADS)
    if offer.kind != "aggregator":
        return [loads]
    from fedplug.testing.aggregator_checks import AGGREGATOR_CHECKS, check_aggregator

    if inspect.isabstract(target):
        missing = ", ".join(sorted(vars(target)["__abstractmethods__"]))
        return [CheckResult("loads", "fail", _LOADS, f"{target.__name__} lacks {missing}.")]
    try:
        aggregator = target()
    except Exception as error:  # noqa: BLE001 - as above
        reason = f"{target.__name__}() raised {type(error).__name__}: {error}"
        return [loads, *(CheckResult(check.id, "skip", check.law, reason) for check in AGGREGATOR_CHECKS)]
    return [loads, *check_aggregator(aggregator, on_fail="report")]
