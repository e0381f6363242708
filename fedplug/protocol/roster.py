"""The researcher's half of sessions: connections, HELLO, liveness, who may speak. Base of `ResearcherMachine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from fedplug.core.errors import CodecError
from fedplug.core.messages import NodeInfo, TaskKey
from fedplug.core.pool import NodeJoined, NodeLost
from fedplug.core.transport import Buffer, Closed, Frame, Item, Opened, TurnedAway
from fedplug.protocol.actions import Action, Deliver, Drop, Ledger, Say, Send
from fedplug.protocol.admission import No, copy_alarm, mute_notice, muted, outranked, replaced, unfit
from fedplug.protocol.bodies import chunks
from fedplug.protocol.limits import Limits
from fedplug.protocol.pulls import Puller
from fedplug.protocol.questions import Question
from fedplug.protocol.sessions import CHUNK_SUMS, Node, Peer, welcome
from fedplug.protocol.strikes import Strikes
from fedplug.protocol.visitors import Visitors
from fedplug.wire import AnyHeader, Blob, VersionError, decode_header, encode_header
from fedplug.wire import headers as h


class Roster(ABC):
    """Connections and nodes.

    Args:
        limits: Figures.
        name: What the nodes are told about who they work for.
        epoch: Names this run of the researcher.
        enrolled: The id of the node that a public key is enrolled for, as in `TransportOptions`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        name: str = "researcher",
        epoch: str = "",
        enrolled: Callable[[str], str] | None = None,
    ) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.stats: Counter[str] = Counter()
        self.backlog: dict[bytes, int] = {}
        self._limits = limits or Limits()
        self._name = name
        self._epoch = epoch
        self._enrolled = enrolled
        self._visitors = Visitors()
        self._peers: dict[bytes, Peer] = {}
        self._known: dict[str, Node] = {}
        self._actions: list[Action] = []
        self._search = Question(self._limits)
        self._plan_question = Question(self._limits)
        self._strikes = Strikes(self._limits)
        self._ends = Ledger(self._limits.remembered)
        self._puller = Puller(self._limits, self.stats)
        self._blobs: WeakValueDictionary[str, Blob] = WeakValueDictionary()
        self._plan_blob: Blob | None = None
        self._swept = 0.0
        self._seq = 0
        self._handlers: dict[type, Callable[[Node, Any, memoryview, float], None]] = {
            h.Hb: self._on_hb,
            h.Bye: self._on_bye,
            h.Datasets: self._on_datasets,
            h.PlanStatus: self._on_plan_status,
            h.TaskAck: self._on_task_ack,
            h.Offer: self._on_offer,
            h.Error: self._on_error,
            h.Event: self._on_event,
            h.Get: self._on_get,
            h.Chunk: self._on_chunk,
            h.Sums: self._on_sums,
        }

    # -- the driver's side --------------------------------------------------------------------------------------

    def take(self) -> list[Action]:
        """What is to be done since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    @property
    def deadline(self) -> float:
        """When `tick` is due at the latest."""
        return self._swept + self._limits.sweep

    def on(self, item: Item, now: float) -> None:
        """Something happened on the transport."""
        if isinstance(item, Frame):
            self._on_frame(item, now)
        elif isinstance(item, Opened):
            self._peers.setdefault(item.peer, Peer(item.peer, now, item.key))
            self._visitors.let_in(item.key)
        elif isinstance(item, TurnedAway):
            self.stats[f"turned_away_{item.refusal}"] += 1
            if line := self._visitors.turned_away(item, now):
                self._do(Say(line))
        elif isinstance(item, Closed):
            peer = self._peers.pop(item.peer, None)
            if peer is not None and peer.node is not None:
                self._lose(peer.node, item.reason or "the connection was lost")

    def tick(self, now: float) -> None:
        """Time has passed: heartbeats, silence, repetitions."""
        if now < self.deadline:
            return
        # If this process was held up, the nodes' messages wait to be read: that is no silence of theirs.
        pause = now - self.deadline if self._swept else 0.0
        self._swept = now
        pace = self._limits.pace(len(self.nodes))
        questions = [question for question in (self._search, self._plan_question) if question.is_posed]
        for node in self._present():
            if node.peer is None:
                continue
            if pause > self._limits.heartbeat:
                node.heard = max(node.heard, min(now, node.heard + pause))
            silence = node.heartbeat * self._limits.missed
            if now - node.heard > silence and not (
                self._puller.busy(node.node_id) and now - node.heard <= silence * self._limits.patience
            ):
                # The connection stays: if the node was only held up, its next message is answered with REHELLO.
                node.peer.node, node.peer.opened = None, now
                self._lose(node, f"nothing was heard of it for {now - node.heard:.1f} s")
                continue
            if now - node.told >= node.heartbeat:
                self._seq += 1
                new_pace = node.new_pace(pace, now)
                self._tell(node, h.Hb(session=node.session, seq=self._seq, heartbeat=new_pace), now)
            for question in questions:
                if question.is_due(node, now):
                    self._ask(question, node, now, again=True)
            if node.tasks:
                self._repeat_tasks(node, now)
        patience = self._limits.silence * self._limits.strangers
        for peer in [p for p in self._peers.values() if p.node is None and now - p.opened > patience]:
            self.stats["peers_silent"] += 1
            self._drop(peer)
        self._puller.look(now)
        self._grant(now)

    def goodbye(self, reason: str) -> None:
        """Tell all nodes that the researcher leaves."""
        for node in self._present():
            self._tell(node, h.Bye(session=node.session, reason=reason))

    # -- sessions -----------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame, now: float) -> None:
        peer = self._peers.get(frame.peer)
        if peer is None:
            peer = self._peers[frame.peer] = Peer(frame.peer, now, frame.key)
        try:
            header = decode_header(frame.header)
        except CodecError as error:
            if isinstance(error, VersionError) and peer.node is None:
                self._refuse(peer, (0, 0), No("version", str(error), 30.0))
            self._strike(peer, error.message, now)
            return
        if isinstance(header, h.Hello):
            self._on_hello(peer, header, now)
            return
        node = peer.node
        if node is None or header.session != node.session:
            self._on_stale(peer, header, now)
            return
        node.heard = now
        handler = self._handlers.get(type(header))
        if handler is None:
            self._strike(peer, f"{type(header).__name__} is nothing that a node says", now)
            return
        try:
            handler(node, header, frame.body, now)
        except CodecError as error:
            self._strike(peer, error.message, now)

    def _on_stale(self, peer: Peer, header: AnyHeader, now: float) -> None:
        """A message of no session, or of another: it is not acted on, and it is no sign of life."""
        self.stats["messages_stale"] += 1
        if not isinstance(header, h.Bye):
            self._do(Send(peer.token, encode_header(h.Rehello(session=header.session))))

    def _on_hello(self, peer: Peer, hello: h.Hello, now: float) -> None:
        no = unfit(peer, hello, self._enrolled)
        if no is None and (left := self._strikes.muted(hello.node.node_id, now) or self._strikes.muted(peer.key, now)):
            no = muted(self._limits, left)
        if no is not None:
            self._refuse(peer, hello.session, no)
            return
        node = self._node(hello.node.node_id)
        other = node.peer
        if other is not None and hello.session[0] == node.session[0] and hello.session <= node.session:
            if other is peer and hello.session == node.session:
                self._welcome(node, hello, now)
            else:
                self.stats["hellos_stale"] += 1
            return
        if other is not None and other is not peer:
            if hello.session[0] != node.session[0]:
                if (no := outranked(peer, hello, node, self._limits, now)) is not None:
                    self._refuse(peer, hello.session, no)
                    if line := copy_alarm(peer, hello, node, now):
                        self._do(Say(line))
                    return
                if peer.key:
                    self._refuse(other, node.session, replaced(self._limits))
            self._drop(other)
        if peer.node is not None and peer.node is not node:
            self._lose(peer.node, "its connection was taken over by another node")
        new = node.peer is None
        node.peer, peer.node = peer, node
        node.session, node.info = hello.session, hello.node
        node.capabilities = frozenset(hello.capabilities)
        node.heard = now
        node.known_plan = node.known_params = ""
        node.strangers.clear()
        self.nodes[node.node_id] = hello.node
        node.heartbeat = self._limits.pace(len(self.nodes))
        self._welcome(node, hello, now)
        if new:
            self._do(Deliver(NodeJoined(hello.node)))
        self._puller.resume(node.node_id)
        self._resume_tasks(node, frozenset(hello.held), now)
        self._ask(self._search, node, now)
        self._ask(self._plan_question, node, now)
        self._grant(now)

    def _welcome(self, node: Node, hello: h.Hello, now: float) -> None:
        self._tell(node, welcome(node, hello, self._limits, epoch=self._epoch, researcher=self._name), now)

    def _refuse(self, peer: Peer, session: h.Session, no: No) -> None:
        self.stats[f"refused_{no.code}"] += 1
        header = h.Refuse(session=session, code=no.code, text=no.text[:1024], retry_after=no.retry_after)
        self._do(Send(peer.token, encode_header(header)))

    def _on_hb(self, node: Node, header: h.Hb, body: memoryview, now: float) -> None:
        self._on_held(node, header.held)

    def _on_bye(self, node: Node, header: h.Bye, body: memoryview, now: float) -> None:
        self._hang_up(node, f"it said goodbye ({header.reason})" if header.reason else "it said goodbye")

    def _hang_up(self, node: Node, reason: str) -> None:
        if node.peer is not None:
            self._drop(node.peer)
        self._lose(node, reason)

    def _drop(self, peer: Peer) -> None:
        self._peers.pop(peer.token, None)
        self._do(Drop(peer.token))

    def _lose(self, node: Node, reason: str) -> None:
        node.peer = None
        self._search.pause(node)
        self._plan_question.pause(node)
        self.nodes.pop(node.node_id, None)
        self._puller.pause(node.node_id)
        self._do(Deliver(NodeLost(node.node_id, reason)))

    def _strike(self, peer: Peer, what: str, now: float) -> None:
        """Something unusable came. Who sends too much of that is dropped, and muted if it can be told who it is."""
        self.stats["messages_malformed"] += 1
        node = peer.node
        sender = node.node_id if node is not None else peer.key or peer.token
        if not (known_for_it := self._strikes.muted(sender, now) > 0) and not self._strikes.add(sender, now):
            return
        self.stats["peers_dropped"] += 1
        self._drop(peer)
        if isinstance(sender, str) and not known_for_it:
            self._do(Say(mute_notice(sender, self._limits, what)))
        if node is not None:
            self._lose(node, f"it sent too many unusable messages; the last one: {what}")

    # -- for the machine ----------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _present(self) -> list[Node]:
        return [node for node in self._known.values() if node.peer is not None]

    def _node(self, node_id: str) -> Node:
        node = self._known.get(node_id)
        if node is None:
            node = self._known[node_id] = Node(node_id, NodeInfo(node_id=node_id))
        return node

    def _tell(self, node: Node, header: AnyHeader, now: float | None = None) -> None:
        if node.peer is not None:
            self._send(node, encode_header(header), b"", now)

    def _send(self, node: Node, header: bytes, body: Buffer, now: float | None) -> None:
        if node.peer is not None:
            node.told = node.told if now is None else now
            self._do(Send(node.peer.token, header, body))

    def _ask(self, question: Question, node: Node, now: float, *, again: bool = False) -> None:
        if node.peer is not None and (message := question.ask(node, now, again=again)) is not None:
            self._send(node, *message, now)

    def _serve(self, node: Node, blob: Blob | None, header: h.Get) -> None:
        if node.peer is None:
            return
        if blob is None:
            text = "It is not part of a task of this node."
            self._tell(node, h.Error(session=node.session, code="no-blob", text=text, blob=header.blob))
            return
        if self.backlog.get(node.peer.token, 0) > self._limits.peer_backlog:
            self.stats["gets_ignored"] += 1
            return
        for frame in chunks(blob, header, node.session, self._limits, bare=CHUNK_SUMS in node.capabilities):
            self._do(Send(node.peer.token, *frame))

    def _grant(self, now: float) -> None:
        for owner, blob, ranges, sums in self._puller.grant():
            node = self._node(owner)
            self._tell(node, h.Get(session=node.session, blob=blob, ranges=ranges, sums=sums), now)

    @abstractmethod
    def _resume_tasks(self, node: Node, held: frozenset[TaskKey], now: float) -> None: ...
    @abstractmethod
    def _repeat_tasks(self, node: Node, now: float) -> None: ...
    @abstractmethod
    def _on_held(self, node: Node, held: tuple[TaskKey, ...]) -> None: ...
    @abstractmethod
    def _on_datasets(self, node: Node, header: h.Datasets, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_plan_status(self, node: Node, header: h.PlanStatus, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_task_ack(self, node: Node, header: h.TaskAck, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_offer(self, node: Node, header: h.Offer, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_error(self, node: Node, header: h.Error, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_event(self, node: Node, header: h.Event, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_get(self, node: Node, header: h.Get, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_chunk(self, node: Node, header: h.Chunk, body: memoryview, now: float) -> None: ...
    @abstractmethod
    def _on_sums(self, node: Node, header: h.Sums, body: memoryview, now: float) -> None: ...
