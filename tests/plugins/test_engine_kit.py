"""The conformance kit for engines: ours pass, and each law is broken by somebody."""

from __future__ import annotations

import ctypes
import random
import threading
from dataclasses import replace
from typing import Any, ClassVar

import cohort_plans
import msgspec
import numpy as np
import pytest

from fedplug import Component
from fedplug.core.components import Offer
from fedplug.core.errors import EngineError, FedplugError
from fedplug.core.messages import LogLine, Progress
from fedplug.core.params import Params
from fedplug.simulation import Engine, SerialEngine
from fedplug.simulation.cohort import CohortEngine
from fedplug.simulation.processes import ProcessEngine
from fedplug.testing import (
    EngineCase,
    LawBrokenError,
    PlanCase,
    Subject,
    check_engine,
    check_offer,
    parametrize_with_checks,
    run_check,
)
from fedplug.testing.engine_case import THREAD
from fedplug.testing.engine_checks import ENGINE_CHECKS

RNG = np.random.default_rng(0)
STACKABLE = PlanCase(
    cohort_plans.Chain,
    (RNG.standard_normal((40, 5)).astype(np.float32), RNG.integers(0, 3, 40)),
    training_args={"loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.1}},
)
CHECKS = {check.id: check for check in ENGINE_CHECKS}


@parametrize_with_checks(
    [
        EngineCase(SerialEngine, STACKABLE),
        EngineCase(CohortEngine, STACKABLE),
        EngineCase(lambda: ProcessEngine(2)),
    ]
)
def test_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(
    [
        Subject(EngineCase(lambda: SerialEngine(lean=False)), name="SerialEngine(lean=False)"),
        Subject(EngineCase(lambda: CohortEngine(2), STACKABLE), name="CohortEngine(2)"),
    ]
)
def test_laws_of_variants(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(
    [
        EngineCase(SerialEngine, STACKABLE),
        EngineCase(CohortEngine, STACKABLE),
        EngineCase(lambda: ProcessEngine(2, CohortEngine), STACKABLE),
    ],
    "full",
)
def test_laws_with_more_seeds(component, check):
    check(component)


def test_the_plan_that_an_engine_is_made_for_is_tried(caplog):
    caplog.set_level("INFO", "fedplug.simulation")
    CHECKS["results"](EngineCase(CohortEngine, STACKABLE))
    told = [record.message for record in caplog.records]
    assert "Chain trains with stacked parameters, several nodes at once." in told
    assert any(line.startswith("Wandering trains its nodes one by one") for line in told)


# engines with a fault each --------------------------------------------------------------------------------------------


class Forwarding(Engine):
    """Leaves all work to the serial engine; to be spoiled."""

    def __init__(self) -> None:
        self.inner = SerialEngine()

    def open(self, data, host):
        super().open(data, host)
        self.inner.open(data, host)

    def run(self, task, emit):
        return self.inner.run(task, emit)

    def close(self):
        self.inner.close()


class Rounds(Forwarding):
    """The last bit of a value is another one."""

    def run(self, task, emit):
        done = super().run(task, emit)
        arrays = {name: np.array(array) for name, array in done.params.items()}
        arrays["w"][1] = np.nextafter(arrays["w"][1], np.float32(9))
        return done._replace(params=Params.from_arrays(arrays))


class Lax(Forwarding):
    """Its metrics are further off than it says."""

    tolerance = 1e-5

    def run(self, task, emit):
        done = super().run(task, emit)
        metrics = {name: value * 1.0001 for name, value in done.reply.metrics.items()}
        return done._replace(reply=msgspec.structs.replace(done.reply, metrics=metrics))


class Shameless(Forwarding):
    tolerance = 0.5


class Stale(Forwarding):
    """Trains from the first parameters that it has ever seen."""

    def __init__(self):
        super().__init__()
        self.params = None

    def run(self, task, emit):
        self.params = self.params or task.params
        return self.inner.run(replace(task, params=self.params), emit)


class Queue(Forwarding):
    """Trains in the order of submission, whoever is asked for."""

    def __init__(self):
        super().__init__()
        self.tasks = []

    def submit(self, task):
        self.tasks.append(task)

    def cancel(self, key):
        self.tasks = [task for task in self.tasks if task.request.key != key]

    def run(self, task, emit):
        return self.inner.run(self.tasks.pop(0), emit)


class Trains(Forwarding):
    """Knows no mere tests."""

    def run(self, task, emit):
        return self.inner.run(replace(task, request=msgspec.structs.replace(task.request, train=True)), emit)


class First(Forwarding):
    """Takes the extra arrays of the first task for those of all."""

    def __init__(self):
        super().__init__()
        self.aux = None

    def run(self, task, emit):
        self.aux = task.aux if self.aux is None else self.aux
        return self.inner.run(replace(task, aux=self.aux), emit)


class Forgetful(Forwarding):
    """Loses what nodes keep."""

    def run(self, task, emit):
        return super().run(task, emit)._replace(kept=None)


class Beginner(Forwarding):
    """Does not give nodes what they have kept."""

    def run(self, task, emit):
        return self.inner.run(replace(task, base=None), emit)


class Mixing(Forwarding):
    """Gives nodes what others have kept."""

    def __init__(self):
        super().__init__()
        self.base = None

    def run(self, task, emit):
        self.base = self.base or task.base
        return self.inner.run(replace(task, base=self.base), emit)


class Gossip(Forwarding):
    """Tells of one node what belongs to another."""

    def run(self, task, emit):
        def other(sign):
            emit(msgspec.structs.replace(sign, key=msgspec.structs.replace(sign.key, node_id="node-3")))

        return self.inner.run(task, other)


class Backwards(Forwarding):
    """Tells of the last step first."""

    def run(self, task, emit):
        signs: list[Progress | LogLine] = []
        done = self.inner.run(task, signs.append)
        for sign in reversed(signs):
            emit(sign)
        return done


class Scribbler(Forwarding):
    """Writes where the global parameters lie."""

    def place(self, task):
        return task.params

    def run(self, task, emit):
        done = self.inner.run(task, emit)
        address, _ = np.frombuffer(self.place(task).buffer, np.uint8).__array_interface__["data"]
        ctypes.memset(address, 1, 1)  # the buffer says that it is read-only
        return done


class ScribblesInExtras(Scribbler):
    def place(self, task):
        return task.aux["pull"]


class ScribblesInStates(Scribbler):
    def place(self, task):
        return task.base.arrays


class Careless(Forwarding):
    """Raises what the plan has raised, as it is not."""

    def run(self, task, emit):
        try:
            return self.inner.run(task, emit)
        except FedplugError as error:
            raise ValueError("something went wrong") from error


class Dramatic(Forwarding):
    """Takes the failure of a node for its own."""

    def run(self, task, emit):
        try:
            return self.inner.run(task, emit)
        except FedplugError as error:
            raise EngineError("all is lost", cure="Run.") from error


class Vague(Forwarding):
    """Does not say why a training failed."""

    def run(self, task, emit):
        try:
            return self.inner.run(task, emit)
        except FedplugError as error:
            raise FedplugError("it failed", cure="Find out why.") from error


class Hushed(Forwarding):
    """Has a result for a training that failed."""

    def __init__(self):
        super().__init__()
        self.last = None

    def run(self, task, emit):
        try:
            self.last = self.inner.run(task, emit)
        except FedplugError:
            if self.last is None:
                raise
        return self.last


class Sulking(Forwarding):
    """Does no more once a training has failed."""

    def __init__(self):
        super().__init__()
        self.error = None

    def run(self, task, emit):
        if self.error is not None:
            raise self.error
        try:
            return self.inner.run(task, emit)
        except FedplugError as error:
            self.error = error
            raise


class Eager(Forwarding):
    """Trains when it is told of a task, and keeps the result whatever is cancelled."""

    def __init__(self):
        super().__init__()
        self.done = {}

    def submit(self, task):
        if task.request.key not in self.done:
            self.done[task.request.key] = self.inner.run(task, lambda sign: None)

    def run(self, task, emit):
        return self.done.pop(task.request.key)


class Waits(Forwarding):
    """Waits for a task that has begun, when it is cancelled: for ever."""

    for_ever: ClassVar[threading.Event]

    def cancel(self, key):
        self.for_ever.wait()


class Drawing(Forwarding):
    """Draws from the caller's random numbers."""

    def run(self, task, emit):
        random.random()
        return self.inner.run(task, emit)


class Common(Forwarding):
    """All engines of the class have one table of tasks."""

    tasks: ClassVar[dict[Any, Any]] = {}

    def submit(self, task):
        self.tasks[task.request.key] = task

    def run(self, task, emit):
        return self.inner.run(self.tasks[task.request.key], emit)


class Crowded(Forwarding):
    """Two engines of the class, in two threads, swap their tasks."""

    at: ClassVar[dict[int, Any]] = {}
    both = threading.Barrier(2)

    def run(self, task, emit):
        self.at[threading.get_ident()] = task
        self.both.wait(60)
        (other,) = (each for ident, each in self.at.items() if ident != threading.get_ident())
        self.both.wait(60)
        self.at.pop(threading.get_ident())
        return self.inner.run(other, emit)


class Once(Forwarding):
    """Cannot be closed twice."""

    def close(self):
        del self.inner


class Busy(Queue):
    """Cannot be closed while there is something to do."""

    def run(self, task, emit):
        self.tasks.remove(task)
        return self.inner.run(task, emit)

    def close(self):
        if self.tasks:
            raise EngineError("there are tasks", cure="Run them.")


@pytest.mark.parametrize(
    ("engine", "law", "words"),
    [
        (Rounds, "results", "array 'w' is off by"),
        (Lax, "results", "metrics: test_global_gap must be"),
        (Shameless, "results", "tolerance must be a number from 0 to 1e-05"),
        (Stale, "results", "Second round, from other parameters: the result of node-0"),
        (Queue, "order", "Asked for in the opposite order"),
        (Trains, "tests", "the result of node-1"),
        (First, "extras", "the result of node-1"),
        (Forgetful, "state", "'kept': None"),
        (Beginner, "state", "Second round"),
        (Mixing, "state", "the result of node-2"),
        (Gossip, "signs", "signs of life of node-0"),
        (Backwards, "signs", "signs of life of node-0"),
        (Scribbler, "inputs", "must not change the global parameters"),
        (ScribblesInExtras, "inputs", "must not change extra arrays"),
        (ScribblesInStates, "inputs", "must not change what a node has kept"),
        (Careless, "failure", "must be a FedplugError"),
        (Dramatic, "failure", "no EngineError"),
        (Vague, "failure", "but is FedplugError"),
        (Hushed, "failure", "it is None"),
        (Sulking, "failure", "fails, as the conformance kit wants"),
        (Eager, "cancel", "Tasks of the names of those that were cancelled"),
        (Drawing, "streams", "have moved"),
        (Common, "alone", "While another engine has tasks of the same names"),
        (Crowded, "threads", "While another engine trains in another thread"),
        (Once, "close", "inner"),
        (Busy, "close", "there are tasks"),
    ],
)
def test_every_law_can_be_broken(engine, law, words):
    result = run_check(CHECKS[law], EngineCase(engine))
    assert result.outcome == "fail"
    assert words in result.reason
    with pytest.raises((LawBrokenError, FedplugError, AttributeError)):
        CHECKS[law](EngineCase(engine))


@pytest.fixture
def for_ever():
    Waits.for_ever = threading.Event()
    yield
    Waits.for_ever.set()
    for thread in threading.enumerate():  # what was left behind would draw from the random streams of the next test
        if thread.name == THREAD:
            thread.join()


def test_an_engine_that_comes_to_no_end_breaks_the_law(for_ever):
    case = EngineCase(Waits, patience=0.5)
    with pytest.raises(LawBrokenError, match=r"no end within 0\.5 s"):
        CHECKS["cancel"](case)


def test_what_is_no_engine_is_told():
    with pytest.raises(LawBrokenError, match="must be an Engine, but is 3"):
        check_engine(lambda: 3)


def test_the_kit_reports_every_law():
    results = check_engine(SerialEngine, on_fail="report")
    assert [(result.check, result.outcome, result.reason) for result in results] == [
        (name, "pass", "") for name in CHECKS
    ]
    reason = "it is the fault of this test"
    results = check_engine(Forgetful, on_fail="report", expected_failures={"state": reason})
    assert [result.outcome for result in results if result.check == "state"] == ["xfail"]


def test_offers_are_made_without_arguments_or_say_what_is_to_be_tested():
    class Needs(Forwarding):
        def __init__(self, workers):
            super().__init__()

    class Knows(Needs):
        @classmethod
        def conformance_cases(cls):
            return [EngineCase(lambda: cls(1)), EngineCase(lambda: cls(2))]

    class Strays(Needs):
        @classmethod
        def conformance_cases(cls):
            return [PlanCase(cohort_plans.Chain, STACKABLE.data)]

    def outcomes(target):
        return [result.outcome for result in check_offer(Offer("engine", "mine", Component("thing", target)))]

    count = len(ENGINE_CHECKS)
    assert outcomes(SerialEngine) == ["pass"] * (1 + count)
    assert outcomes(Needs) == ["pass", *["skip"] * count]
    assert outcomes(Knows) == ["pass"] * (1 + 2 * count)
    assert outcomes(Strays) == ["fail"]
    assert outcomes(dict) == ["fail"]
    assert outcomes(Engine) == ["fail"]
