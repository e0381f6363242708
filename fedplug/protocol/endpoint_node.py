"""The node's machine on a real transport: one I/O thread that connects, reconnects for ever, and owns the channel."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from threading import Condition, Event, Lock, Thread, current_thread

from fedplug.core.crash_points import crash_point
from fedplug.core.errors import ConnectionLostError, FedplugError, TransportError, UsageError
from fedplug.core.link import EarlierTasks, LinkEvent, ResearcherLink
from fedplug.core.messages import DatasetCard, LogLine, NodeInfo, PlanAnswer, Progress, TaskFailure, TrainReply
from fedplug.core.params import Params
from fedplug.core.pool import Allocate
from fedplug.core.transport import Channel, Closed, Item, Opened, Traffic, Transport, TransportOptions
from fedplug.protocol.actions import Deliver, Reconnect, Send
from fedplug.protocol.handshakes import Handshakes
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine

_COUNTERS = tuple(counter.name for counter in fields(Traffic))
_RETRY = 0.01
_PARTING = 0.5


class NodeEndpoint(ResearcherLink):
    """The way from a node to its researcher.

    Args:
        transport: How frames move.
        url: Where the researcher listens.
        info: Who this node is.
        options: For the transport; or what gives them, which is asked before each connection: keys may have changed.
        allocate: Where the arrays of a task go; see `fedplug.protocol.membership.Membership`.
        retry: Seconds between two tries to connect, give or take a quarter.
        limits: Figures of the protocol; the researcher's replace some of them.
        incarnation: Names this run of the node; larger than that of any run before. The clock by default.
        earlier: What the node's journal says of the tasks of earlier runs; None if it keeps none.
        holds: Whether the options that a connection was made with may still be used. It is asked once a heartbeat; if
            they may not, the node says goodbye, and connects with those that ``options`` gives then.

    Raises:
        AddressError: The address is malformed or refused for safety.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        info: NodeInfo,
        options: TransportOptions | Callable[[], TransportOptions] | None = None,
        *,
        allocate: Allocate | None = None,
        retry: float = 2.0,
        limits: Limits | None = None,
        incarnation: int | None = None,
        earlier: EarlierTasks | None = None,
        holds: Callable[[TransportOptions], bool] = lambda _: True,
    ) -> None:
        self._transport = transport
        self._url = url
        given = options or TransportOptions()
        self._current_options = given if callable(given) else lambda: given
        self._options = self._current_options()
        self._holds = holds
        self._look = 0.0
        self._handshakes = Handshakes(info.node_id, retry, random.Random())
        limits = limits or Limits(heartbeat=self._options.heartbeat)
        self._machine = NodeMachine(info, limits, incarnation=incarnation, earlier=earlier, place=allocate)
        self._lock = Lock()
        self._outbox: deque[Send] = deque()
        self._waiting: deque[Send] = deque()
        self._woken = False
        self._sleeps_until = 0.0
        self._stop = False
        self._closing = Event()
        self._again: float | None = None
        self._before = Traffic()
        self._ready = Condition()
        self._events: deque[LinkEvent] = deque()
        self._nudged = False
        self._broken: BaseException | None = None
        # The first try is made here, so that a wrong address is the caller's error.
        self._channel: Channel | None = transport.connect(url, self._options)
        self._machine.connecting(time.monotonic())
        self._thread = Thread(target=self._run, name=f"fedplug-node {info.node_id}", daemon=True)
        self._thread.start()

    # -- ResearcherLink -----------------------------------------------------------------------------------------

    def next_event(self, timeout: float | None) -> LinkEvent | None:
        """As `ResearcherLink.next_event`."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._events:
                if self._nudged:
                    self._nudged = False
                    return None
                self._check()
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._ready.wait(left)
            return self._events.popleft()

    def wake(self) -> None:
        """As `ResearcherLink.wake`."""
        with self._ready:
            self._nudged = True
            self._ready.notify_all()

    def answer_search(self, query: int, cards: Sequence[DatasetCard]) -> None:
        """As `ResearcherLink.answer_search`."""
        self._order(lambda now: self._machine.answer_search(query, cards, now))

    def answer_plan(self, query: int, answer: PlanAnswer) -> None:
        """As `ResearcherLink.answer_plan`."""
        self._order(lambda now: self._machine.answer_plan(query, answer, now))

    def report(self, message: Progress | LogLine) -> None:
        """As `ResearcherLink.report`."""
        self._order(lambda now: self._machine.report(message, now))

    def finish(self, reply: TrainReply, params: Params, aux: Mapping[str, Params] | None = None) -> None:
        """As `ResearcherLink.finish`."""
        # Outside the lock: the digest of a large model takes a while, and is taken once.
        for arrays in (params, *(aux or {}).values()):
            arrays.fingerprint()
        self._order(lambda now: self._machine.finish(reply, params, aux, now))

    def fail(self, failure: TaskFailure) -> None:
        """As `ResearcherLink.fail`."""
        self._order(lambda now: self._machine.fail(failure, now))

    def traffic(self) -> Mapping[str, int]:
        """Counters over all connections: ``bytes_sent``, ``bytes_received``, ... and what was refused."""
        with self._lock:
            now = _counted(self._channel.traffic) if self._channel else {}
            moved = {name: value + now.get(name, 0) for name, value in _counted(self._before).items()}
            return {**moved, **self._machine.stats}

    def close(self) -> None:
        """As `ResearcherLink.close`."""
        with self._lock:
            if not self._stop:
                self._machine.goodbye("the node stops")
                self._collect()
                self._stop = True  # last: the I/O thread ends as soon as it sees this, and nothing is left to be sent
            self._closing.set()
            if self._channel is not None:
                self._channel.wake()
        if self._thread is not current_thread():
            self._thread.join()
        self.wake()

    # -- both threads, under the lock ---------------------------------------------------------------------------

    def _order(self, command: Callable[[float], None]) -> None:
        with self._lock:
            self._check()
            if self._stop:
                raise UsageError("This link to the researcher was closed.")
            try:
                command(time.monotonic())
            finally:
                self._collect()
            early = bool(self._outbox) or self._machine.deadline(time.monotonic()) < self._sleeps_until
            if self._channel is not None and early and not self._woken:
                self._woken = True
                self._channel.wake()

    def _collect(self) -> None:
        """Sort what the machine wants: events for the supervisor, frames and reconnections for the I/O thread."""
        events: list[LinkEvent] = []
        for action in self._machine.take():
            if isinstance(action, Send):
                self._outbox.append(action)
            elif isinstance(action, Reconnect):
                self._again = action.after
            elif isinstance(action, Deliver):
                events.append(action.event)  # type: ignore[arg-type]  # a node's machine delivers LinkEvents
        if events:
            with self._ready:
                self._events.extend(events)
                self._ready.notify()

    def _check(self) -> None:
        if self._broken is not None:
            if isinstance(self._broken, FedplugError):
                raise self._broken
            raise TransportError(f"The link to the researcher broke down: {self._broken!r}.") from self._broken
        if self._stop and not self._events:
            raise UsageError("This link to the researcher was closed.")

    # -- the I/O thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop:
                if self._channel is not None:
                    self._serve(self._channel)
                    self._hang_up()
                after = max(self._again or 0.0, self._handshakes.wait())
                self._again = None
                if not self._closing.wait(after):
                    self._connect()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the supervisor has to hear of it.
            self._broken = error
        finally:
            self._hang_up()
            with self._ready:
                self._ready.notify_all()

    def _connect(self) -> None:
        try:
            self._options = self._current_options()
            channel = self._transport.connect(self._url, self._options)
        except FedplugError as error:
            with self._lock:
                self._machine.on(Closed(b"", " ".join(filter(None, (error.message, error.cure)))), time.monotonic())
                self._collect()
            return
        with self._lock:
            self._channel = channel
            self._machine.connecting(time.monotonic())

    def _hang_up(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
            self._outbox.clear()
            self._waiting.clear()
            if channel is None:
                return
            for name, value in _counted(channel.traffic).items():
                setattr(self._before, name, getattr(self._before, name) + value)
        channel.close()

    def _serve(self, channel: Channel) -> None:
        """Drive one connection until it ends, or is to end."""
        parting = 0.0
        while self._again is None:
            if self._stop:
                parting = parting or time.monotonic() + _PARTING
                if not (self._outbox or self._waiting) or time.monotonic() > parting:
                    return
            item = self._withdrawn() or channel.receive(self._timeout())
            now = time.monotonic()
            with self._lock:
                self._woken = False
                if (heard := self._heard(item)) is not None:
                    self._machine.on(heard, now)
                due = self._machine.deadline(now)
                if now >= due and (item is None or now > due + 0.5):
                    self._machine.tick(now)
                self._collect()
                outbox, self._outbox = self._outbox, deque()
            self._write(channel, outbox)
            if isinstance(item, Closed):
                return
            del item, heard  # A chunk's memory goes back before the next one comes.

    def _withdrawn(self) -> Closed | None:
        """The end of a connection whose keys its owner has taken back, or replaced, meanwhile."""
        now = time.monotonic()
        if now < self._look:
            return None
        self._look = now + self._options.heartbeat
        if self._holds(self._options):
            return None
        with self._lock:
            self._machine.goodbye("its owner has changed which keys it trusts")
        return Closed(b"", "this node's owner has changed which keys it trusts")

    def _heard(self, item: Item | None) -> Item | None:
        """What the machine is told of an item: a refusal in words."""
        if isinstance(item, Opened):
            self._handshakes.opened()
        return self._handshakes.ended(item, self._options) if isinstance(item, Closed) else item

    def _timeout(self) -> float:
        if self._outbox:
            return 0.0
        now = time.monotonic()
        with self._lock:
            self._sleeps_until = self._machine.deadline(now)
            due = max(0.0, self._sleeps_until - now)
        return min(due, _RETRY) if self._waiting or self._stop else due

    def _write(self, channel: Channel, outbox: deque[Send]) -> None:
        self._waiting.extend(outbox)
        try:
            while self._waiting:
                frame = self._waiting[0]
                if not channel.send(frame.header, frame.body):
                    break
                self._waiting.popleft()
                if frame.body:
                    crash_point("chunk-sent")
        except ConnectionLostError:
            self._waiting.clear()  # `Closed` follows; the next session offers and asks for what is missing.
        self._machine.backlog = len(self._waiting)


def _counted(traffic: Traffic) -> dict[str, int]:
    return {name: getattr(traffic, name) for name in _COUNTERS}  # `asdict` copies each number, several times a second
