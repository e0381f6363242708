"""Laws of aggregators: what a change of the inputs does to the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedplug.core.aggregator import Aggregator
from fedplug.core.params import Array, Params
from fedplug.core.update import Update
from fedplug.testing.cases import BOUND, Case, on_grid
from fedplug.testing.compare import EPSILONS, distance, index, same_rounds, tolerance
from fedplug.testing.play import play
from fedplug.testing.registry import LawBrokenError

_COUNTERS = ("sample_count", "steps")


def check_consensus(aggregator: Aggregator, case: Case) -> None:
    """Where all nodes say the same, that is the result; without `convex`, where all say what they were given."""
    if aggregator.tags.convex:
        agreed = case.each(lambda updates: [replace(each, params=updates[0].params) for each in updates])
    else:  # a rule with a step size of its own need only stay where it is
        agreed = case.each(lambda updates: [replace(each, params=case.start) for each in updates])
    expected = [updates[0].params for updates in agreed.rounds]
    words = "All updates are equal, so the result must be they"
    same_rounds(agreed, play(aggregator, agreed), expected, words, ties=0)


def check_symmetric(aggregator: Aggregator, case: Case) -> None:
    """Which node an update came from does not matter."""
    expected = play(aggregator, case)
    count = len(case.updates)
    for order in (list(range(count))[::-1], [*range(1, count), 0]):

        def swapped(updates: Sequence[Update], order: Sequence[int] = order) -> list[Update]:
            return [replace(updates[source], node_id=updates[place].node_id) for place, source in enumerate(order)]

        moved = case.each(swapped)
        words = "Nodes have swapped their updates, so the result must stay"
        same_rounds(moved, play(aggregator, moved), expected, words)


def check_homogeneous(aggregator: Aggregator, case: Case) -> None:
    """Scaling all weights changes nothing."""
    names, expected = weights_of(aggregator, case), play(aggregator, case)
    for factor in (3, 1000):

        def heavier(updates: Sequence[Update], factor: int = factor) -> list[Update]:
            return [_weighted(each, names, factor) for each in updates]

        scaled = case.each(heavier)
        words = f"All weights were multiplied by {factor}, so the result must stay"
        same_rounds(scaled, play(aggregator, scaled), expected, words)


def check_absence(aggregator: Aggregator, case: Case) -> None:
    """An update of weight zero is as good as absent."""
    names = weights_of(aggregator, case)
    far = case.start.map(lambda array: np.full_like(array, BOUND))
    for name in ("node-zero", "a-node-that-comes-first"):

        def joined(updates: Sequence[Update], name: str = name) -> list[Update]:
            stranger = replace(_of_weight(updates[0], names, 0), node_id=name, params=far)
            return sorted([*updates, stranger], key=lambda each: each.node_id)

        more = case.each(joined)
        words = f"An update of weight zero was added ({name}), so the result must stay"
        same_rounds(more, play(aggregator, more), play(aggregator, case), words)


def check_repetition(aggregator: Aggregator, case: Case) -> None:
    """An update that counts double is as good as the same update from two nodes."""
    names = weights_of(aggregator, case)
    doubled = case.each(lambda updates: [_weighted(updates[0], names, 2), *updates[1:]])
    twice = case.each(lambda updates: [updates[0], replace(updates[0], node_id="node-0-again"), *updates[1:]])
    words = "One update counts double, so the result must be as if it came twice"
    same_rounds(doubled, play(aggregator, doubled), play(aggregator, twice), words)


def check_partition(aggregator: Aggregator, case: Case) -> None:
    """A weight may be shared out: an update of weight 7 is as good as the same update of weights 1, 2 and 4."""
    names = weights_of(aggregator, case)
    parts = {"node-0": 1, "node-0-b": 2, "node-0-c": 4}

    def apart(updates: Sequence[Update]) -> list[Update]:
        shares = [replace(_of_weight(updates[0], names, weight), node_id=node) for node, weight in parts.items()]
        return [*shares, *updates[1:]]

    whole = case.each(lambda updates: [_of_weight(updates[0], names, 7), *updates[1:]])
    shared = case.each(apart)
    words = "The weight of one update was shared out among three nodes with the same update, so the result must stay"
    same_rounds(shared, play(aggregator, shared), play(aggregator, whole), words)


def check_hull(aggregator: Aggregator, case: Case) -> None:
    """Each value of the result lies between the smallest and the largest of the updates'."""
    results = play(aggregator, case)
    for result, updates in zip(results, case.rounds, strict=True):
        if problem := outside(case, result, [update.params for update in updates]):
            raise LawBrokenError(f"{problem}, the range of the updates.\n{case}")


