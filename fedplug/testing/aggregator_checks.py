"""The laws of aggregators.

Tolerances are absolute, ``k * eps(dtype) * max|x|`` with x over all inputs: a bare relative tolerance would
forgive everything near zero. Integers must be exact, or within one where a tie may be rounded either way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedplug.core.aggregator import Aggregator
from fedplug.core.params import Array, Params
from fedplug.core.update import Update
from fedplug.testing.cases import BOUND, Case, cases, show
from fedplug.testing.registry import Check, CheckResult, LawBrokenError, run_checks

EPSILONS = 16
"""Rounding errors, in units of eps(dtype) * max|x|, that a law forgives."""


# the laws --------------------------------------------------------------------------------------------------------


def check_layout(aggregator: Aggregator) -> None:
    """The result has the names, shapes and dtypes of the start, and no input is changed."""
    for case in cases(aggregator.tags.minimum_updates):
        inputs = [("start", case.start), *((f"the update of {u.node_id}", u.params) for u in case.updates)]
        before = [bytes(params.buffer) for _, params in inputs]
        result = _aggregate(aggregator, case)
        if not isinstance(result, Params):
            raise LawBrokenError(f"aggregate must return Params, but returned {type(result).__name__}.\n{case}")
        difference = case.start.spec.difference(result.spec)
        if difference:
            raise LawBrokenError(f"The result must be laid out as the start, but {difference}.\n{case}")
        for (name, params), old in zip(inputs, before, strict=True):
            if bytes(params.buffer) != old:
                raise LawBrokenError(f"Inputs are read-only, but {name} was changed to {show(params)}.")


def check_consensus(aggregator: Aggregator) -> None:
    """Where all nodes say the same, that is the result."""
    for case in cases(aggregator.tags.minimum_updates):
        value = case.updates[0].params
        agreed = case.with_updates([replace(update, params=value) for update in case.updates])
        # a rule with a step size of its own need only stay where it is
        trial = agreed if aggregator.tags.convex else replace(agreed, start=value)
        _same(trial, _aggregate(aggregator, trial), value, "All updates are equal, so the result must be they", ties=0)


def check_symmetric(aggregator: Aggregator) -> None:
    """Which node an update came from, and so the order of arrival, does not matter."""
    for case in cases(aggregator.tags.minimum_updates):
        expected = _aggregate(aggregator, case)
        count = len(case.updates)
        for order in (list(range(count))[::-1], [*range(1, count), 0]):
            moved = [
                replace(case.updates[source], node_id=case.updates[place].node_id) for place, source in enumerate(order)
            ]
            words = "Nodes have swapped their updates, so the result must stay"
            _same(case, _aggregate(aggregator, case.with_updates(moved)), expected, words)


def check_weights(aggregator: Aggregator) -> None:
    """Scaling all weights changes nothing, a weight of zero means absent, an integer weight means repetition."""
    for case in cases(aggregator.tags.minimum_updates):
        expected = _aggregate(aggregator, case)
        scaled = case.with_updates([_weighted(update, times=3) for update in case.updates])
        _same(scaled, _aggregate(aggregator, scaled), expected, "All weights were tripled, so the result must stay")

        stranger = replace(case.updates[0], node_id="node-zero", params=_far(case.start), sample_count=0, steps=0)
        joined = case.with_updates([*case.updates, stranger])
        words = "An update of weight zero was added, so the result must stay"
        _same(joined, _aggregate(aggregator, joined), expected, words)

        doubled = case.with_updates([_weighted(case.updates[0], times=2), *case.updates[1:]])
        twice = [case.updates[0], replace(case.updates[0], node_id="node-0-again"), *case.updates[1:]]
        repeated = case.with_updates(twice)
        words = "One update counts double, so the result must be as if it came twice"
        _same(doubled, _aggregate(aggregator, doubled), _aggregate(aggregator, repeated), words)


def check_hull(aggregator: Aggregator) -> None:
    """Each value of the result lies between the smallest and the largest of the updates'."""
    for case in cases(aggregator.tags.minimum_updates):
        result = _aggregate(aggregator, case)
        for name in case.start:
            stack = np.stack([np.asarray(update.params[name], np.float64) for update in case.updates])
            low, high = stack.min(axis=0), stack.max(axis=0)
            slack = _tolerance(case, name, result[name].dtype, ties=0)
            values = np.asarray(result[name], np.float64)
            outside = ~((values >= low - slack) & (values <= high + slack))
            if outside.any():
                at = np.unravel_index(int(np.argmax(outside)), outside.shape)
                raise LawBrokenError(
                    f"{name}{_index(at)} must lie in [{low[at]!r}, {high[at]!r}], but is {values[at]!r}.\n{case}"
                )


