"""Trainings of virtual nodes in several processes at once, with the same result to the bit.

The processes are started once, and live until the federation is closed. The data of the nodes lie in shared memory,
once for all; so do the global parameters of a round, and the results, in slots that are used again. What the simulation
tells its workers, and what they answer, is many small messages in few writes.
"""

from __future__ import annotations

import logging
import os
import select
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from fedplug.core.errors import ConnectionLostError, EngineError, FedplugError, UsageError
from fedplug.core.messages import TaskKey
from fedplug.core.numbers import is_whole
from fedplug.simulation.engines import Emit, Engine, Task, Trained, usable_processors
from fedplug.simulation.process_channel import Parcel
from fedplug.simulation.process_engines import InnerEngine, plugins_of
from fedplug.simulation.process_handle import WorkerHandle, end_all
from fedplug.simulation.process_memory import SharedArrays
from fedplug.simulation.process_messages import (
    Done,
    Drop,
    Dropped,
    Failed,
    FromWorker,
    Output,
    Ready,
    Remark,
    Segment,
    Sign,
)
from fedplug.simulation.process_queue import TaskQueue
from fedplug.simulation.process_sayings import Sayings
from fedplug.simulation.process_tasks import Pending, TaskTable, death_of, error_of, trained
from fedplug.simulation.virtual_data import VirtualData

if TYPE_CHECKING:
    from fedplug.core.plugins import PluginHost

_LOG = logging.getLogger("fedplug.simulation")

_EARLY = 8
"""So many groups are collected before a worker that is not idle gets more, while there may come others."""

_LOOK = 0.001
"""Seconds between two looks whether workers need more, while results are there that nobody has taken yet."""

_GRACE = 0.5
"""Seconds that a process which has hung up gets to end by itself, so that its own exit code is known."""


