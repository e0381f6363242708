"""Laws of aggregators: values that are none, and nodes that lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.aggregator import Aggregator
from fedplug.core.params import Params
from fedplug.testing.aggregator_algebra import outside
from fedplug.testing.cases import Case, show
from fedplug.testing.compare import EPSILONS, distance, fresh, quiet
from fedplug.testing.hostile import attacks, fair, places, poisoned, replaced
from fedplug.testing.play import prepared
from fedplug.testing.registry import LawBrokenError, NotApplicableError

_LARGE = (1e3, 3e4)
"""Values that stand for an infinity; half precision can hold them."""


def check_finite(aggregator: Aggregator, case: Case) -> None:
    """A NaN or an infinity is refused, or seen in the result, or of no account: never turned into a number that counts.

    The researcher refuses updates and results that are not finite, so an aggregator need not look for them; but it must
    not hide them either. It may raise, or pass them on. It may also give a finite result, if the size of the value has
    no part in it: an infinity gives what large numbers of its sign give (a median), or the rule withstands hostile
    updates and keeps its promise (`breakdown`).
    """
    case = fair(case) if aggregator.tags.breakdown else case
    for value in (math.nan, math.inf, -math.inf):
        for place in sorted({0, len(case.updates) - 1}):
            bad = _with(case, place, value)
            try:
                result = _only(aggregator, bad)
            except NotApplicableError:
                raise
            except Exception:  # noqa: BLE001, S112 - refused, in the aggregator's own words
                continue
            if not isinstance(result, Params) or case.start.spec.difference(result.spec):
                continue  # the business of another law
            if result.first_non_finite() or _kept(aggregator, bad, {place}, result):
                continue
            if math.isinf(value) and all(
                _only(aggregator, _with(case, place, math.copysign(size, value))) == result for size in _LARGE
            ):
                continue
            raise LawBrokenError(
                f"The update of {case.updates[place].node_id} holds {value!r}, which must be refused or be seen in the "
                f"result, but the result is {show(result)}.\n{bad}"
            )


def check_breakdown(aggregator: Aggregator, case: Case) -> None:
    """As many updates as `withstands` says may hold anything: the result stays within the hull, or the radius.

    With ``"hull"`` each value lies between the smallest and the largest of the honest ones; with ``"ball"`` the result
    is no further than `radius` from their mean. All updates have the same weight.
    """
    count = len(case.updates)
    most = aggregator.withstands(count)
    if not 0 <= most < count:
        raise LawBrokenError(f"withstands({count}) must lie in [0, {count - 1}], but is {most}.")
    for hostile in sorted({0, min(1, most), most}):
        for some in places(count, hostile):
            honest = [each.params for place, each in enumerate(case.updates) if place not in some]
            rng = np.random.default_rng(count)
            tried = attacks(honest, hostile, rng) if hostile else iter([("nobody", [])])
            for words, params in tried:
                attacked = case.with_updates(replaced(case.updates, some, params))
                result = _only(aggregator, attacked, drop=True)
                if problem := _broken(aggregator, attacked, set(some), result):
                    who = f"{hostile} of {count} updates are hostile ({words})" if hostile else "No update is hostile"
                    raise LawBrokenError(f"{who}: {problem}.\n{attacked}")


# helpers -----------------------------------------------------------------------------------------------------------


def _only(aggregator: Aggregator, case: Case, *, drop: bool = False) -> Any:
    """The result of one round."""
    made = fresh(aggregator)
    with quiet():
        now = prepared(made, case, drop=drop)
        return made.aggregate(now.start, list(now.updates), now.ctx)


def _with(case: Case, place: int, value: float) -> Case:
    return case.with_updates(replaced(case.updates, [place], [poisoned(case.updates[place].params, value)]))


def _kept(aggregator: Aggregator, case: Case, hostile: set[int], result: Params) -> bool:
    """Whether a rule that withstands ``hostile`` updates has kept its promise."""
    able = aggregator.tags.breakdown and aggregator.withstands(len(case.updates)) >= len(hostile)
    return bool(able) and not _broken(aggregator, case, hostile, result)


def _broken(aggregator: Aggregator, case: Case, hostile: set[int], result: object) -> str:
    """How a rule's promise is broken, in words; empty if it is kept."""
    if not isinstance(result, Params) or case.start.spec.difference(result.spec):
        return f"the result must be Params laid out as the start, but is {result!r}"
    if name := result.first_non_finite():
        return f"the result must be finite, but {name!r} is not: {show(result)}"
    honest = [each.params for place, each in enumerate(case.updates) if place not in hostile]
    if aggregator.tags.breakdown == "hull":
        problem = outside(case, result, honest)
        return f"{problem}, the range of the honest ones" if problem else ""
    diameter = max(distance(a, b) for a in [*honest, case.start] for b in honest)
    radius = aggregator.radius(len(case.updates), len(hostile), diameter)
    away, slack = _from_mean(result, honest), sum(_rounding(name, honest) for name in result)
    if away <= radius + slack:
        return ""
    return (
        f"the result must be within {radius:.6g} of the mean of the honest ones (radius for a diameter of "
        f"{diameter:.6g}; within {slack:.3g}), but is {away:.6g} away"
    )


def _from_mean(result: Params, honest: Sequence[Params]) -> float:
    total = 0.0
    with quiet():
        for name in result:
            mean = np.mean([np.asarray(each[name], np.float64) for each in honest], axis=0)
            total += float(np.sum((np.asarray(result[name], np.float64) - mean) ** 2))
    return math.sqrt(total)


def _rounding(name: str, honest: Sequence[Params]) -> float:
    """How far rounding may move one array; a whole number is rounded to the nearest."""
    dtype, size = honest[0][name].dtype, honest[0][name].size
    largest = max(float(np.max(np.abs(np.asarray(each[name], np.float64)), initial=0)) for each in honest)
    each = 0.5 if dtype.kind != "f" else EPSILONS * float(np.finfo(dtype).eps) * largest
    return each * math.sqrt(max(size, 1))
