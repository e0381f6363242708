"""The researcher's machine on a real transport: one I/O thread that owns the listener, and the `NodePool` methods.

The machine is guarded by a lock: the I/O thread holds it while it takes in one item, the experiment's thread
while it gives an order. Only the I/O thread touches the listener; orders that lead to frames wake it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from threading import Condition, Lock, Thread, current_thread
from types import MappingProxyType
from uuid import uuid4

from fedplug.core.errors import ConnectionLostError, FedplugError, TransportError, UsageError
from fedplug.core.messages import NodeInfo, TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import (
    Allocate,
    NodePool,
    PoolEvent,
    TaskFailed,
    UpdateFetched,
    UpdateOffered,
    Watcher,
)
from fedplug.core.transport import Transport, TransportOptions
from fedplug.protocol.actions import Deliver, Drop, Say, Send, Sign
from fedplug.protocol.limits import Limits
from fedplug.protocol.researcher import ResearcherMachine

_log = logging.getLogger("fedplug.experiment")

_SIGNS = 1024
"""Signs of life that wait for a watcher; the oldest give way."""

_RETRY = 0.01
"""Seconds until a frame for which there was no room is tried again, if the transport does not say sooner."""

_PARTING = 0.5
"""Seconds that `close` waits at most for the last frames to get away."""


class ResearcherEndpoint(NodePool):
    """All nodes that connect to an address.

    Args:
        transport: How frames move.
        url: Where to listen.
        options: For the transport; its heartbeat is also that of the sessions.
        limits: Figures of the protocol; the defaults by default.
        name: What the nodes are told about who they work for.

    Raises:
        AddressError: The address is malformed, in use, or refused for safety.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        options: TransportOptions | None = None,
        *,
        limits: Limits | None = None,
        name: str = "researcher",
    ) -> None:
        options = options or TransportOptions()
        limits = limits or Limits(heartbeat=options.heartbeat)
        self._machine = ResearcherMachine(limits, name=name, epoch=uuid4().hex, enrolled=options.enrolled)
        self._listener = transport.listen(url, options)
        self.address = self._listener.address
        self._lock = Lock()
        self._outbox: deque[Send | Drop] = deque()
        self._waiting: dict[bytes, deque[Send | Drop]] = {}
        self._woken = False
        self._stop = False
        self._parting = 0.0
        self._ready = Condition()
        self._events: deque[PoolEvent] = deque()
        self._signs: deque[Sign] = deque(maxlen=_SIGNS)
        self._broken: BaseException | None = None
        self._thread = Thread(target=self._run, name=f"fedplug-researcher {self.address}", daemon=True)
        self._thread.start()

    # -- NodePool -----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """As `NodePool.nodes`."""
        with self._lock:
            return MappingProxyType(dict(self._machine.nodes))

    @property
    def description(self) -> str:
        """As `NodePool.description`."""
        return self.address

    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None = None) -> None:
        """As `NodePool.search`."""
        self._order(lambda now: self._machine.search(query, tags, node_ids, now))

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None = None
    ) -> None:
        """As `NodePool.ask_plan`."""
        self._order(lambda now: self._machine.ask_plan(query, plan, dict(datasets), description, now))

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None:
        """As `NodePool.train`."""
        # Outside the lock: the digest of a large model takes a while, and is taken once.
        for arrays in (params, *(aux or {}).values()):
            arrays.fingerprint()
        self._order(lambda now: self._machine.train(request, plan, params, aux, now))

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        """As `NodePool.next_event`."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._ready:
                while not self._events and not (watch and self._signs):
                    self._check()
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._ready.wait(left)
                signs = list(self._signs) if watch else []
                if signs:
                    self._signs.clear()
                event = None if signs else self._events.popleft()
            if watch is None or event is not None:
                return event
            for sign in signs:
                watch(sign.message, sign.node_id)

    def fetch(self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None) -> None:
        """As `NodePool.fetch`."""
        self._order(lambda now: self._machine.fetch(key, allocate, now, settle))

    def commit(self, key: TaskKey) -> None:
        """As `NodePool.commit`."""
        # It goes out with the next task, or at the next sweep: a node that forgets need not be woken for that alone.
        self._order(lambda now: self._machine.commit(key, now), urgent=False)

    def cancel(self, key: TaskKey, reason: str) -> None:
        """As `NodePool.cancel`."""
        self._order(lambda now: self._machine.cancel(key, reason, now))
        with self._ready:
            self._events = deque(event for event in self._events if _key(event) != key)

    def late(self) -> Sequence[TaskKey]:
        """As `NodePool.late`."""
        with self._lock:
            return self._machine.late()

    def traffic(self) -> Mapping[str, int]:
        """As `NodePool.traffic`."""
        with self._lock:
            return {**asdict(self._listener.traffic), **self._machine.stats}

    def close(self) -> None:
        """As `NodePool.close`."""
        with self._lock:
            if not self._stop:
                self._machine.goodbye("the researcher is done")
                self._collect()
                self._stop = True  # last: the I/O thread ends as soon as it sees this, and nothing is left to be sent
        self._listener.wake()
        if self._thread is not current_thread():
            self._thread.join()
        with self._ready:
            self._ready.notify_all()

    # -- both threads, under the lock ---------------------------------------------------------------------------

    def _order(self, command: Callable[[float], None], *, urgent: bool = True) -> None:
        """Give the machine an order from the experiment's thread."""
        with self._lock:
            self._check()
            if self._stop:
                raise UsageError("This connection to the nodes was closed.")
            try:
                command(time.monotonic())
            finally:
                self._collect()
            wake = urgent and bool(self._outbox) and not self._woken
            self._woken = self._woken or wake
        if wake:
            self._listener.wake()

    def _collect(self) -> None:
        """Sort what the machine wants: events for the experiment, frames for the I/O thread."""
        events: list[PoolEvent] = []
        signs: list[Sign] = []
        for action in self._machine.take():
            if isinstance(action, Send | Drop):
                self._outbox.append(action)
            elif isinstance(action, Deliver):
                events.append(action.event)  # type: ignore[arg-type]  # a researcher's machine delivers PoolEvents
            elif isinstance(action, Sign):
                signs.append(action)
            elif isinstance(action, Say):
                _log.warning("%s", action.text)
        if events or signs:
            with self._ready:
                self._events.extend(events)
                self._signs.extend(signs)
                self._ready.notify()

    def _check(self) -> None:
        if self._broken is not None:
            if isinstance(self._broken, FedplugError):
                raise self._broken
            raise TransportError(f"The connection to the nodes broke down: {self._broken!r}.") from self._broken
        if self._stop and not self._events:
            raise UsageError("This connection to the nodes was closed.")

    # -- the I/O thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._done():
                item = self._listener.receive(self._timeout())
                now = time.monotonic()
                with self._lock:
                    self._woken = False
                    if item is not None:
                        self._machine.on(item, now)
                    # Under load time is looked at late: what is in the queue may be the sign of life that is due.
                    if now >= self._machine.deadline and (item is None or now > self._machine.deadline + 0.5):
                        self._machine.tick(now)
                    self._collect()
                    outbox, self._outbox = self._outbox, deque()
                del item  # A chunk's memory goes back before the next one comes.
                self._write(outbox)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the experiment's thread has to hear of it.
            self._broken = error
        finally:
            self._listener.close()
            with self._ready:
                self._ready.notify_all()

    def _timeout(self) -> float:
        if self._outbox:
            return 0.0
        due = max(0.0, self._machine.deadline - time.monotonic())
        return min(due, _RETRY) if self._waiting or self._stop else due

    def _done(self) -> bool:
        """Whether to end: on `close`, as soon as the last frames are away, or have had their time."""
        if not self._stop:
            return False
        self._parting = self._parting or time.monotonic() + _PARTING
        return (not self._outbox and not self._waiting) or time.monotonic() > self._parting

    def _write(self, outbox: deque[Send | Drop]) -> None:
        """Send what can be sent, in order for each peer; keep the rest."""
        for peer in list(self._waiting):
            queue = self._waiting[peer]
            while queue and self._write_one(queue[0]):
                queue.popleft()
            if not queue:
                del self._waiting[peer]
        for action in outbox:
            queue_of = self._waiting.get(action.peer)
            if queue_of is not None:
                queue_of.append(action)
            elif not self._write_one(action):
                self._waiting[action.peer] = deque([action])
        self._machine.backlog = {peer: len(queue) for peer, queue in self._waiting.items()}

    def _write_one(self, action: Send | Drop) -> bool:
        if isinstance(action, Drop):
            self._listener.drop(action.peer)
            return True
        try:
            return self._listener.send(action.peer, action.header, action.body)
        except ConnectionLostError:
            return True  # `Closed` follows, or has come; the new session will ask for what is missing.


def _key(event: PoolEvent) -> TaskKey | None:
    """The task that an event is about."""
    if isinstance(event, UpdateOffered | UpdateFetched):
        return event.reply.key
    return event.failure.key if isinstance(event, TaskFailed) else None
