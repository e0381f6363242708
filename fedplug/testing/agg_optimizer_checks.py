"""The laws of optimizers of the researcher, over rounds as the researcher drives them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.aggregator import NodePayload
from fedplug.core.errors import UpdateRejectedError
from fedplug.core.params import Array, Params
from fedplug.core.rng import seeded_globals
from fedplug.core.update import Update
from fedplug.testing.cases import Case, Complete, cases, show
from fedplug.testing.compare import fresh, quiet, same, same_bits
from fedplug.testing.memory import give, remade, saved
from fedplug.testing.play import SEEDS, unfinished
from fedplug.testing.registry import (
    Check,
    CheckResult,
    LawBrokenError,
    OnFail,
    Profile,
    Subject,
    law,
    run_checks,
)

# driving an optimizer ------------------------------------------------------------------------------------------------


def advance_all(optimizer: AggOptimizer, case: Case) -> list[Params]:
    """The result of each round, on a fresh copy."""
    return advance_on(fresh(optimizer), case)


def advance_on(optimizer: AggOptimizer, case: Case) -> list[Params]:
    """The result of each round, on ``optimizer`` itself; a round's aggregate is the parameters of its first update."""
    results: list[Params] = []
    for number in range(len(case.rounds)):
        now = taken(optimizer, case.rest(number, results[-1] if results else case.start))
        result: Any = optimizer.advance(now.start, now.updates[0].params, now.ctx)
        results.append(result)
    return results


def taken(optimizer: AggOptimizer, case: Case) -> Case:
    """The first round of ``case`` up to the aggregate: begun, and all updates taken in sorted node order.

    Raises:
        NotApplicableError: The optimizer refuses updates that have nothing beside the parameters, and nobody has said
            what that should be.
    """
    case = case.copied()
    extra = optimizer.begin_round(case.ctx)
    now = replace(case, payloads={node: NodePayload(extra, {}) for node in case.ctx.node_ids})
    updates: list[Update] = [each if case.complete is None else case.complete(each, now) for each in case.updates]
    for update in updates:
        try:
            optimizer.check_update(update, case.start)
        except UpdateRejectedError as error:
            if case.complete is None:
                raise unfinished(error) from None
            raise
    for update in updates:
        optimizer.take(update)
    return replace(now, updates=tuple(updates))