class ProcessEngine(Engine):
    """Several nodes at once, each worker process with one thread. The result is that of the inner engine, to the bit.

    The processes are started when there is something to train, and live until the federation is closed. What a script
    sets for a whole process, such as PyTorch's default dtype, does not reach them.

    Args:
        workers: How many processes; by default, as many as there are processors that this process may use.
        engine: What trains inside them: the name of an engine, or a class derived from `Engine`.
        options: Arguments of that engine: plain data.

    Raises:
        UsageError: ``workers`` is no whole number of at least 1, ``engine`` is no engine, or ``options`` are no plain
            data.

    Example:
        >>> ProcessEngine(workers=2, engine="serial", lean=False).workers
        2
    """

    def __init__(self, workers: int | None = None, engine: str | type[Engine] = "serial", **options: Any) -> None:
        if workers is not None and not is_whole(workers, 1):
            raise UsageError(
                f"workers must be a whole number of at least 1, got {workers!r}.",
                cure="Leave it out for one per processor.",
            )
        if not hasattr(select, "poll") or not hasattr(os, "killpg"):
            raise UsageError("Worker processes need Linux or macOS.", cure="Use engine='serial'.")
        self.workers = workers or usable_processors()
        self._inner = InnerEngine.of(engine, options)
        self._handles: dict[int, WorkerHandle] = {}  # by file number of their sockets
        self._poll = select.poll()
        weakref.finalize(self, end_all, self._handles)

    # the federation's calls ------------------------------------------------------------------------------------

    def open(self, data: VirtualData, host: PluginHost) -> None:
        """As `Engine.open`.

        Raises:
            UsageError: Worker processes cannot have the data, a plugin or the engine.
        """
        super().open(data, host)
        self._shared_data = SharedArrays(data)
        self._plugins = plugins_of(host)
        inner = self._inner.make(host)
        if isinstance(inner, ProcessEngine):
            raise UsageError("Worker processes cannot have worker processes.", cure="E.g. ProcessEngine().")
        inner.close()
        self._together, self.tolerance = inner.together, inner.tolerance
        self._begin()

    def _begin(self) -> None:
        self._table = TaskTable(self._shared_data)
        self._asked: dict[TaskKey, Pending] = {}
        self._queue = TaskQueue(self.workers, together=self._together)
        self._looked = 0.0  # when messages of workers were last looked for
        self._sayings = Sayings()
        self._inbox: deque[tuple[WorkerHandle, FromWorker, list[int]]] = deque()

    def submit(self, task: Task) -> None:
        """As `Engine.submit`; a worker that has nothing to do begins at once."""
        pending = self._table.add(task)
        if pending.result is None:
            self._queue.add(pending.number)
        self._asked[task.request.key] = pending  # last: who asks for it finds it in the queue, also after Ctrl-C
        if len(self._queue.groups) >= _EARLY or (self._queue.groups and self._is_one_idle()):
            with self._whole():
                self._pump(0)
                self._feed()

    def cancel(self, key: TaskKey) -> None:
        """As `Engine.cancel`. A training that has begun comes to its end, and its result is dropped."""
        pending = self._asked.pop(key, None)
        if pending is None:
            return
        number = pending.number
        self._sayings.forget(number)
        if pending.result is not None:
            return
        pending.wanted = False
        if self._queue.remove(number):
            self._table.finish(pending)
            return
        with self._whole():
            for handle in list(self._handles.values()):
                if number in handle.assigned:
                    self._send(handle, [(Drop((number,)), ())])

    def run(self, task: Task, emit: Emit) -> Trained:
        """As `Engine.run`."""
        key = task.request.key
        if key not in self._asked:
            self.submit(task)
        pending = self._asked[key]
        self._queue.seal()
        try:
            with self._whole():
                self._sayings.begin(pending.number, emit)
                if self._queue.groups and time.monotonic() - self._looked > _LOOK:
                    self._pump(0)
                    self._feed()
                while pending.result is None:
                    self._feed()
                    self._pump(None)
        except Exception:
            self.cancel(key)
            raise
        finally:
            self._sayings.end()
        del self._asked[key]
        if isinstance(pending.result, FedplugError):
            raise pending.result
        return pending.result

    def has_result(self, key: TaskKey) -> bool:
        """As `Engine.has_result`."""
        pending = self._asked.get(key)
        return pending is not None and pending.result is not None

    def close(self) -> None:
        """End the processes; they are started again if there is anything to train."""
        for handle in list(self._handles.values()):
            self._remove(handle)
            handle.end()
        self._begin()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that have been started."""
        return tuple(handle.pid for handle in self._handles.values())

    # giving ----------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Give tasks to those who have few."""
        while self._queue.groups:
            if len(self._handles) < self.workers and all(each.assigned for each in self._handles.values()):
                self._start()
            handle = min(self._handles.values(), key=lambda each: len(each.assigned))
            count = self._queue.portion(len(handle.assigned), handle.latest)
            if not count:
                return
            self._give(handle, count)

    def _is_one_idle(self) -> bool:
        return len(self._handles) < self.workers or any(not each.assigned for each in self._handles.values())

    def _start(self) -> None:
        taken = {handle.index for handle in self._handles.values()}
        index = next(index for index in range(self.workers) if index not in taken)
        handle = WorkerHandle(index, self._inner, self._shared_data, self._plugins)
        self._handles[handle.channel.fileno()] = handle
        self._poll.register(handle.channel.fileno(), select.POLLIN)

    def _give(self, handle: WorkerHandle, count: int) -> None:
        groups = [self._queue.groups.popleft() for _ in range(count)]
        if not self._together:  # an engine may still look at what comes next
            groups = [list(chain.from_iterable(groups))]
        for group in groups:
            handle.assigned |= dict.fromkeys(group)
            handle.latest = len(group)
        try:
            parcels = self._table.parcels(handle, groups)
        except EngineError:
            self._end(handle)  # it has not got what it is said to have
            raise
        self._send(handle, parcels)

    def _send(self, handle: WorkerHandle, parcels: list[Parcel]) -> None:
        try:
            handle.send(parcels)
            self._watch(handle)
        except ConnectionLostError:
            self._lost(handle)

    def _watch(self, handle: WorkerHandle) -> None:
        more = select.POLLOUT if handle.channel.is_waiting else 0
        self._poll.modify(handle.channel.fileno(), select.POLLIN | more)

    # taking ----------------------------------------------------------------------------------------------------

    def _pump(self, timeout: int | None) -> None:
        """Wait until workers have said something, at most so many milliseconds, and take it in."""
        if not self._inbox:
            for number, event in self._poll.poll(timeout):
                handle = self._handles[number]
                try:
                    if event & select.POLLOUT:
                        handle.channel.flush(wait=False)
                        self._watch(handle)
                    if event & ~select.POLLOUT:
                        self._inbox.extend((handle, *each) for each in handle.channel.receive(wait=False))
                except ConnectionLostError:
                    self._lost(handle)
        while self._inbox:
            self._take(*self._inbox.popleft())
        self._looked = time.monotonic()

    def _take(self, handle: WorkerHandle, message: FromWorker, fds: list[int]) -> None:
        match message:
            case Done():
                if handle.take_back(message.number):
                    self._queue.count_in(message.seconds)
                    pending = self._table.pending[message.number]
                    if message.said and pending.wanted:
                        self._sayings.take(message.number, message.said)
                    self._settle(pending, trained(handle, pending.task, message))
            case Failed():
                if handle.take_back(message.number):
                    self._queue.count_in(message.seconds)
                    self._settle(self._table.pending[message.number], error_of(message))
            case Dropped():
                if handle.take_back(message.number):
                    self._table.finish(self._table.pending[message.number])
            case Sign() | Output():
                number = message.number
                if not number or (number in self._table.pending and self._table.pending[number].wanted):
                    self._sayings.take(number, [message])
            case Remark():
                self._sayings.remark(handle.index, message)
            case Segment():
                handle.results.add(message, fds.pop())
            case Ready():
                handle.is_ready = True

    def _settle(self, pending: Pending, result: Trained | FedplugError) -> None:
        if pending.wanted:
            pending.result = result
        self._table.finish(pending)

    # losing ----------------------------------------------------------------------------------------------------

    def _lost(self, handle: WorkerHandle) -> None:
        """Give the tasks of a process that has died to others; not the one that two have died of."""
        self._remove(handle)
        how = handle.end(_GRACE)
        left = self._reclaim(handle)
        if not left:
            return
        _LOG.warning("A worker process died: %s. What it had to train is given to another.", how)
        for number in [handle.at if handle.at in left else left[0]] if handle.is_ready else left:
            pending = self._table.pending[number]
            pending.deaths += 1
            if pending.deaths > 1 and self._queue.remove(number):
                self._settle(pending, death_of(pending.task, how, began=handle.is_ready))

    def _remove(self, handle: WorkerHandle) -> None:
        self._poll.unregister(handle.channel.fileno())
        del self._handles[handle.channel.fileno()]

    def _reclaim(self, handle: WorkerHandle) -> list[int]:
        """Put the tasks of a process that is gone at the front of the queue; their numbers."""
        left = [number for number in handle.assigned if self._table.pending[number].wanted]
        for number in handle.assigned.keys() - left:
            self._table.finish(self._table.pending[number])
        for number in left:
            self._sayings.forget(number)
        self._queue.put_back(left)
        handle.assigned.clear()
        return left

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Ctrl-C may come in the middle of a message, or of what is noted of a worker: then nothing of it is used."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception):
                self._abandon()
            raise

    def _abandon(self) -> None:
        """End all processes; what they had begins anew when it is asked for."""
        for handle in list(self._handles.values()):
            self._end(handle)
        self._inbox.clear()
        asked = (each.number for each in self._asked.values() if each.result is None)
        self._queue.put_back([number for number in asked if not self._queue.has(number)])  # on its way to a worker

    def _end(self, handle: WorkerHandle) -> None:
        self._remove(handle)
        handle.end()
        self._reclaim(handle)
