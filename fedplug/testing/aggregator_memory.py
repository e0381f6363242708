"""Laws of aggregators: what a result may depend on, and what is remembered, saved and forgotten."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedplug.core.aggregator import Aggregator
from fedplug.core.params import Params, allocate
from fedplug.core.rng import SeedTree, seeded_globals
from fedplug.core.update import Update
from fedplug.testing.cases import Case, draw
from fedplug.testing.compare import fresh, same_bits
from fedplug.testing.memory import give, remade, saved
from fedplug.testing.play import play, play_on, prepared, remembers
from fedplug.testing.registry import LawBrokenError, NotApplicableError


def check_arrival(aggregator: Aggregator, case: Case) -> None:
    """The result depends on the updates and the round alone, to the last bit: not on who replied first or how fast."""
    with seeded_globals(1):
        expected = play(aggregator, case)
    count = len(case.updates)
    for trial, order in enumerate((list(range(count))[::-1], [*range(1, count), 0]), 2):

        def arrived(updates: Sequence[Update], order: Sequence[int] = order) -> list[Update]:
            """The same updates, in other memory, at other times; the researcher sorts them."""
            came = [_late(updates[place], 10.0 * rank + 1) for rank, place in enumerate(order)]
            return sorted(came, key=lambda update: update.node_id)

        with seeded_globals(trial):  # nobody promises what the global random streams hold
            results = play(aggregator, case.each(arrived))
        same_bits(case, results, expected, "The same updates have arrived in another order")


def check_config(aggregator: Aggregator, case: Case) -> None:
    """Each argument of ``__init__`` is kept under its own name, and makes an equal aggregator."""
    again = remade(aggregator)
    if again.tags != aggregator.tags:
        raise LawBrokenError(
            f"Made again from its arguments, the aggregator has the tags {again.tags}, not {aggregator.tags}."
        )
    same_bits(case, play(again, case), play(aggregator, case), "The aggregator was made again from its arguments")


def check_resume(aggregator: Aggregator, case: Case) -> None:
    """A run that goes on from a breakpoint is, to the last bit, the run that was never interrupted."""
    expected = play(aggregator, case)
    for rounds in range(1, len(case.rounds)):
        first = fresh(aggregator)
        done = play_on(first, case.until(rounds))
        second = fresh(aggregator)
        give(second, saved(first))
        words = f"The run was saved after {_rounds(rounds)} and resumed with a new aggregator"
        same_bits(case, play_on(second, case.rest(rounds, done[-1])), expected[rounds:], words)


def check_undone(aggregator: Aggregator, case: Case) -> None:
    """A round that failed, and was undone by ``load_state_dict``, has never been."""
    expected = play(aggregator, case)
    other = case.each(lambda updates: [replace(each, params=_another(each.params)) for each in updates])
    for rounds in range(len(case.rounds)):
        made = fresh(aggregator)
        done = play_on(made, case.until(rounds)) if rounds else [case.start]
        before = copy.deepcopy(made.state_dict())
        failed = prepared(made, other.rest(rounds, done[-1]))
        if aggregator.tags.streaming:
            _fold(made, failed, half=True)
        else:
            made.aggregate(failed.start, list(failed.updates), failed.ctx)
        made.load_state_dict(before)
        words = f"After {_rounds(rounds)}, another round was begun, failed, and was undone"
        same_bits(case, play_on(made, case.rest(rounds, done[-1])), expected[rounds:], words)


def check_streaming(aggregator: Any, case: Case) -> None:
    """Folding one update at a time is, to the last bit, what ``aggregate`` does."""
    (expected,) = play(aggregator, case.until(1))
    made = fresh(aggregator)
    folded = made.finalize(_fold(made, prepared(made, case)))
    same_bits(case, [folded], [expected], "The updates were folded one at a time (begin, accumulate, finalize)")


def check_interleaved(aggregator: Any, case: Case) -> None:
    """The stream may be cut anywhere: what somebody else folds meanwhile changes no bit."""
    if remembers(aggregator, case.complete):
        raise NotApplicableError("it remembers rounds, and may keep its part of one in itself")
    alone, made = fresh(aggregator), fresh(aggregator)
    expected = alone.finalize(_fold(alone, prepared(alone, case)))
    now = prepared(made, case)
    other = now.each(lambda updates: [replace(each, params=_another(each.params)) for each in updates])
    state = made.begin(now.start, now.ctx)
    for update in now.updates:
        _fold(made, other)
        made.accumulate(state, update)
        _fold(made, other)
    words = "Between two updates, others were folded into another state"
    same_bits(case, [made.finalize(state)], [expected], words)


def check_forgets(aggregator: Any, case: Case) -> None:
    """An update is not kept once it is folded, so that memory does not grow with the nodes."""
    made = fresh(aggregator)
    now = prepared(made, case)
    state = made.begin(now.start, now.ctx)
    kept: list[weakref.ref[Any]] = []
    for update in now.updates:
        memory = allocate(update.params.nbytes)
        memory[:] = np.frombuffer(update.params.buffer, np.uint8)
        made.accumulate(state, replace(update, params=Params(update.params.spec, memory)))
        kept.append(weakref.ref(_owner(memory)))
        del memory
    if any(each() is not None for each in kept):
        gc.collect()
    count = sum(each() is not None for each in kept)
    if count:
        raise LawBrokenError(
            f"{count} of {len(kept)} updates are still in memory after they were folded: accumulate must not keep "
            f"them, nor views of their arrays.\n{case}"
        )
    made.finalize(state)


# helpers -----------------------------------------------------------------------------------------------------------


def _fold(aggregator: Any, case: Case, *, half: bool = False) -> Any:
    """The state after all updates of a case, or after the first half of them."""
    state = aggregator.begin(case.start, case.ctx)
    count = len(case.updates)
    for update in case.updates[: (count + 1) // 2 if half else count]:
        aggregator.accumulate(state, update)
    return state


def _late(update: Update, seconds: float) -> Update:
    """The same update in other memory, as one whose node took so long."""
    params = Params(update.params.spec, bytes(update.params.buffer))
    return replace(update, params=params, timing={"train": seconds, "train_cpu": seconds, "total": seconds + 1})


def _another(params: Params) -> Params:
    """Other parameters of the same layout."""
    layout = [(each.name, each.shape, each.dtype) for each in params.spec.tensors]
    return draw(layout, SeedTree.root(99).generator())


def _owner(array: Any) -> Any:
    """The array that owns the memory of a view; it lives for as long as any view of it."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _rounds(count: int) -> str:
    return f"{count} round" + ("" if count == 1 else "s")