def _check(function: Callable[[Any], None], needs: str = "") -> Check:
    return Check(function.__name__.removeprefix("check_"), str(function.__doc__), function, needs)


AGGREGATOR_CHECKS: tuple[Check, ...] = (
    _check(check_layout),
    _check(check_consensus),
    _check(check_symmetric, "symmetric"),
    _check(check_weights, "weighted"),
    _check(check_hull, "convex"),
)
"""All laws, in the order in which they are tested."""


# running them ------------------------------------------------------------------------------------------------------


def check_aggregator(aggregator: Aggregator, on_fail: Literal["raise", "report"] = "raise") -> list[CheckResult]:
    """Test an aggregator against every law that its tags claim.

    Args:
        aggregator: An instance; it is copied for every trial, so that no state is carried over.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.

    Returns:
        One result per law: ``pass``, ``fail`` or ``skip``.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    return run_checks(AGGREGATOR_CHECKS, aggregator, on_fail=on_fail)


def parametrize_with_checks(aggregators: Iterable[Aggregator]) -> Any:
    """A pytest decorator: one test per aggregator and law.

    The test takes ``component`` and ``check``, and calls ``check(component)``. Laws that an aggregator does not
    claim are left out.
    """
    import pytest

    cells = [
        pytest.param(aggregator, check, id=f"{type(aggregator).__name__}-{check.id}")
        for aggregator in aggregators
        for check in AGGREGATOR_CHECKS
        if not check.not_applicable(aggregator)
    ]
    return pytest.mark.parametrize(("component", "check"), cells)


# helpers -------------------------------------------------------------------------------------------------------------


def _aggregate(aggregator: Aggregator, case: Case) -> Params:
    return copy.deepcopy(aggregator).aggregate(case.start, case.updates, case.ctx)


def _weighted(update: Update, *, times: int) -> Update:
    """``update`` with its weight multiplied, whichever weight the aggregator looks at."""
    return replace(update, sample_count=update.sample_count * times, steps=update.steps * times)


def _far(params: Params) -> Params:
    """Parameters that would show in any result they had a part in."""
    return params.map(lambda array: np.full_like(array, BOUND))


def _tolerance(case: Case, name: str, dtype: np.dtype[Any], *, ties: int) -> float:
    if dtype.kind != "f":
        return float(ties)
    return EPSILONS * float(np.finfo(dtype).eps) * case.largest(name)


def _same(case: Case, result: Params, expected: Params, words: str, *, ties: int = 1) -> None:
    """Check that two results agree; ``ties`` is how far integers may be apart."""
    for name in expected:
        got, wanted = np.asarray(result[name], np.float64), np.asarray(expected[name], np.float64)
        tolerance = _tolerance(case, name, expected[name].dtype, ties=ties)
        wrong: Array = ~(np.abs(got - wanted) <= tolerance)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            raise LawBrokenError(
                f"{words}: {name}{_index(at)} must be {float(wanted[at])!r} within {tolerance:.3g}, "
                f"but is {float(got[at])!r}.\n{case}"
            )


def _index(at: Sequence[Any]) -> str:
    return f"[{', '.join(str(int(place)) for place in at)}]" if at else ""
