"""The network of the simulator: lines that delay, double, damage, swallow and end what travels on them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from fedplug.core.transport import Closed, Frame, Opened
from fedplug.protocol.actions import Send
from fedplug.protocol.simulated_node import SimulatedNode
from fedplug.wire import decode_header, encode_header
from fedplug.wire import headers as h

if TYPE_CHECKING:
    from fedplug.protocol.simulator import Simulator


class Line:
    """One connection. Frames vanish with it; they keep their order but for a few that overtake others."""

    def __init__(self, token: bytes, node: int) -> None:
        self.token = token
        self.node = node
        self.up = True
        self.drains = ""
        self.holes = {"up": False, "down": False}
        self.stalled = 0.0
        self.last = {"up": 0.0, "down": 0.0}


class SimulatedNetwork:
    """All lines.

    Args:
        world: Clock and chance, and who is at the ends.
    """

    def __init__(self, world: Simulator) -> None:
        self.lines: dict[bytes, Line] = {}
        self.current: list[Line | None] = [None] * world.story.nodes
        self.listening = False
        self._world = world
        self._number = 0
        self._lies: dict[tuple[str, int], int] = {}  # checksums to match a damaged chunk, each told once

    def connect(self, node: SimulatedNode) -> None:
        """A node connects, unless it has a connection, or is not the one that runs any more."""
        world = self._world
        if world.nodes[node.index] is not node or self.current[node.index] is not None:
            return
        node.machine.connecting(world.now)
        if not self.listening:
            world.later(world.uniform(0, 0.1), lambda: self._tell_node(node, None))
            return
        self._number += 1
        line = Line(self._number.to_bytes(4, "big"), node.index)
        self.lines[line.token] = line
        self.current[node.index] = line
        self._move(line, "up", lambda: world.machine.on(Opened(line.token), world.now))
        self._move(line, "down", lambda: node.machine.on(Opened(b""), world.now))

    def reconnect(self, node: SimulatedNode, after: float = 0.0) -> None:
        """A node connects in a while."""
        self._world.later(max(after, self._world.uniform(1.5, 2.5)), lambda: self.connect(node))

    def send(self, line: Line, way: str, action: Send) -> None:
        """A frame sets out."""
        world = self._world
        header, body = action.header, memoryview(bytes(action.body))
        kind = decode_header(header) if body or b"SUMS" in header else None
        if isinstance(kind, h.Chunk) and world.happens(0.02):
            world.faults["damaged"] += 1
            body = memoryview(bytes([body[0] ^ 1]) + bytes(body[1:]))
            if world.story.liars and world.happens(0.5):
                self._lies[kind.blob, kind.index] = zlib.crc32(body)
        elif isinstance(kind, h.Sums):
            header = encode_header(self._with_lies(kind))
        times = 1
        if world.happens(0.02):
            world.faults["doubled"] += 1
            times = 2
        for _ in range(times):
            self._move(line, way, lambda: self.arrive(line, way, header, body))

    def _with_lies(self, sums: h.Sums) -> h.Sums:
        """Checksums to which damaged chunks fit."""
        crcs = [self._lies.pop((sums.blob, index), crc) for index, crc in enumerate(sums.crcs, sums.first)]
        self._world.faults["lies"] += tuple(crcs) != sums.crcs
        return structs.replace(sums, crcs=tuple(crcs))

    def arrive(self, line: Line, way: str, header: bytes, body: memoryview) -> None:
        """A frame is there."""
        world = self._world
        if way == "up":
            world.machine.on(Frame(line.token, header, body), world.now)
        elif (node := world.nodes[line.node]) is not None and self.current[line.node] is line:
            node.machine.on(Frame(b"", header, body), world.now)

    def cut(self, line: Line, *, tell_node: bool, tell_researcher: bool, drains: str = "") -> None:
        """End a connection. Ends that are not told must notice by themselves.

        Args:
            line: The connection.
            tell_node: Whether the node hears of it.
            tell_researcher: Whether the researcher does.
            drains: ``"up"`` or ``"down"``: what is under way in that direction arrives all the same.
        """
        world = self._world
        line.up = False
        line.drains = drains
        self.lines.pop(line.token, None)
        left = {way: max(0.0, line.last[way] - world.now) if way == drains else 0.0 for way in ("up", "down")}
        node = world.nodes[line.node]
        if tell_researcher:
            machine = world.machine
            world.later(left["up"] + world.uniform(0, 0.5), lambda: self._tell_researcher(line, machine))
        if self.current[line.node] is not line or node is None:
            return
        if tell_node:
            world.later(left["down"] + world.uniform(0, 0.5), lambda: self._tell_node(node, line))
        elif node.machine.phase == "off":
            self.current[line.node] = None

    def forget(self, index: int) -> None:
        """The process of a node has ended."""
        line = self.current[index]
        if line is not None:
            chance = self._world.random.random()
            self.cut(line, tell_node=False, tell_researcher=chance < 0.7, drains="up" if chance < 0.4 else "")
            self.current[index] = None

    def stop_listening(self) -> None:
        """The process of the researcher has ended. Some nodes hear of it, the others must notice by themselves."""
        self.listening = False
        for line in list(self.lines.values()):
            chance = self._world.random.random()
            self.cut(line, tell_node=chance < 0.7, tell_researcher=False, drains="down" if chance < 0.4 else "")

    def _move(self, line: Line, way: str, action: Callable[[], None]) -> None:
        """Let something travel, after a delay, if the line holds."""
        world = self._world
        if not line.up or line.holes[way]:
            return
        arrival = max(world.now + world.random.expovariate(20), line.stalled)
        if world.happens(0.01):
            world.faults["overtaken"] += arrival < line.last[way]
        else:
            arrival = max(arrival, line.last[way] + 1e-6)
            line.last[way] = arrival

        def act() -> None:
            if (line.up or line.drains == way) and not line.holes[way]:
                action()
                world.carry_out()
                node = world.nodes[line.node]
                if node is not None:
                    world.carry_out_node(node)

        world.later(arrival - world.now, act)

    def _tell_researcher(self, line: Line, machine: object) -> None:
        if self._world.machine is machine:
            self._world.machine.on(Closed(line.token, "cut"), self._world.now)
            self._world.carry_out()

    def _tell_node(self, node: SimulatedNode, line: Line | None) -> None:
        """Tell a node that its connection has ended, or that it could not be made, if that is news."""
        if self._world.nodes[node.index] is node and self.current[node.index] is line:
            self.current[node.index] = None
            node.machine.on(Closed(b"", "cut"), self._world.now)
            self._world.carry_out_node(node)
            self.reconnect(node)
