"""The node's half of sessions: HELLO, WELCOME, liveness, what is said again. Base of `NodeMachine`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedplug.core.errors import CodecError
from fedplug.core.link import Connected, Disconnected, EarlierTasks
from fedplug.core.messages import DatasetCard, NodeInfo, PlanAnswer, TaskKey
from fedplug.core.params import Params, allocate
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import Allocate
from fedplug.core.transport import Buffer, Closed, Frame, Item, Opened
from fedplug.protocol.actions import Action, Deliver, Ledger, Reconnect, Send
from fedplug.protocol.jobs import FETCHING, Job
from fedplug.protocol.limits import Limits
from fedplug.protocol.pulls import Puller
from fedplug.protocol.sessions import CAPABILITIES, JOURNAL, VERSIONS
from fedplug.protocol.signs import SignLane
from fedplug.wire import AnyHeader, VersionError, decode_header, encode_header
from fedplug.wire import headers as h

OFF = "off"
CONNECTING = "connecting"
GREETING = "greeting"
ON = "on"


class Membership(ABC):
    """One node's sessions with its researcher.

    Args:
        info: Who this node is.
        limits: Figures; chunk size, credit and heartbeat become those of the researcher's WELCOME.
        incarnation: Names this run of the node; larger than that of any run before. The clock by default.
        earlier: What the node's journal says of the tasks of earlier runs; None if it keeps none.
        place: Where the arrays of a task go: called once per array blob with its size. The memory must not be
            used again while `Params` over it are alive; the node itself keeps the last model.
    """

    def __init__(
        self,
        info: NodeInfo,
        limits: Limits | None = None,
        *,
        incarnation: int | None = None,
        earlier: EarlierTasks | None = None,
        place: Allocate | None = None,
    ) -> None:
        self.info = info
        self.session: h.Session = (time.time_ns() if incarnation is None else incarnation, 0)
        self.phase = OFF
        self.stats: Counter[str] = Counter()
        self.backlog = 0
        self._limits = limits or Limits()
        self._allocate: Allocate = place or allocate
        self._actions: list[Action] = []
        self._jobs: dict[TaskKey, Job] = {}
        self._ends = Ledger(self._limits.remembered)
        self._capabilities = CAPABILITIES if earlier is None else (*CAPABILITIES, JOURNAL)
        self._shared: tuple[str, ...] = ()  # capabilities that the researcher has as well
        for key, how in earlier.ends.items() if earlier else ():
            self._ends.close(key, how)
        for task in earlier.finished if earlier else ():
            self._jobs[task.reply.key] = Job.restored(task)
        self._puller = Puller(self._limits, self.stats)
        self._signs = SignLane(self._limits, self.stats)
        self._plan: PlanBundle | None = None
        self._model: Params | None = None
        self._query: int | None = None
        self._cards: tuple[DatasetCard, ...] | None = None
        self._plan_asked: h.PlanAsk | None = None
        self._plan_answer: PlanAnswer | None = None
        self._heard = 0.0
        self._told = 0.0
        self._swept = 0.0
        self._seq = 0
        self._epoch = ""
        self._trouble: str | None = None
        self._handlers: dict[type, Callable[[Any, memoryview, float], None]] = {
            h.Welcome: self._on_welcome,
            h.Refuse: self._on_refuse,
            h.Rehello: self._on_rehello,
            h.Hb: self._on_hb,
            h.Bye: self._on_bye,
            h.Search: self._on_search,
            h.PlanAsk: self._on_plan_ask,
            h.Task: self._on_task,
            h.Get: self._on_get,
            h.Chunk: self._on_chunk,
            h.Sums: self._on_sums,
            h.Committed: self._on_committed,
            h.Cancel: self._on_cancel,
            h.Error: self._on_error,
        }

    # -- the driver's side --------------------------------------------------------------------------------------

    def take(self) -> list[Action]:
        """What is to be done since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def deadline(self, now: float) -> float:
        """When `tick` is due at the latest."""
        due = self._swept + self._limits.sweep
        if self.phase == ON:
            first = self._ack_due
            if first is None:
                first = self._signs.deadline(now)
            if first is not None and first < due:
                return first
        return due

    @property
    def _ack_due(self) -> float | None:
        """When the first acknowledgement is due, with which signs of life go out; None if none is."""
        return min((job.ack_due for job in self._jobs.values() if job.ack_due), default=None)

    def connecting(self, now: float) -> None:
        """A connection is being made. If nothing is heard of it, it is given up in time."""
        self.phase = CONNECTING
        self._heard = now

    def on(self, item: Item, now: float) -> None:
        """Something happened on the channel."""
        if isinstance(item, Frame):
            self._on_frame(item, now)
        elif isinstance(item, Opened):
            self._greet(now)
        elif isinstance(item, Closed):
            self._lost(item.reason or "the connection was lost", refused=item.refusal is not None)

    def tick(self, now: float) -> None:
        """Time has passed: heartbeats, silence, acknowledgements, repetitions."""
        if self.phase == ON:
            for job in self._jobs.values():
                if job.ack_due and now >= job.ack_due:
                    job.ack_due = 0.0
                    self._tell(h.TaskAck(session=self.session, key=job.key, state="held"), now)
            if self._ack_due is None:
                self._flush_signs(now)
        if now < self._swept + self._limits.sweep:
            return
        # If this process was held up, the researcher's messages wait to be read: that is no silence of his.
        pause = now - self._swept - self._limits.sweep if self._swept else 0.0
        self._swept = now
        if self.phase == OFF:
            return
        if pause > self._limits.heartbeat:
            self._heard = min(now, self._heard + pause)
        patience = self._limits.patience if self._puller.busy("") else 1.0
        if now - self._heard > self._limits.silence * patience:
            self._lost(f"nothing was heard of the researcher for {now - self._heard:.1f} s")
            self._do(Reconnect())
            return
        if self.phase == ON:
            if now - self._told >= self._limits.heartbeat:
                self._seq += 1
                self._tell(h.Hb(session=self.session, seq=self._seq, held=self._held()), now)
            for job in self._jobs.values():
                if job.ended and 0 < job.due <= now:
                    self.stats["ends_repeated"] += 1
                    self._tell_end(job, now)
            self._puller.look(now)
            self._grant(now)

    def goodbye(self, reason: str) -> None:
        """Tell the researcher that the node leaves."""
        if self.phase == ON:
            self._do(Send(b"", encode_header(h.Bye(session=self.session, reason=reason))))

    # -- sessions -----------------------------------------------------------------------------------------------

    def _greet(self, now: float) -> None:
        """Begin a session."""
        self._puller.pause("")
        self.session = (self.session[0], self.session[1] + 1)
        self.phase = GREETING
        self._heard = now
        hello = h.Hello(
            session=self.session, versions=VERSIONS, node=self.info, held=self._taken(),
            capabilities=self._capabilities,
        )  # fmt: skip
        self._do(Send(b"", encode_header(hello)))

    def _on_frame(self, frame: Frame, now: float) -> None:
        try:
            header = decode_header(frame.header)
        except CodecError as error:
            self.stats["messages_malformed"] += 1
            if isinstance(error, VersionError):
                self._trouble_with(str(error), refused=True)
            return
        current = header.session == self.session or (isinstance(header, h.Refuse) and header.session == (0, 0))
        if not current or self.phase in (OFF, CONNECTING):
            self.stats["messages_stale"] += 1
            return
        if self.phase == GREETING and not isinstance(header, h.Welcome | h.Refuse | h.Rehello | h.Bye):
            self.stats["messages_stale"] += 1
            return
        handler = self._handlers.get(type(header))
        if handler is None:
            self.stats["messages_malformed"] += 1
            return
        self._heard = now
        try:
            handler(header, frame.body, now)
        except CodecError:
            self.stats["messages_malformed"] += 1

    def _on_welcome(self, header: h.Welcome, body: memoryview, now: float) -> None:
        if self.phase == ON:
            return
        self._limits = replace(self._limits, chunk=header.chunk, peer_credit=header.credit, heartbeat=header.heartbeat)
        self._puller.adopt(self._limits)
        self.phase = ON
        self._trouble = None
        self._shared = header.capabilities
        self._query = self._cards = None
        self._plan_asked = self._plan_answer = None
        self._puller.drop("", lambda token: token[0] is None)
        if header.epoch != self._epoch:
            # A researcher that was restarted has nothing to give for what is still being fetched, and asks anew.
            for key in [key for key, job in self._jobs.items() if job.state == FETCHING]:
                del self._jobs[key]
                self._puller.drop("", lambda token, key=key: token[0] == key)  # type: ignore[misc]
        self._epoch = header.epoch
        self._do(Deliver(Connected(header.researcher)))
        self._puller.resume("")
        for job in self._jobs.values():
            if job.ended:
                job.wait = 0.0
                self._tell_end(job, now)
        self._grant(now)
        self._flush_signs(now)

    def _on_refuse(self, header: h.Refuse, body: memoryview, now: float) -> None:
        self._puller.pause("")
        self.phase = OFF
        self._trouble_with(header.text or header.code, refused=True)
        self._do(Reconnect(header.retry_after))

    def _on_rehello(self, header: h.Rehello, body: memoryview, now: float) -> None:
        self.stats["rehellos"] += 1
        self._greet(now)

    def _on_hb(self, header: h.Hb, body: memoryview, now: float) -> None:
        """That it came says most; there may be more nodes now, or fewer, so that signs are to come at another pace."""
        if header.heartbeat:
            self._limits = replace(self._limits, heartbeat=header.heartbeat)

    def _on_bye(self, header: h.Bye, body: memoryview, now: float) -> None:
        self._lost(f"the researcher said goodbye{': ' + header.reason if header.reason else ''}")
        self._do(Reconnect())

    def _lost(self, reason: str, *, refused: bool = False) -> None:
        self.phase = OFF
        self._puller.pause("")
        self._trouble_with(reason, refused=refused)

    def _trouble_with(self, reason: str, *, refused: bool) -> None:
        """Report that the researcher cannot be reached, once per change."""
        trouble = reason if refused else ""
        if trouble != self._trouble:
            self._trouble = trouble
            self._do(Deliver(Disconnected(reason, refused)))

    # -- for the machine ----------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _tell(self, header: AnyHeader, now: float) -> None:
        self._send(encode_header(header), b"", now)

    def _send(self, header: bytes, body: Buffer, now: float) -> None:
        if self.phase == ON:
            self._told = now
            self._do(Send(b"", header, body))

    def _tell_end(self, job: Job, now: float) -> None:
        """Offer the update, or say that the task failed; again until the researcher takes note."""
        job.ack_due = 0.0
        if self.phase == ON:
            self._flush_signs(now)
            job.wait = min(2 * job.wait or self._limits.repeat, self._limits.repeat_longest)
            job.due = now + job.wait
            self._send(*job.message(self.session, self._limits.inline), now)

    def _held(self) -> tuple[TaskKey, ...]:
        return tuple(self._jobs)[:1024]

    def _taken(self) -> tuple[TaskKey, ...]:
        """The tasks that need nothing more from the researcher; of the others he may know nothing any more."""
        return tuple(key for key, job in self._jobs.items() if job.state != FETCHING)[:1024]

    def _flush_signs(self, now: float) -> None:
        if self.phase == ON and (event := self._signs.flush(self.session, now)) is not None:
            self._tell(event, now)

    def _grant(self, now: float) -> None:
        if self.phase == ON:
            for _, blob, ranges, sums in self._puller.grant():
                self._tell(h.Get(session=self.session, blob=blob, ranges=ranges, sums=sums), now)

    @abstractmethod
    def _on_search(self, header: h.Search, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_plan_ask(self, header: h.PlanAsk, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_task(self, header: h.Task, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_get(self, header: h.Get, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_chunk(self, header: h.Chunk, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_sums(self, header: h.Sums, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_committed(self, header: h.Committed, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_cancel(self, header: h.Cancel, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_error(self, header: h.Error, body: memoryview, now: float) -> None: ...
