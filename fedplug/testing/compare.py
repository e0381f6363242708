"""How results are compared: within rounding, or to the last bit.

Tolerances are absolute, ``k * eps(dtype) * max|x|`` with x over all inputs: a bare relative tolerance would forgive
everything near zero. Integers must be exact, or within one where a tie may be rounded either way.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from fedplug.core.component_config import config_of, make
from fedplug.core.params import Array, Params
from fedplug.testing.cases import Case, show
from fedplug.testing.registry import LawBrokenError

EPSILONS = 16
"""Rounding errors, in units of eps(dtype) * max|x|, that a law forgives in a round."""

T = TypeVar("T")


def fresh(component: T) -> T:
    """A copy of a component as its author made it, so that no trial sees what another has done."""
    try:
        return copy.deepcopy(component)
    except Exception:  # noqa: BLE001 - it may hold what cannot be copied; then its arguments must do
        return make(type(component), config_of(component))


def tolerance(case: Case, name: str, dtype: np.dtype[Any], *, ties: float = 1) -> float:
    """How far two values of an array may be apart that would be equal but for rounding."""
    return ties if dtype.kind != "f" else EPSILONS * float(np.finfo(dtype).eps) * case.largest(name)


def same(
    case: Case, result: Mapping[str, Any], expected: Mapping[str, Any], words: str, *, ties: float = 1, after: int = 0
) -> None:
    """Check that two results agree within rounding.

    Args:
        case: The inputs of ``result``.
        result: What came.
        expected: What should have come; arrays that only one of the two has are the business of another law.
        words: Says what was done and what must follow, as the beginning of a sentence.
        ties: How far integers may be apart.
        after: Number of rounds before, whose rounding errors are in both.

    Raises:
        LawBrokenError: They do not.
    """
    for name in expected:
        if name not in result:
            continue
        dtype = case.start[name].dtype if name in case.start else np.asarray(result[name]).dtype
        got, wanted = np.asarray(result[name], np.float64), np.asarray(expected[name], np.float64)
        if got.shape != wanted.shape:
            continue
        allowed = tolerance(case, name, dtype, ties=ties) * (1 + after)
        wrong: Array = ~(np.abs(got - wanted) <= allowed)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            raise LawBrokenError(
                f"{words}: {name}{index(at)} must be {float(wanted[at])!r} within {allowed:.3g}, "
                f"but is {float(got[at])!r}.\n{case}"
            )


def same_rounds(
    case: Case,
    results: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    words: str,
    *,
    ties: float = 1,
) -> None:
    """Check that the results of several rounds agree; see `same`."""
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        same(case, result, wanted, _in_round(words, number, len(results)), ties=ties, after=number)


def same_bits(case: object, results: Sequence[Any], expected: Sequence[Any], words: str) -> None:
    """Check that the results of rounds are equal to the last bit.

    Raises:
        LawBrokenError: They are not.
    """
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if isinstance(wanted, Mapping) and not equal_bits(result, wanted):
            raise LawBrokenError(
                f"{_in_round(words, number, len(results))}: the result must be, to the last bit,\n{_shown(wanted)}\n"
                f"but is\n{_shown(result)}\n{case}"
            )


def equal_bits(one: Any, other: Any) -> bool:
    """Whether two results are the same arrays, to the last bit."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)) or one.keys() != other.keys():
        return False
    pairs = [(np.asarray(one[name]), np.asarray(other[name])) for name in one]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def distance(one: Params, other: Params) -> float:
    """The Euclidean distance of two sets of parameters over all arrays together, in float64."""
    with quiet():
        pairs = ((np.asarray(one[name], np.float64), np.asarray(other[name], np.float64)) for name in one)
        return math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in pairs))


@contextmanager
def quiet() -> Iterator[None]:
    """Without NumPy's warnings about what is not finite, or overflows: where that is tried on purpose."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def index(at: Sequence[Any]) -> str:
    """A place in an array, as it is written behind its name."""
    return f"[{', '.join(str(int(place)) for place in at)}]" if at else ""


def _in_round(words: str, number: int, rounds: int) -> str:
    return words if rounds == 1 else f"{words} (round {number + 1} of {rounds})"


def _shown(result: Any) -> str:
    return show(result) if isinstance(result, Params) else repr(result)
