"""A worker process of a simulation: ``python -m fedplug.simulation.process_worker``, started by `ProcessEngine`.

It trains one task after the other by an engine of its own, and stays warm in between. It ends with the simulation: a
thread that does nothing else waits for the other end of the socket to be closed, and then kills the process and all
that plans have started in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

import msgspec
import numpy as np

from fedplug.core.errors import ConnectionLostError, FedplugError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, Progress, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import default_host
from fedplug.node.shared import SharedBuffer
from fedplug.simulation.engines import Engine, Task, Trained
from fedplug.simulation.process_channel import Channel, Parcel
from fedplug.simulation.process_memory import ResultWriter, TaskData, unpack
from fedplug.simulation.process_messages import (
    Begin,
    Common,
    Done,
    Drop,
    Dropped,
    Failed,
    Forget,
    Job,
    Jobs,
    Output,
    Plan,
    Ready,
    Remark,
    Share,
    Sign,
    ToWorker,
    request_of,
)
from fedplug.simulation.process_streams import Printed, Remarks

_HOLD = 0.001
"""Seconds that messages wait for others to be written, or read, with; a write costs as much as many messages."""

_HOLD_SIGNS = 0.05
"""The same for signs of progress, which come all through a training."""

_LOOK = 100
"""Milliseconds between two looks whether something waits to be written while a plan does not come back."""


class Worker:
    """The worker's side of the conversation.

    Args:
        channel: To the simulation.
    """

    def __init__(self, channel: Channel[ToWorker]) -> None:
        self._channel = channel
        self._out: list[Parcel] = []
        # What is said by any thread, and by finalizers, which run in the middle of anything: put down without the lock.
        self._said: deque[Sign | Output | Remark] = deque()
        self._sent = self._looked = time.monotonic()
        self._engine: Engine
        self._data: TaskData | None = None
        self._at: Any = None  # where is written which task this is at: read when the process has died
        self._plans: dict[int, bytes | PlanBundle] = {}
        self._arrays: dict[int, Params] = {}
        self._args: tuple[bytes, tuple[dict[str, Any], dict[str, Any]]] | None = None
        self._common: Common | None = None  # what the next tasks have in common
        self._like: Task | None = None  # a task of that kind, when there was one
        self._coming: dict[int, Task] = {}  # of a group that is not complete yet
        self._groups: deque[dict[int, Task]] = deque()  # that wait, in order
        self._tasks: dict[int, Task] = {}  # of the group that the engine has, in order
        self._results = ResultWriter()
        self._now = 0  # the task that runs; 0 if none does
        self._lock = threading.Lock()  # of what waits to be written, and of the channel; `_said` is emptied under it

    def serve(self) -> None:
        """Train until the simulation hangs up.

        Raises:
            ConnectionLostError: It has.
        """
        while True:
            if not self._tasks and not self._groups:
                if self._data is not None:
                    self._data.clear()
                self._flush()
            is_idle = not self._tasks and not self._groups
            if is_idle or time.monotonic() - self._looked > _HOLD:
                for message, fds in self._channel.receive(wait=is_idle):
                    self._take(message, fds)
                self._looked = time.monotonic()
            if not self._tasks and self._groups:
                self._tasks = self._groups.popleft()
                for task in self._tasks.values():
                    self._engine.submit(task)
            if self._tasks:
                number = next(iter(self._tasks))
                self._train(number, self._tasks.pop(number))

    def _take(self, message: ToWorker, fds: list[int]) -> None:
        match message:
            case Jobs():
                for job in message.jobs:
                    try:
                        self._job(job)
                    except Exception as error:  # noqa: BLE001 - one task must not end the others
                        self._put(_failed(job.number, 0.0, error))
                    if job.ends_group:
                        self._groups.append(self._coming)
                        self._coming = {}
            case Common():
                self._common, self._like = message, None
            case Share():
                self._arrays[message.number] = unpack(message.spec, message.data, fds)
            case Plan():
                self._plans[message.number] = message.bundle
            case Forget():
                for number in message.numbers:
                    self._arrays.pop(number, None)
            case Drop():
                for number in message.numbers:
                    self._drop(number)
            case Begin():
                self._begin(message, *fds)

    def _begin(self, begin: Begin, at: int, data: int) -> None:
        self._at = np.frombuffer(SharedBuffer.attach(at, 8, writable=True), np.int64)
        self._data = TaskData(begin.data, data, begin.nbytes)
        host = default_host()
        self._engine = begin.engine.make(host)
        self._engine.open(self._data, host)
        logger = logging.getLogger("fedplug")
        logger.setLevel(begin.level)
        logger.propagate = False
        logger.addHandler(Remarks(self.say))
        sys.stdout, sys.stderr = (Printed(self.say, lambda: self._now, error=error) for error in (False, True))
        with self._lock:
            self._out.append((Ready(), ()))
            self._write()

    def _job(self, job: Job) -> None:
        state = None
        if job.state is not None:
            values, arrays = job.state
            state = LocalState(self._arrays.pop(arrays), values)
        like = self._like
        if like is None:
            like = self._like = self._first_of(self._common)
        assert self._data is not None
        self._data.put(job.node_id, job.data)
        self._coming[job.number] = Task(request_of(like.request, job), like.plan, like.params, like.aux, state)

    def _first_of(self, common: Common | None) -> Task:
        assert common is not None
        aux = {name: self._arrays[number] for name, number in common.aux.items()}
        plan = self._plans[common.plan]
        if isinstance(plan, bytes):
            plan = self._plans[common.plan] = PlanBundle.decode(plan)
        return Task(self._whole(common.request, common.args), plan, self._arrays[common.params], aux)

    def _drop(self, number: int) -> None:
        """Forget a task that has not begun."""
        for group in (self._tasks, *self._groups):
            task = group.pop(number, None)
            if task is not None:
                if group is self._tasks:
                    self._engine.cancel(task.request.key)
                with self._lock:
                    self._out.append((Dropped(number), ()))

    def _whole(self, request: TrainRequest, args: bytes) -> TrainRequest:
        """The request with the arguments that have come beside it."""
        if not args:
            return request
        if self._args is None or self._args[0] != args:
            # They come from the process that started this one, and whose plans run here anyway.
            self._args = args, pickle.loads(args)  # noqa: S301
        model_args, training_args = self._args[1]
        return msgspec.structs.replace(request, model_args=model_args, training_args=training_args)

    def _train(self, number: int, task: Task) -> None:
        if self._engine.together and not self._engine.has_result(task.request.key):
            self._flush()  # what was trained together is told together, and not after the next are trained too
        self._now = self._at[0] = number
        began = time.perf_counter()
        answer: Done | Failed
        try:
            trained = self._engine.run(task, self._emit)
            answer = self._done(number, task, trained, time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - one task must not end the others
            answer = _failed(number, time.perf_counter() - began, error)
        self._now = 0
        self._put(answer)

    def _done(self, number: int, task: Task, trained: Trained, seconds: float) -> Done:
        reply, params, aux, kept = trained
        arrays = [params, *aux.values(), *([] if kept is None else [kept.arrays])]
        place, segment = self._results.write(arrays)
        spec = None if params.spec == task.params.spec else params.spec
        state = None if kept is None else (kept.values, kept.arrays.spec)
        extra = tuple((name, each.spec) for name, each in aux.items())
        with self._lock:
            said = [self._said.popleft() for _ in range(len(self._said))]
            own = tuple(each for each in said if not isinstance(each, Remark) and each.number == number)
            self._out += [(each, ()) for each in said if isinstance(each, Remark) or each.number != number]
            if segment is not None:
                self._out.append((segment[0], (segment[1],)))
        return Done(number, seconds, reply, place, spec, extra, state, own)

    def _emit(self, sign: Progress | LogLine) -> None:
        self.say(Sign(self._now, sign, None) if isinstance(sign, Progress) else Sign(self._now, None, sign))

    def say(self, message: Sign | Output | Remark) -> None:
        """Pass on a sign, what a plan has printed, or the library has logged; from any thread, at any moment."""
        self._said.append(message)
        self.flush_old()

    def _put(self, answer: Done | Failed) -> None:
        with self._lock:
            self._out += [*self._rest(), (answer, ())]
        if time.monotonic() - self._sent > _HOLD:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            self._write()

    def flush_old(self) -> None:
        """Write what has waited long, unless somebody writes: it may be this thread, before a finalizer came."""
        if (
            (self._out or self._said)
            and time.monotonic() - self._sent > _HOLD_SIGNS
            and self._lock.acquire(blocking=False)
        ):
            try:
                self._write()
            finally:
                self._lock.release()

    def _write(self) -> None:
        out, self._out = [*self._out, *self._rest()], []
        if out:
            self._channel.send(out, wait=True)
        self._sent = time.monotonic()

    def _rest(self) -> list[Parcel]:
        """What was said, as messages of their own; the caller holds the lock."""
        return [(self._said.popleft(), ()) for _ in range(len(self._said))]


def _failed(number: int, seconds: float, error: Exception) -> Failed:
    if isinstance(error, FedplugError):
        details = str(getattr(error, "details", ""))
        return Failed(number, seconds, type(error).__name__, error.message, error.cure, details)
    text = f"The training failed inside FedPlug with {type(error).__name__}: {error}"
    return Failed(number, seconds, "PlanRunError", text, "", "".join(traceback.format_exception(error)))


def main(arguments: list[str]) -> None:
    """Serve a simulation until it hangs up.

    Args:
        arguments: Number of the socket, and process id of the simulation.
    """
    number, parent = (int(argument) for argument in arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # shared memory is an open file
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the simulation, which then ends this process
    channel: Channel[ToWorker] = Channel(socket.socket(fileno=number), ToWorker)  # type: ignore[arg-type] # a union
    worker = Worker(channel)
    watch = threading.Thread(target=_watch, args=(worker, number, parent), name="fedplug-lifeline", daemon=True)
    watch.start()
    with contextlib.suppress(ConnectionLostError):
        worker.serve()


def _watch(worker: Worker, sock: int, parent: int) -> None:
    """Kill this process, and what was started in it, when the simulation has hung up or is gone."""
    poll = select.poll()
    poll.register(sock, 0)  # hanging up is always told
    # a fork of the simulation may hold the socket open
    while not poll.poll(_LOOK) and os.getppid() == parent:
        with contextlib.suppress(ConnectionLostError):
            worker.flush_old()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
