"""Engines: what runs the trainings of virtual nodes. Aggregators, strategies and results never know which."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from fedplug.core.errors import PluginError, UsageError
from fedplug.core.local_state import LocalState, StateBook
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.node.privacy import simulated_noise_key
from fedplug.node.training import run_task
from fedplug.simulation.lean_training import LeanTraining
from fedplug.simulation.plan_checks import NotLeanError
from fedplug.simulation.set_up_once import LastSetUp
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

_LOG = logging.getLogger("fedplug.simulation")

Emit = Callable[[Progress | LogLine], None]


@dataclass(frozen=True)
class Task:
    """What one virtual node is to do.

    Attributes:
        request: What is asked for.
        plan: The training plan.
        params: The global parameters; one object for all nodes of a round.
        aux: Extra arrays of the aggregator.
        base: The state that the node has kept and goes on from; None if there is none.
    """

    request: TrainRequest
    plan: PlanBundle
    params: Params
    aux: Mapping[str, Params]
    base: LocalState | None = None


class Trained(NamedTuple):
    """What came out of a task.

    Attributes:
        reply: The reply of the node.
        params: Its parameters; none after a mere test.
        aux: Extra arrays.
        kept: The state that the node is to keep; None if there is none.
    """

    reply: TrainReply
    params: Params
    aux: Mapping[str, Params]
    kept: LocalState | None = None


class Engine(ABC):
    """Runs trainings. One engine belongs to one federation, which calls it from one thread.

    The federation gives it all tasks as soon as there are any (`submit`), and asks for their results one by one
    (`run`). So an engine may begin early, and with several at once; what comes out must not depend on that.

    Attributes:
        together: Whether it trains several tasks at once, so that who gives it tasks should give it many. Of the class.
        tolerance: How far its results may be from those of `SerialEngine`, over the largest value of each array: 0 if
            they are the same to the bit. The conformance kit holds it to that. Known once it is open.
        data: The data of the nodes.
        host: The plugins to use.
    """

    together: ClassVar[bool] = False
    tolerance: float = 0.0
    data: VirtualData
    host: PluginHost

    def open(self, data: VirtualData, host: PluginHost) -> None:
        """Get to know the federation; called once, by it."""
        self.data, self.host = data, host

    def submit(self, task: Task) -> None:
        """Take note of a task; `run` or `cancel` will follow."""

    def cancel(self, key: TaskKey) -> None:
        """Forget a task that was submitted, and stop it if it has begun."""

    @abstractmethod
    def run(self, task: Task, emit: Emit) -> Trained:
        """The result of a task, which was submitted; the caller waits for it.

        Args:
            task: The task; not always the one that was submitted first.
            emit: Takes the task's signs of life.

        Raises:
            FedplugError: The training failed; the node's failure says so.
            EngineError: No training can go on; the experiment ends with it.
        """

    def has_result(self, key: TaskKey) -> bool:
        """Whether the result of a task that was submitted is there already, so that `run` need not train.

        An engine that trains several at once should know: a worker process then tells what is finished before it goes
        on to train.
        """
        return False

    def close(self) -> None:
        """Give back what was taken; may be called twice."""


class SerialEngine(Engine):
    """One node after the other, in the caller's thread.

    Where the plan leaves the step to the library, by its lean step (`fedplug.core.lean`): with the same result to the
    bit, and less work around the arithmetic. Any other plan runs its own loop. The log of ``fedplug.simulation`` says
    which is taken, and why.

    Args:
        lean: Whether the lean step may be taken.
    """

    def __init__(self, *, lean: bool = True) -> None:
        self._lean = lean
        self._last = LastSetUp(self._set_up)
        self._waiting: dict[TaskKey, Task] = {}

    def submit(self, task: Task) -> None:
        """As `Engine.submit`."""
        if self._lean:
            self._waiting[task.request.key] = task

    def cancel(self, key: TaskKey) -> None:
        """As `Engine.cancel`."""
        self._waiting.pop(key, None)
        self._last.forget(key)

    def run(self, task: Task, emit: Emit) -> Trained:
        """As `Engine.run`."""
        self._waiting.pop(task.request.key, None)
        signs = _Signs(emit)
        if self._lean and task.request.train and not self._last.is_refused(task.request, task.plan):
            try:
                training = self._last.get(task.request, task.plan)
                following = (each.request for each in self._waiting.values() if training.fits(each.request, each.plan))
                reply, params = training.run(task.request, task.params, self.data, signs, following)
                return Trained(reply, params, {})
            except NotLeanError as why:
                self._last.refuse(task.request, task.plan)
                self._last.tell(f"{task.plan.class_name} trains by its own loop: {why}.")
        return self._run_own(task, signs.again())

    def close(self) -> None:
        """As `Engine.close`."""
        self._waiting.clear()
        self._last.clear()

    def _set_up(self, request: TrainRequest, plan: PlanBundle) -> LeanTraining:
        training = LeanTraining(request, plan, self.host)
        steps = f"its training is nothing but steps of {training.optimizer_name}"
        self._last.tell(f"{plan.class_name} trains by the lean step: {steps}.")
        return training

    def _run_own(self, task: Task, emit: Emit) -> Trained:
        """Train by the plan's own loop, from the state that the node has kept to the one that it keeps."""
        request, plan, params, aux = task.request, task.plan, task.params, task.aux
        book = StateBook(task.base)
        noise_key = simulated_noise_key(request, plan, params, aux, task.base)
        dataset = self.data.dataset(request.key.node_id)
        done = run_task(request, plan, params, aux, dataset, self.host, emit, state=book, noise_key=noise_key)
        return Trained(*done, book.result())


class _Signs:
    """Passes signs of life on; those of a training that is done again once only.

    Args:
        emit: Takes them.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._told: list[Progress | LogLine] = []

    def __call__(self, sign: Progress | LogLine) -> None:
        self._told.append(sign)
        self._emit(sign)

    def again(self) -> Emit:
        """Takes the signs of the same training from the beginning."""
        told = deque(map(_timeless, self._told))

        def emit(sign: Progress | LogLine) -> None:
            if told and told[0] == _timeless(sign):
                told.popleft()
            else:  # from here on it is another training than the one that was told of
                told.clear()
                self._emit(sign)

        return emit if told else self._emit


def _timeless(sign: Progress | LogLine) -> Progress | LogLine:
    return msgspec.structs.replace(sign, seconds=0.0) if isinstance(sign, Progress) else sign


def make_engine(engine: Engine | str, host: PluginHost) -> Engine:
    """The engine that ``engine`` is, or a new one of that name.

    Args:
        engine: An engine, or the name of one that a plugin offers.
        host: Knows the engines that are installed.

    Raises:
        UsageError: There is none of that name, or it is neither engine nor name.
        PluginError: What is registered under the name is no engine, or cannot be loaded.
    """
    if isinstance(engine, Engine):
        return engine
    if not isinstance(engine, str):
        raise UsageError(
            f"engine must be the name of an engine, or an engine, but is {engine!r}.",
            cure='E.g. engine="serial", or engine=SerialEngine().',
        )
    found = host.component("engine", engine)
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise PluginError(
            f"What is registered as engine {engine!r} is {found!r}, not a class derived from Engine.",
            cure="It must derive from fedplug.simulation.Engine.",
        )
    return found()


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
