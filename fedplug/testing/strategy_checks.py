"""The laws of strategies: derived from what the researcher does with their answers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from fedplug.core.context import RoundContext
from fedplug.core.errors import UsageError
from fedplug.core.rng import seeded_globals
from fedplug.core.strategy import Decision, RoundState, Strategy
from fedplug.testing.compare import fresh
from fedplug.testing.memory import give, remade, saved
from fedplug.testing.registry import Check, CheckResult, LawBrokenError, OnFail, Profile, Subject, law, run_checks
from fedplug.testing.strategy_case import COUNTS, FATES, StrategyCase, StrategyTrials, Told, ask, run

# the laws ------------------------------------------------------------------------------------------------------------


def check_select(strategy: Strategy) -> None:
    """``select`` returns at least one of the nodes it was given, and no other; of too few it may raise UsageError."""
    refused = 0
    for count in COUNTS:
        case = StrategyCase.among(count, (FATES[0],) * 3)
        for place in range(3):
            nodes = list(case.nodes)
            try:
                found: object = fresh(strategy).select(case.context(place), nodes)
            except UsageError:
                refused += 1
                continue
            if isinstance(found, str) or not isinstance(found, Iterable) or not (found := list(found)):
                raise LawBrokenError(f"select must return a list of at least one node, but returned {found!r}.\n{case}")
            if strangers := [node for node in found if node not in case.nodes]:
                raise LawBrokenError(f"select chose {strangers[0]!r}, which is not one of the nodes.\n{case}")
            if nodes != list(case.nodes):
                raise LawBrokenError(f"select has changed the list it was given to {nodes}.\n{case}")
    if refused == 3 * len(COUNTS):
        raise LawBrokenError(f"select refuses any number of nodes: {', '.join(map(str, COUNTS))}.")


def check_repeatable(strategy: Strategy, case: StrategyCase) -> None:
    """Who is selected, and how a round ends, depends on the round, its seed and what came, and on nothing else."""
    with seeded_globals(1):
        expected = run(fresh(strategy), case)
    with seeded_globals(2):  # nobody promises what the global random streams hold
        again = run(fresh(strategy), case)
    _same(case, again, expected, "The same rounds were run again")


def check_decision(strategy: Strategy, case: StrategyCase) -> None:
    """``judge`` returns a Decision, with a reason if it gives up, and leaves the state it was asked about alone."""

    def asking(made: Strategy, ctx: RoundContext, state: RoundState) -> Decision:
        before = copy.deepcopy(state)
        decision = ask(made, ctx, state)
        if state != before:
            raise LawBrokenError(f"judge has changed the state it was asked about from {before} to {state}.")
        if decision.verdict == "abort" and not decision.reason.strip():
            raise LawBrokenError(f'Decision("abort") needs a reason, for the researcher to read.\n{_asked(state)}')
        return decision

    run(fresh(strategy), case, asking)


def check_early(strategy: Strategy, case: StrategyCase) -> None:
    """A round has never enough before anybody has replied."""

    def asking(made: Strategy, ctx: RoundContext, state: RoundState) -> Decision:
        replied = state.replied
        decision = ask(made, ctx, state)
        if decision.verdict == "enough" and not replied:
            raise LawBrokenError(f'Nobody has replied, but judge says "enough".\n{_asked(state)}\n{case}')
        return decision

    run(fresh(strategy), case, asking)


def check_ends(strategy: Strategy, case: StrategyCase) -> None:
    """When nobody trains any more the round ends; where nodes are lost, which may come back, it ends in the end."""

    def asking(made: Strategy, ctx: RoundContext, state: RoundState) -> Decision:
        waits_for = state.missing or "lost" in state.outcomes.values()
        decision = ask(made, ctx, state)
        if decision.verdict == "wait" and not waits_for:
            raise LawBrokenError(f'Nobody trains any more, but judge says "wait", for ever.\n{_asked(state)}\n{case}')
        return decision

    for told in run(fresh(strategy), case, asking):
        if told.decision.verdict == "wait":
            raise LawBrokenError(
                f"Nobody trains any more, and who is lost has not come back in {told.state.elapsed:.0e} seconds, but "
                f'judge says "wait".\n{_asked(told.state)}\n{case}'
            )


def check_often(strategy: Strategy, case: StrategyCase) -> None:
    """How often it is asked about the same state makes no difference: it is asked at least once a second."""

    def asking(made: Strategy, ctx: RoundContext, state: RoundState) -> Decision:
        decision = ask(made, ctx, state)
        for _ in range(3):
            if decision.verdict != "wait":
                break
            decision = ask(made, ctx, state)
        return decision

    words = "judge was asked four times instead of once about each state"
    _same(case, run(fresh(strategy), case, asking), run(fresh(strategy), case), words)


def check_unasked(strategy: Strategy, case: StrategyCase) -> None:
    """``judge`` works without ``select`` before it, as in a test of the global model, where all nodes take part."""
    made = fresh(strategy)
    for state in case.states(0, case.nodes):
        try:
            decision = ask(made, case.context(0, case.nodes), state)
        except LawBrokenError:
            raise
        except Exception as error:
            raise LawBrokenError(
                f"judge raised {type(error).__name__} where select had not been called: {error}.\n{_asked(state)}"
            ) from error
        if decision.verdict != "wait":
            return


def check_config(strategy: Strategy, case: StrategyCase) -> None:
    """Each argument of ``__init__`` is kept under its own name, and makes an equal strategy."""
    again = run(remade(strategy), case)
    _same(case, again, run(fresh(strategy), case), "The strategy was made again from its arguments")


def check_resume(strategy: Strategy, case: StrategyCase) -> None:
    """A run that goes on from a breakpoint is the run that was never interrupted."""
    expected = run(fresh(strategy), case)
    for rounds in (1, 2):
        first, second = fresh(strategy), fresh(strategy)
        run(first, case.until(rounds))
        give(second, saved(first))
        words = f"The run was saved after round {rounds} and resumed with a new strategy"
        _same(case, run(second, case.rest(rounds)), expected[rounds:], words)


def check_undone(strategy: Strategy, case: StrategyCase) -> None:
    """A round that failed, and was undone by ``load_state_dict``, has never been."""
    expected = run(fresh(strategy), case)
    for rounds in range(3):
        made = fresh(strategy)
        run(made, case.until(rounds))
        before = copy.deepcopy(made.state_dict())
        for fates in FATES[:2]:
            run(made, StrategyCase(case.nodes, (fates,), case.seed, case.first + rounds))
        made.load_state_dict(before)
        words = f"After {rounds} rounds, another round was begun, failed, and was undone"
        _same(case, run(made, case.rest(rounds)), expected[rounds:], words)


_TRIALS = StrategyTrials()

STRATEGY_CHECKS: tuple[Check, ...] = (
    law(check_select),
    law(check_repeatable, trials=_TRIALS),
    law(check_decision, trials=_TRIALS),
    law(check_early, trials=_TRIALS),
    law(check_ends, trials=_TRIALS),
    law(check_often, trials=_TRIALS),
    law(check_unasked, trials=_TRIALS),
    law(check_config, trials=_TRIALS),
    law(check_resume, trials=_TRIALS),
    law(check_undone, trials=_TRIALS),
)
"""All laws of strategies."""


def check_strategy(
    strategy: Strategy | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test a strategy against every law.

    Args:
        strategy: An instance; it is copied for every trial.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    subject = Subject.of(strategy).with_options(expected_failures)
    return run_checks(STRATEGY_CHECKS, subject, on_fail=on_fail, profile=profile)


def _same(case: StrategyCase, found: Sequence[Told], expected: Sequence[Told], words: str) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        if one.facts != other.facts:
            raise LawBrokenError(
                f"{words}: the selected nodes, the verdict and those that replied must be {other.facts}, but are "
                f"{one.facts} (round {number} of {len(expected)}).\n{case}"
            )


def _asked(state: RoundState) -> str:
    return f"It was asked about {state}."
