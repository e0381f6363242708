"""What ``fedplug plugins check`` tests of a component: that it loads, is what it claims to be, and obeys its laws.

A class that cannot be made without arguments, or that needs data or an address to be tested, says itself what is to be
tested::

    class TrimmedMean(Aggregator):
        @classmethod
        def conformance_cases(cls):
            return [cls(0.1), cls(0.3)]

It returns instances, `Subject` objects (with expected failures, or what nodes send beside the parameters), `PlanCase`
objects for training plans, `TransportCase` objects for transports, and `EngineCase` objects for engines.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fedplug.core.components import Kind, Offer, label
from fedplug.core.errors import UsageError
from fedplug.testing.kinds import base_of, checks_of, kind_of, name_of, subject_of
from fedplug.testing.registry import CheckResult, Profile, Subject, run_checks

METHOD = "conformance_cases"
"""Name of the class method that says what is to be tested."""

_LOADS = "The target can be imported, and is a class of its kind."

_DERIVED: dict[Kind, str] = {
    "training_plan": f"a plan is tested on data: {METHOD}() gives PlanCase(plan_class, data)",
    "transport": f"a transport is tested at an address: {METHOD}() gives TransportCase(make, make_url)",
    "data_manager": f"it is tested with some samples: {METHOD}() gives instances that hold some",
}
"""Kinds that cannot be tested by themselves, and what to do about it."""

_MADE_ANEW: tuple[Kind, ...] = ("transport", "engine")
"""Kinds whose cases hold a function, which may make anything; the laws make one each time."""


def check_offer(offer: Offer, profile: Profile = "quick") -> list[CheckResult]:
    """Test one component against the laws of its kind.

    Args:
        offer: The component.
        profile: ``"quick"`` or ``"full"``.

    Returns:
        One result for each law, and for each instance where there are several.
    """
    try:
        target = offer.load()
    except Exception as error:  # noqa: BLE001 - the report is the point, whatever a stranger's module raises
        return [_loads("fail", str(error))]
    base = base_of(offer.kind)
    if not (isinstance(target, type) and issubclass(target, base)):
        return [_loads("fail", f"A {label(offer.kind)} must be a class derived from {base.__name__}, not {target!r}.")]
    own = getattr(target, METHOD, None)
    if own is None and inspect.isabstract(target) and offer.kind not in _DERIVED:
        missing = ", ".join(sorted(vars(target)["__abstractmethods__"]))
        return [_loads("fail", f"{target.__name__} lacks {missing}.")]
    try:
        subjects = _own_cases(own, target, offer.kind) if own is not None else _made(target, offer.kind)
    except _CannotBeMadeError as error:
        return [_loads("pass"), *(CheckResult(c.id, "skip", c.law, str(error)) for c in checks_of(offer.kind))]
    except Exception as error:  # noqa: BLE001 - as above
        reason = f"{target.__name__}.{METHOD}() is of no use: {type(error).__name__}: {error}"
        return [_loads("fail", reason)]
    results = [_loads("pass")]
    for subject in subjects:
        found = run_checks(checks_of(offer.kind), subject, on_fail="report", profile=profile)
        results += [replace(each, subject=name_of(subject) if len(subjects) > 1 else "") for each in found]
    return results


class _CannotBeMadeError(Exception):
    """There is no instance to test; why, in words."""


def _made(target: type, kind: Kind) -> list[Subject]:
    """One instance, made without arguments."""
    if kind in _DERIVED:
        raise _CannotBeMadeError(_DERIVED[kind])
    try:
        made = target()
        return [Subject(_engine_case(target) if kind == "engine" else made)]
    except Exception as error:  # noqa: BLE001 - as above
        words = f"{target.__name__}() raised {type(error).__name__}: {error}"
        raise _CannotBeMadeError(f"{' '.join(words.split())} ({METHOD}() may give instances)") from None


def _own_cases(method: Any, target: type, kind: Kind) -> list[Subject]:
    given: object = method()
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise UsageError(f"it returned {given!r}.", cure="Return a list of instances.")
    subjects = [subject_of(each) for each in given]
    if not subjects:
        raise UsageError("it returned nothing to test.")
    for subject in subjects:
        component = subject.component
        one = getattr(component, "plan_class", type(component))
        is_held = kind in _MADE_ANEW or issubclass(one, target)
        if kind_of(component) != kind or not is_held:
            raise UsageError(f"it returned {component!r}, which is no {target.__name__}.")
    return subjects


def _engine_case(target: Any) -> Any:
    from fedplug.testing.engine_case import EngineCase

    return EngineCase(target)


def _loads(outcome: Any, reason: str = "") -> CheckResult:
    return CheckResult("loads", outcome, _LOADS, reason)