@dataclass(frozen=True)
class OptimizerTrials:
    """Three rounds: starts, aggregates, and what nodes send."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[Case]:
        """All layouts; of several seeds in the profile ``full``."""
        for seed in range(SEEDS if profile == "full" else 1):
            for case in cases(seed=seed, rounds=3):
                yield replace(case, complete=subject.complete)

    def drawn(self, subject: Subject) -> Any:
        """Layouts and values, as Hypothesis sees fit."""
        from fedplug.testing import strategies

        return strategies.cases(rounds=3, max_count=3).map(lambda case: replace(case, complete=subject.complete))


# the laws ------------------------------------------------------------------------------------------------------------


def check_layout(optimizer: AggOptimizer, case: Case) -> None:
    """The result has the names, shapes and dtypes of the start."""
    for result in advance_all(optimizer, case):
        found: object = result
        if not isinstance(found, Params):
            raise LawBrokenError(f"advance must return Params, but returned {type(found).__name__}.\n{case}")
        if difference := case.start.spec.difference(found.spec):
            raise LawBrokenError(f"The result must be laid out as the start, but {difference}.\n{case}")


def check_inputs(optimizer: AggOptimizer, case: Case) -> None:
    """No input is changed: neither the start, nor the aggregate, nor an update."""
    made = fresh(optimizer)
    now = taken(made, case)
    made.advance(now.start, now.updates[0].params, now.ctx)
    pairs = [("the start", case.start, now.start)]
    pairs += [
        (f"the update of {a.node_id}", a.params, b.params) for a, b in zip(case.updates, now.updates, strict=True)
    ]
    for what, before, after in pairs:
        if show(before) != show(after):
            raise LawBrokenError(f"Inputs are read-only, but {what} was changed from {show(before)} to {show(after)}.")


def check_finite(optimizer: AggOptimizer, case: Case) -> None:
    """Finite inputs give finite results: after steps of nothing at all, and after large ones."""
    for factor, words in ((0.0, "nothing has moved"), (1.0, "plain steps"), (1000.0, "steps are large")):
        moved = case.each(lambda updates, f=factor: [_stretched(each, case.start, f) for each in updates])  # type: ignore[misc]
        with quiet():
            results: list[Any] = list(advance_all(optimizer, moved))
        for result in results:
            if isinstance(result, Params) and (name := result.first_non_finite()):
                raise LawBrokenError(f"Where {words}, {name!r} of the result is not finite: {show(result)}\n{moved}")


def check_repeatable(optimizer: AggOptimizer, case: Case) -> None:
    """The same rounds give the same result, to the last bit, whatever the global random streams hold."""
    with seeded_globals(1):
        expected = advance_all(optimizer, case)
    with seeded_globals(2):
        again = advance_all(optimizer, case)
    same_bits(case, again, expected, "The same rounds were run again")


def check_still(optimizer: AggOptimizer, case: Case) -> None:
    """From the beginning, and for as long as the aggregate is the model itself, the model stays where it is."""
    unmoved = case.each(lambda updates: [replace(each, params=case.start) for each in updates])
    for number, result in enumerate(advance_all(optimizer, unmoved)):
        words = "The aggregate is the global model, so the result must be it"
        same(unmoved, _moving(result), _moving(case.start), words, after=number)


def check_payload(optimizer: AggOptimizer, case: Case) -> None:
    """What ``begin_round`` sends to the nodes is Params by name."""
    extra: object = fresh(optimizer).begin_round(case.ctx)
    fine = isinstance(extra, Mapping) and all(isinstance(n, str) and isinstance(p, Params) for n, p in extra.items())
    if not fine:
        raise LawBrokenError(f"begin_round must return a mapping of names to Params, but returned {extra!r}.")


def check_config(optimizer: AggOptimizer, case: Case) -> None:
    """Each argument of ``__init__`` is kept under its own name, and makes an equal optimizer."""
    results = advance_all(remade(optimizer), case)
    same_bits(case, results, advance_all(optimizer, case), "The optimizer was made again from its arguments")


def check_resume(optimizer: AggOptimizer, case: Case) -> None:
    """A run that goes on from a breakpoint is, to the last bit, the run that was never interrupted."""
    expected = advance_all(optimizer, case)
    for rounds in range(1, len(case.rounds)):
        first = fresh(optimizer)
        done = advance_on(first, case.until(rounds))
        second = fresh(optimizer)
        give(second, saved(first))
        words = f"The run was saved after round {rounds} and resumed with a new optimizer"
        same_bits(case, advance_on(second, case.rest(rounds, done[-1])), expected[rounds:], words)


def check_undone(optimizer: AggOptimizer, case: Case) -> None:
    """A round that failed, and was undone by ``load_state_dict``, has never been."""
    expected = advance_all(optimizer, case)
    for rounds in range(len(case.rounds)):
        for whole in (False, True):
            made = fresh(optimizer)
            done = advance_on(made, case.until(rounds)) if rounds else [case.start]
            before = copy.deepcopy(made.state_dict())
            failed = taken(made, case.rest(rounds, done[-1]))
            if whole:  # its result was not finite, say
                made.advance(failed.start, failed.updates[-1].params * 2, failed.ctx)
            made.load_state_dict(before)
            words = f"After round {rounds}, another round was begun, failed, and was undone"
            same_bits(case, advance_on(made, case.rest(rounds, done[-1])), expected[rounds:], words)


_TRIALS = OptimizerTrials()

AGG_OPTIMIZER_CHECKS: tuple[Check, ...] = (
    law(check_layout, trials=_TRIALS),
    law(check_inputs, trials=_TRIALS),
    law(check_finite, trials=_TRIALS),
    law(check_repeatable, trials=_TRIALS),
    law(check_still, trials=_TRIALS),
    law(check_payload, trials=_TRIALS),
    law(check_config, trials=_TRIALS),
    law(check_resume, trials=_TRIALS),
    law(check_undone, trials=_TRIALS),
)
"""All laws of optimizers of the researcher."""


def check_agg_optimizer(
    optimizer: AggOptimizer | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
    complete: Complete | None = None,
) -> list[CheckResult]:
    """Test an optimizer of the researcher against every law.

    Args:
        optimizer: An instance; it is copied for every trial.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why, e.g. ``"still"`` for weight decay.
        complete: Adds what nodes send beside the parameters; see `Subject`.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    subject = Subject.of(optimizer).with_options(expected_failures, complete)
    return run_checks(AGG_OPTIMIZER_CHECKS, subject, on_fail=on_fail, profile=profile)


def _stretched(update: Update, start: Params, factor: float) -> Update:
    """``update``, so many times as far from the start."""

    def further(origin: Array, array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        wide = np.asarray(origin, np.float64)
        return np.asarray(wide + factor * (np.asarray(array, np.float64) - wide)).astype(array.dtype)

    return replace(update, params=start.map(further, update.params))


def _moving(params: object) -> dict[str, Array]:
    """What an optimizer moves: whole numbers are those of the aggregate, whatever it returns."""
    found = params if isinstance(params, Params) else {}
    return {name: array for name, array in found.items() if array.dtype.kind == "f"}
