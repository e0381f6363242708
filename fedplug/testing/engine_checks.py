"""The laws of engines: what runs the trainings of a simulation must not show in what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial, wraps

import msgspec
import numpy as np

from fedplug.core.errors import EngineError, FedplugError
from fedplug.core.messages import Progress
from fedplug.core.params import Params
from fedplug.simulation.engines import Task
from fedplug.testing.engine_case import Bench, EngineCase, EngineTrials, Sign, in_time, kit_plan
from fedplug.testing.plan_case import other_streams, streams
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


def _timed(function: Callable[[EngineCase, int], None]) -> Callable[[EngineCase, int], None]:
    """A law that is broken too by an engine that comes to no end."""

    @wraps(function)
    def check(case: EngineCase, seed: int) -> None:
        in_time(case, lambda: function(case, seed))

    return check


# the laws --------------------------------------------------------------------------------------------------------


@_timed
def check_results(case: EngineCase, seed: int) -> None:
    """What was submitted and is run gives what the serial engine gives: to the bit, or within `Engine.tolerance`."""
    for plan in case.plans:
        for shared in (True, False):
            with closing(Bench(case, plan, seed, shared=shared)) as bench:
                first = bench.tasks()
                bench.submit(first)
                bench.require(first, "First round")
                moved = bench.expected(first[0])[0].params
                second = bench.tasks(moved, number=1)
                bench.submit(second)
                bench.require(second, "Second round, from other parameters")


@_timed
def check_order(case: EngineCase, seed: int) -> None:
    """In which order results are asked for makes no difference, nor what is submitted meanwhile."""
    for plan in case.plans:
        with closing(Bench(case, plan, seed)) as bench:
            tasks = bench.tasks()
            bench.submit(tasks)
            bench.require(reversed(tasks), "Asked for in the opposite order")
            first, *rest = bench.tasks(number=1)
            bench.submit([first])
            bench.require([first], "Alone")
            bench.submit(rest[:2])
            bench.require(rest[1:2], "The second of two")
            bench.submit(rest[2:])
            bench.require([*rest[2:], rest[0]], "Others that came later, and then one that had waited")


@_timed
def check_tests(case: EngineCase, seed: int) -> None:
    """A task that is a mere test gives what the serial engine gives, beside tasks that train."""
    with closing(Bench(case, kit_plan(), seed)) as bench:
        tasks = [bench.task(node, train=place % 2 == 0) for place, node in enumerate(bench.nodes)]
        bench.submit(tasks)
        bench.require(tasks, "Tests and trainings in turn")


@_timed
def check_extras(case: EngineCase, seed: int) -> None:
    """The extra arrays of an aggregator come to the node that they are meant for."""
    with closing(Bench(case, kit_plan(), seed)) as bench:
        tasks = [
            bench.task(node, aux={"pull": Params.from_arrays({"w": np.full(4, place, np.float32)})} if place else None)
            for place, node in enumerate(bench.nodes)
        ]
        bench.submit(tasks)
        bench.require(tasks, "With extra arrays for all nodes but the first")


@_timed
def check_state(case: EngineCase, seed: int) -> None:
    """What a node keeps comes with its result, and is what it goes on from when it comes with its next task."""
    with closing(Bench(case, kit_plan(keeps=True), seed)) as bench:
        first = bench.tasks()
        bench.submit(first)
        bench.require(first, "A plan that keeps a parameter")
        bases = [bench.expected(task)[0].kept for task in first]
        second = [
            bench.task(node, number=1, base=base if place else None)
            for place, (node, base) in enumerate(zip(bench.nodes, bases, strict=True))
        ]
        bench.submit(second)
        bench.require(second, "Second round, in which all nodes but the first go on from what they have kept")


@_timed
def check_signs(case: EngineCase, seed: int) -> None:
    """The signs of life that `run` tells are those of its task, in their order; some may be lost."""
    with closing(Bench(case, kit_plan(), seed)) as bench:
        tasks = bench.tasks()
        bench.submit(tasks)
        for task in tasks:
            found, wanted = (list(map(_fact, signs)) for signs in (bench.run(task)[1], bench.expected(task)[1]))
            rest = iter(wanted)
            if not all(each in rest for each in found):
                node = task.request.key.node_id
                raise LawBrokenError(f"The signs of life of {node} must be some of\n{wanted}\nbut are\n{found}")


@_timed
def check_inputs(case: EngineCase, seed: int) -> None:
    """Neither the global parameters, nor extra arrays, nor what a node has kept is changed."""
    with closing(Bench(case, kit_plan(keeps=True), seed)) as bench:
        first = bench.task(bench.nodes[0])
        base = bench.expected(first)[0].kept
        pull = Params.from_arrays({"w": np.ones(4, np.float32)})
        tasks = bench.tasks(base=base, number=1, aux={"pull": pull})
        held = {"the global parameters": bench.start, "extra arrays": pull}
        if base is not None:
            held["what a node has kept"] = base.arrays
        before = {what: bytes(params.buffer) for what, params in held.items()}
        bench.submit(tasks)
        for task in tasks:
            bench.run(task)
        for what, params in held.items():
            if bytes(params.buffer) != before[what]:
                raise LawBrokenError(f"A training must not change {what}, which others use too, but has.")


@_timed
def check_failure(case: EngineCase, seed: int) -> None:
    """A training that fails is an error that says why, for its node alone: the others train on, and so does it."""
    with closing(Bench(case, kit_plan(), seed)) as bench:
        failing = bench.nodes[1]
        tasks = bench.tasks(fails_at=failing)
        bench.submit(tasks)
        for task in tasks:
            if task.request.key.node_id == failing:
                _require_failure(bench, task)
            else:
                bench.require([task], "Beside a node that fails")
        again = bench.tasks(number=1)
        bench.submit(again)
        bench.require(again, "After a node has failed")


@_timed
def check_cancel(case: EngineCase, seed: int) -> None:
    """A task that is cancelled is forgotten, begun or not: one of the same name that comes later is another task."""
    for plan in case.plans:
        with closing(Bench(case, plan, seed)) as bench:
            tasks = bench.tasks()
            bench.submit(tasks)
            bench.engine.cancel(tasks[0].request.key)
            bench.require(tasks[1:2], "After the first was cancelled")
            for task in tasks[2:]:  # an engine may have begun with these, or be done
                bench.engine.cancel(task.request.key)
            moved = bench.expected(tasks[1])[0].params
            others = bench.tasks(moved)  # of the same names, from other parameters
            bench.submit(others)
            bench.require(others, "Tasks of the names of those that were cancelled")


@_timed
def check_streams(case: EngineCase, seed: int) -> None:
    """Trainings neither depend on the global random streams of the caller, nor move them."""
    for plan in case.plans:
        with closing(Bench(case, plan, seed)) as bench:
            tasks = bench.tasks()
            with other_streams(3):
                before = streams()
                bench.submit(tasks)
                found = [bench.run(task)[0] for task in tasks]
                if streams() != before:
                    raise LawBrokenError("The global random streams of Python, NumPy or torch have moved.")
            for task, each in zip(tasks, found, strict=True):
                bench.require_same(each, task, "With other global random streams")


@_timed
def check_alone(case: EngineCase, seed: int) -> None:
    """What one engine does, another one does not notice."""
    with closing(Bench(case, kit_plan(), seed)) as one, closing(Bench(case, kit_plan(), seed + 1, shared=False)) as two:
        ones, twos = one.tasks(), two.tasks()
        one.submit(ones)
        two.submit(twos)
        one.require(ones[:2], "While another engine has tasks of the same names")
        two.engine.cancel(twos[-1].request.key)
        two.require(twos[:-1], "While another engine trains")
        two.close()
        one.require(ones[2:], "After another engine was closed")


@_timed
def check_threads(case: EngineCase, seed: int) -> None:
    """Engines can train at once, each in a thread of its own, though a process has its global random streams once."""
    with closing(Bench(case, kit_plan(), seed)) as one, closing(Bench(case, kit_plan(), seed + 1)) as two:

        def train(bench: Bench) -> None:
            for number in range(3):
                tasks = bench.tasks(number=number)
                bench.submit(tasks)
                bench.require(tasks, "While another engine trains in another thread")

        in_time(case, partial(train, one), partial(train, two))


@_timed
def check_close(case: EngineCase, seed: int) -> None:
    """An engine can be closed twice: after its work, in the middle of it, and if it never had any."""
    for done in (0, 1, None):
        bench = Bench(case, kit_plan(), seed)
        tasks = [] if done is None else bench.tasks()
        bench.submit(tasks)
        bench.require(tasks[:done], "Before it is closed")
        bench.close()
        bench.close()


_TRIALS = EngineTrials()

ENGINE_CHECKS: tuple[Check, ...] = tuple(
    law(check, trials=_TRIALS)
    for check in (
        check_results, check_order, check_tests, check_extras, check_state, check_signs, check_inputs, check_failure,
        check_cancel, check_streams, check_alone, check_threads, check_close,
    )
)  # fmt: skip
"""All laws of engines."""


def check_engine(
    engine: EngineCase | Subject | Callable[[], object],
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test an engine against every law.

    Args:
        engine: An `EngineCase`; or what makes a new engine: its class, or a function.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why.

    Returns:
        One result per law: ``pass``, ``fail`` or ``xfail``.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    given = engine if isinstance(engine, EngineCase | Subject) else EngineCase(engine)  # type: ignore[arg-type] # what it makes is looked at
    subject = Subject.of(given).with_options(expected_failures)
    return run_checks(ENGINE_CHECKS, subject, on_fail=on_fail, profile=profile)


def _require_failure(bench: Bench, task: Task) -> None:
    """Require that a task fails, as it does with the serial engine."""
    node = task.request.key.node_id
    wanted = _failure(lambda: bench.expected(task))
    found = _failure(lambda: bench.run(task))
    if isinstance(found, EngineError) or not isinstance(found, FedplugError):
        raise LawBrokenError(
            f"That {node} fails must be a FedplugError, but no EngineError, which ends the experiment; it is {found!r}."
        ) from found
    if (type(found), str(found)) != (type(wanted), str(wanted)):
        raise LawBrokenError(f"The failure of {node} must be {wanted!r}, but is {found!r}.") from found


def _failure(run: Callable[[], object]) -> Exception | None:
    try:
        run()
    except Exception as error:  # noqa: BLE001 - a stranger's engine can raise anything
        return error
    return None


def _fact(sign: Sign) -> Sequence[object]:
    """What of a sign of life does not depend on the clock, nor on rounding."""
    if isinstance(sign, Progress):
        return ("progress", str(sign.key), sign.step, sign.total_steps, sign.epoch, sign.samples, sorted(sign.metrics))
    return ("log", *msgspec.structs.astuple(sign))