def check_scale(aggregator: Aggregator, case: Case) -> None:
    """Scaling the start and all updates scales the result."""
    exact = on_grid(case)
    plain = play(aggregator, exact)
    for factor in (0.25, 3, 4):

        def multiplied(_: str, array: Array, factor: float = factor) -> Array:
            return np.asarray(array, np.float64) * factor

        scaled = exact.mapped(multiplied)
        expected = [_times(each, factor) for each in plain]
        words = f"Start and updates were multiplied by {factor:g}, so the result must be too"
        # a whole number is rounded, or cut off, before it is scaled or after
        same_rounds(scaled, play(aggregator, scaled), expected, words, ties=factor + 1)


def check_shift(aggregator: Aggregator, case: Case) -> None:
    """Shifting the start and all updates, each value by an amount of its own, shifts the result."""
    exact = on_grid(case)
    rng = np.random.default_rng(0)
    shifts = {name: rng.integers(-4, 5, array.shape) * 2 for name, array in case.start.items()}
    moved = exact.mapped(lambda name, array: np.asarray(array, np.float64) + shifts[name])
    expected = [
        {name: np.asarray(array, np.float64) + shifts[name] for name, array in result.items() if name in shifts}
        for result in play(aggregator, exact)
    ]
    words = "Start and updates were shifted, so the result must be too"
    same_rounds(moved, play(aggregator, moved), expected, words)


def check_share(aggregator: Aggregator, case: Case) -> None:
    """A change of length d of one update moves the result by no more than ``largest_share(updates) * d``."""
    now = case.with_updates(case.updates)
    share = aggregator.largest_share(now.updates)
    if share is None:
        return
    (before,) = play(aggregator, now)
    rng = np.random.default_rng(0)
    for place, update in enumerate(now.updates):
        for size in (0.5, 100.0):
            step = {name: _direction(array, rng, size) for name, array in update.params.items()}
            far = Params.from_arrays({n: (a + step[n]).astype(a.dtype) for n, a in update.params.items()})
            moved = now.with_updates([*now.updates[:place], replace(update, params=far), *now.updates[place + 1 :]])
            length, away = distance(far, update.params), distance(before, play(aggregator, moved)[0])
            slack = sum(_rounding(moved, name, array) for name, array in before.items())
            if not away <= share * length + slack:
                raise LawBrokenError(
                    f"largest_share is {share!r}, and the update of {update.node_id} was changed by a length of "
                    f"{length:.6g}, so the result must move by at most {share * length:.6g} within {slack:.3g}, but "
                    f"moves by {away:.6g}.\n{moved}"
                )


# helpers -----------------------------------------------------------------------------------------------------------


def weights_of(aggregator: Aggregator, case: Case) -> tuple[str, ...]:
    """The counter of an update that is its weight: the number of samples if the result depends on it, or of steps.

    Both where neither makes a difference, as where there is only one update.
    """
    one = case.with_updates(case.updates)
    before = play(aggregator, one)
    for name in _COUNTERS:

        def uneven(updates: Sequence[Update], name: str = name) -> list[Update]:
            return [replace(each, **{name: 7 * n + getattr(each, name)}) for n, each in enumerate(updates, 1)]

        try:
            same_rounds(one, play(aggregator, one.each(uneven)), before, "")
        except LawBrokenError:
            return (name,)
    return _COUNTERS


def outside(case: Case, result: Params, hull: Sequence[Params]) -> str:
    """The first value that is not between the smallest and the largest of ``hull``, in words; empty if none."""
    for name in case.start:
        if name not in result or result[name].shape != case.start[name].shape:
            continue
        stack = np.stack([np.asarray(params[name], np.float64) for params in hull])
        low, high = stack.min(axis=0), stack.max(axis=0)
        dtype = np.asarray(result[name]).dtype
        slack = EPSILONS * float(np.finfo(dtype).eps) * np.max(np.abs(stack), initial=0) if dtype.kind == "f" else 0.0
        values = np.asarray(result[name], np.float64)
        wrong = ~((values >= low - slack) & (values <= high + slack))
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            bounds = f"[{float(low[at])!r}, {float(high[at])!r}] within {slack:.3g}"
            return f"{name}{index(at)} is {float(values[at])!r}, but must lie in {bounds}"
    return ""


def _weighted(update: Update, names: Sequence[str], times: int) -> Update:
    return replace(update, **{name: getattr(update, name) * times for name in names})


def _of_weight(update: Update, names: Sequence[str], weight: int) -> Update:
    counters: dict[str, Any] = dict.fromkeys(names, weight)
    return replace(update, **counters)


def _times(params: Any, factor: float) -> dict[str, Array]:
    return {name: np.asarray(array, np.float64) * factor for name, array in params.items()}


def _direction(array: Array, rng: np.random.Generator, size: float) -> Array:
    """A random step; none for whole numbers, which are rounded."""
    return rng.uniform(-size, size, array.shape) if array.dtype.kind == "f" else np.zeros(array.shape)


def _rounding(case: Case, name: str, array: Array) -> float:
    return 2 * tolerance(case, name, array.dtype) * math.sqrt(max(array.size, 1))
