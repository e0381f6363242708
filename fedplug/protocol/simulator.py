"""A deterministic world for the machines: one researcher, some nodes, a bad network, a clock that is a number.

Everything that happens follows from the seed: delays, cut connections, lines that swallow everything without a
word, stalls, duplicated frames, damaged chunks, nodes that are killed and come back empty-handed, cancelled tasks.
After `Story.calm` no more faults happen. What must hold, whatever the seed:

- a task reaches the runtime of its node at most once, over all restarts of the node;
- an update is counted exactly once, with the bytes that the node sent, and the node got the bytes of the model;
- nothing is heard of a cancelled task; no task fails for a reason that did not occur;
- a dead line is noticed; the credit is kept; nothing is left over at the nodes;
- everything ends.

The first thing that does not hold raises `Violation`, which names the seed.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fedplug.core.messages import NodeInfo
from fedplug.core.transport import Closed, Frame, Opened
from fedplug.protocol.actions import Deliver, Drop, Reconnect, Send
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.protocol.simulated_users import SimulatedExperiment, SimulatedNode, Violation
from fedplug.wire import decode_header, encode_header
from fedplug.wire import headers as h

SMALL = Limits(chunk=64, inline=96, peer_credit=4, pool_credit=6, offer=16_384, task=16_384, remembered=10_000)
"""Limits under which a few hundred bytes are a large blob."""


@dataclass(frozen=True, slots=True)
class Story:
    """How bad the world is.

    Attributes:
        nodes: Number of nodes.
        rounds: Rounds that the experiment wants.
        calm: Seconds until the faults stop.
        patience: Seconds after that in which everything must end.
        pause: Mean seconds between two faults.
        liars: Whether chunks may be damaged in a way that their checksum does not show.
    """

    nodes: int = 3
    rounds: int = 5
    calm: float = 90.0
    patience: float = 400.0
    pause: float = 2.5
    liars: bool = False


class _Line:
    """One connection. Frames keep their order; they vanish with it."""

    def __init__(self, token: bytes, node: int) -> None:
        self.token = token
        self.node = node
        self.up = True
        self.holes = {"up": False, "down": False}
        self.stalled = 0.0
        self.last = {"up": 0.0, "down": 0.0}


class Simulator:
    """One run of one seed.

    Args:
        seed: Decides everything.
        story: How bad the world is.
        researcher: The machine under test; a mutant in the tests of the simulator.
        node: Likewise.
    """

    def __init__(
        self,
        seed: int,
        story: Story | None = None,
        *,
        researcher: type[ResearcherMachine] = ResearcherMachine,
        node: type[NodeMachine] = NodeMachine,
    ) -> None:
        self.seed = seed
        self.story = story or Story(liars=seed % 3 == 0)
        self.now = 1.0
        self.faults: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._lines: dict[bytes, _Line] = {}
        self._current: list[_Line | None] = [None] * self.story.nodes
        self._lives = [0] * self.story.nodes
        self._make_node = node
        self.machine = researcher(SMALL, name="simulated", epoch="1")
        self.experiment = SimulatedExperiment(self, self.machine, self.story.nodes, self.story.rounds)
        self.nodes: list[SimulatedNode | None] = [None] * self.story.nodes

    def run(self) -> SimulatedExperiment:
        """Play the story to its end.

        Raises:
            Violation: Something that must hold does not.
        """
        try:
            for index in range(self.story.nodes):
                self.later(self._rng.uniform(0, 5), lambda index=index: self._boot(index))  # type: ignore[misc]
            self.later(self._rng.uniform(0, 5), self._begin)
            self.later(self._rng.expovariate(1 / self.story.pause), self._fault)
            self._tick_researcher()
            end = self.story.calm + self.story.patience
            while self._heap and self.now < end and not (self.experiment.done and self._clean()):
                self.now, _, action = heapq.heappop(self._heap)
                action()
                if self.machine._puller.under_way > SMALL.pool_credit:
                    raise Violation("more chunks are under way than the credit allows")
            self.experiment.check_end()
            if not self._clean():
                held = [list(node.machine._jobs) for node in self.nodes if node]
                raise Violation(f"nodes still hold tasks: {held}")
        except Violation as violation:
            raise Violation(f"seed {self.seed}, at {self.now:.3f} s: {violation}") from violation
        return self.experiment

    # -- for the users ------------------------------------------------------------------------------------------

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do something after ``delay`` seconds."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, action))

    def uniform(self, low: float, high: float) -> float:
        """A random number."""
        return self._rng.uniform(low, high)

    def happens(self, chance: float) -> bool:
        """A biased coin; faults never happen in the calm."""
        return self.now < self.story.calm and self._rng.random() < chance

    # -- processes ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.experiment.begin()
        self.carry_out()

    def _clean(self) -> bool:
        return all(node is not None and not node.machine._jobs for node in self.nodes)

    def _boot(self, index: int) -> None:
        self._lives[index] += 1
        machine = self._make_node(NodeInfo(node_id=f"n{index}"), SMALL, incarnation=100 * self._lives[index] + index)
        node = self.nodes[index] = SimulatedNode(self, machine, self.experiment)
        self._connect(node)
        self._tick_node(node)

    def _connect(self, node: SimulatedNode) -> None:
        index = int(node.machine.info.node_id[1:])
        if self.nodes[index] is not node or self._current[index] is not None:
            return
        self._number += 1
        line = _Line(self._number.to_bytes(4, "big"), index)
        self._lines[line.token] = line
        self._current[index] = line
        node.machine.connecting(self.now)
        self._move(line, "up", lambda: self.machine.on(Opened(line.token), self.now))
        self._move(line, "down", lambda: node.machine.on(Opened(b""), self.now))

    def _tick_researcher(self) -> None:
        self.machine.tick(self.now)
        self.carry_out()
        self.later(max(0.01, self.machine.deadline - self.now), self._tick_researcher)

    def _tick_node(self, node: SimulatedNode) -> None:
        if node in self.nodes:
            node.machine.tick(self.now)
            self.carry_out_node(node)
            due = node.machine.deadline(self.now) - self.now
            self.later(min(0.5, max(0.01, due)), lambda: self._tick_node(node))

    # -- actions ------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Do what the researcher's machine wants."""
        for action in self.machine.take():
            if isinstance(action, Send):
                line = self._lines.get(action.peer)
                if line is not None:
                    self._send(line, "down", action)
            elif isinstance(action, Drop):
                line = self._lines.get(action.peer)
                if line is not None:
                    self._cut(line, tell_node=self._rng.random() < 0.5, tell_researcher=False)
            elif isinstance(action, Deliver):
                self.experiment.on(action.event)
        self.experiment.flush()

    def carry_out_node(self, node: SimulatedNode) -> None:
        """Do what a node's machine wants."""
        index = int(node.machine.info.node_id[1:])
        for action in node.machine.take():
            line = self._current[index]
            if isinstance(action, Send) and line is not None:
                self._send(line, "up", action)
            elif isinstance(action, Reconnect):
                if line is not None:
                    self._cut(line, tell_node=False, tell_researcher=not line.holes["up"])
                self._reconnect(node, action.after)
            elif isinstance(action, Deliver):
                node.on(action.event)

    def _reconnect(self, node: SimulatedNode, after: float = 0.0) -> None:
        self.later(max(after, self._rng.uniform(1.5, 2.5)), lambda: self._connect(node))

    # -- the network --------------------------------------------------------------------------------------------

    def _send(self, line: _Line, way: str, action: Send) -> None:
        header, body = action.header, memoryview(bytes(action.body))
        kind = decode_header(header)
        if isinstance(kind, h.Chunk) and self.happens(0.02):
            self.faults["damaged"] += 1
            body = memoryview(bytes([body[0] ^ 1]) + bytes(body[1:]))
            if self.story.liars and self.happens(0.5):
                self.faults["lies"] += 1
                lie = h.Chunk(session=kind.session, blob=kind.blob, index=kind.index, crc=zlib.crc32(body))
                header = encode_header(lie)
        times = 2 if self.happens(0.02) else 1
        for _ in range(times):
            self._move(line, way, lambda: self._arrive(line, way, header, body))

    def _move(self, line: _Line, way: str, action: Callable[[], None]) -> None:
        """Let something travel: in order, after a delay, if the line holds."""
        if not line.up or line.holes[way]:
            return
        arrival = max(self.now + self._rng.expovariate(20), line.stalled, line.last[way] + 1e-6)
        line.last[way] = arrival

        def act() -> None:
            if line.up and not line.holes[way]:
                action()
                node = self.nodes[line.node]
                self.carry_out()
                if node is not None:
                    self.carry_out_node(node)

        self.later(arrival - self.now, act)

    def _arrive(self, line: _Line, way: str, header: bytes, body: memoryview) -> None:
        if way == "up":
            self.machine.on(Frame(line.token, header, body), self.now)
        elif (node := self.nodes[line.node]) is not None and self._current[line.node] is line:
            node.machine.on(Frame(b"", header, body), self.now)

    def _cut(self, line: _Line, *, tell_node: bool, tell_researcher: bool) -> None:
        """End a connection; what is under way on it is lost. Ends that are not told must notice by themselves."""
        line.up = False
        self._lines.pop(line.token, None)
        node = self.nodes[line.node]
        if tell_researcher:
            self.later(self._rng.uniform(0, 0.5), lambda: self._tell_researcher(line))
        if self._current[line.node] is not line or node is None:
            return
        if tell_node:
            self._current[line.node] = None
            self.later(self._rng.uniform(0, 0.5), lambda: self._tell_node(node))
        elif node.machine.phase == "off":
            self._current[line.node] = None

    def _tell_researcher(self, line: _Line) -> None:
        self.machine.on(Closed(line.token, "cut"), self.now)
        self.carry_out()

    def _tell_node(self, node: SimulatedNode) -> None:
        if node in self.nodes:
            node.machine.on(Closed(b"", "cut"), self.now)
            self.carry_out_node(node)
            self._reconnect(node)

    # -- faults -------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        if self.now >= self.story.calm:
            return
        self.later(self._rng.expovariate(1 / self.story.pause), self._fault)
        index = self._rng.randrange(self.story.nodes)
        line = self._current[index]
        kind = self._rng.choice(["cut", "cut", "hole", "one-way", "stall", "restart", "cancel"])
        if kind == "cancel":
            self.experiment.cancel_one(index)
            self.carry_out()
        elif kind == "restart":
            self._kill(index)
        elif line is None:
            return
        elif kind == "cut":
            self._cut(line, tell_node=True, tell_researcher=True)
        elif kind == "stall":
            line.stalled = self.now + self._rng.uniform(1, 12)
        else:
            ways = ("up", "down") if kind == "hole" else (self._rng.choice(["up", "down"]),)
            for way in ways:
                line.holes[way] = True
            silence = SMALL.silence * SMALL.patience + 2.0
            self.later(silence, lambda: self._check_noticed(line, ways))
        self.faults[kind] += 1

    def _kill(self, index: int) -> None:
        node, line = self.nodes[index], self._current[index]
        if node is None:
            return
        self.nodes[index] = None
        if line is not None:
            self._cut(line, tell_node=False, tell_researcher=self._rng.random() < 0.7)
            self._current[index] = None
        self.later(self._rng.uniform(0.5, 5), lambda: self._boot(index))

    def _check_noticed(self, line: _Line, ways: tuple[str, ...]) -> None:
        """Whoever hears nothing on a line must have given it up by now."""
        known = self.machine._known.get(f"n{line.node}")
        if "up" in ways and known is not None and known.peer is not None and known.peer.token == line.token:
            raise Violation(f"the researcher takes a dead line of {known.node_id} for alive")
        node = self.nodes[line.node]
        if "down" in ways and node is not None and self._current[line.node] is line and line.up:
            raise Violation(f"n{line.node} takes a dead line for alive")
