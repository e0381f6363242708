"""A deterministic world for the machines: one researcher, some nodes, a bad network, a clock that is a number.

Everything that happens follows from the seed: delays, cut connections, lines that swallow everything without a word,
stalls, frames that come twice or overtake others, damaged chunks, cancelled tasks, processes that are killed, between
two events or at a named point within one, and that start again: with what their disks hold if the story has disks,
else empty-handed (and only nodes then). After `Story.calm` no more faults happen. What must hold, whatever the seed:

- a task is trained at most once, over all runs of its node;
- an update is counted exactly once, with the bytes that the node sent, and the node got the bytes of the model;
- what was acknowledged is never asked for again; what a journal says is there; a complete round never changes;
- each model, and so the last one, has the bits that it has without faults;
- nothing is heard of a cancelled task; no task fails for a reason that did not occur;
- a dead line is noticed; the credit is kept; nothing is left over at the nodes;
- everything ends.

The first thing that does not hold raises `Violation`, which names the seed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fedplug.core.link import EarlierTasks
from fedplug.core.messages import NodeInfo
from fedplug.protocol.actions import Deliver, Drop, Reconnect, Send
from fedplug.protocol.limits import Limits
from fedplug.protocol.node import NodeMachine
from fedplug.protocol.researcher import ResearcherMachine
from fedplug.protocol.simulated_disk import PowerCut, SimulatedDisk
from fedplug.protocol.simulated_experiment import SimulatedExperiment
from fedplug.protocol.simulated_network import Line, SimulatedNetwork
from fedplug.protocol.simulated_node import SimulatedNode, Violation
from fedplug.protocol.simulated_witness import Witness

SMALL = Limits(
    chunk=64, inline=96, peer_credit=4, pool_credit=6, offer=16_384, task=16_384, mute=5.0, remembered=10_000
)
"""Limits under which a few hundred bytes are a large blob."""

RESEARCHER = "researcher"


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
        disks: Whether researcher and nodes keep journals, and the researcher may be killed.
        cuts: Chance that the power is cut at a named point.
        limits: Figures of the protocol.
    """

    nodes: int = 3
    rounds: int = 5
    calm: float = 90.0
    patience: float = 400.0
    pause: float = 2.5
    liars: bool = False
    disks: bool = True
    cuts: float = 0.02
    limits: Limits = SMALL

    @classmethod
    def of(cls, seed: int) -> Story:
        """The usual story of a seed: every third has liars, every fourth no disks."""
        return cls(liars=seed % 3 == 0, disks=seed % 4 != 1)


class Simulator:
    """One run of one seed.

    Args:
        seed: Decides everything.
        story: How bad the world is.
        researcher: The machine under test; a mutant in the tests of the simulator.
        node: Likewise.
        experiment: Who uses the researcher's machine; likewise.
        runtime: Who uses a node's machine; likewise.
    """

    def __init__(
        self,
        seed: int,
        story: Story | None = None,
        *,
        researcher: type[ResearcherMachine] = ResearcherMachine,
        node: type[NodeMachine] = NodeMachine,
        experiment: type[SimulatedExperiment] = SimulatedExperiment,
        runtime: type[SimulatedNode] = SimulatedNode,
    ) -> None:
        self.seed = seed
        self.story = story or Story.of(seed)
        self.now = 1.0
        self.faults: Counter[str] = Counter()
        self.stats: Counter[str] = Counter()
        self.random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._kinds = researcher, node, experiment, runtime
        self._names = [f"n{index}" for index in range(self.story.nodes)]
        self.disks = {name: SimulatedDisk() for name in (RESEARCHER, *self._names)} if self.story.disks else {}
        self._lives: Counter[str] = Counter()
        self.witness = Witness(self._names, self.story.rounds)
        self.network = SimulatedNetwork(self)
        self.nodes: list[SimulatedNode | None] = [None] * self.story.nodes
        self._start_researcher()

    def run(self) -> Witness:
        """Play the story to its end.

        Raises:
            Violation: Something that must hold does not.
        """
        try:
            for index in range(self.story.nodes):
                self.later(self.random.uniform(0, 5), lambda index=index: self._boot(index))  # type: ignore[misc]
            self.later(self.random.expovariate(1 / self.story.pause), self._fault)
            end = self.story.calm + self.story.patience
            while self._heap and self.now < end and not (self.experiment.done and self._clean()):
                self.now, _, action = heapq.heappop(self._heap)
                try:
                    action()
                except PowerCut as cut:
                    self.faults[cut.point] += 1
                    self._kill(cut.who)
                if self.machine._puller.under_way > self.story.limits.pool_credit:
                    raise Violation("more chunks are under way than the credit allows")
            self.experiment.check_end()
            if not self._clean():
                held = [list(node.machine._jobs) for node in self.nodes if node]
                raise Violation(f"nodes still hold tasks: {held}")
        except Violation as violation:
            raise Violation(f"seed {self.seed}, at {self.now:.3f} s: {violation}") from violation
        self.stats.update(self.machine.stats)
        return self.witness

    # -- for the users ------------------------------------------------------------------------------------------

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do something after ``delay`` seconds."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, action))

    def uniform(self, low: float, high: float) -> float:
        """A random number."""
        return self.random.uniform(low, high)

    def happens(self, chance: float) -> bool:
        """A biased coin; faults never happen in the calm."""
        return self.now < self.story.calm and self.random.random() < chance

    def reach(self, who: str, point: str) -> None:
        """A process has reached a point at which the power may be cut.

        Raises:
            PowerCut: It is cut.
        """
        if self.happens(self.story.cuts):
            raise PowerCut(who, point)

    def make_node(
        self, make: type[NodeMachine], node_id: str, incarnation: int, earlier: EarlierTasks | None
    ) -> NodeMachine:
        """The machine of a node."""
        return make(NodeInfo(node_id=node_id), self.story.limits, incarnation=incarnation, earlier=earlier)

    # -- processes ----------------------------------------------------------------------------------------------

    def _start_researcher(self) -> None:
        researcher, _, experiment, _ = self._kinds
        self._lives[RESEARCHER] += 1
        self.machine = researcher(self.story.limits, name="simulated", epoch=str(self._lives[RESEARCHER]))
        disk = self.disks.get(RESEARCHER)
        new = self.experiment = experiment(self, self.machine, self._names, self.story.rounds, disk)
        self.network.listening = True
        self.later(self.random.uniform(0, 5), lambda: self._begin(new))
        self._tick_researcher(new)

    def _begin(self, experiment: SimulatedExperiment) -> None:
        if experiment is self.experiment and self.network.listening:
            experiment.begin()
            self.carry_out()

    def _clean(self) -> bool:
        return all(node is not None and not node.machine._jobs for node in self.nodes)

    def _boot(self, index: int) -> None:
        name = self._names[index]
        self._lives[name] += 1
        _, make, _, runtime = self._kinds
        node = runtime(self, index, make, 100 * self._lives[name] + index, self.disks.get(name))
        self.nodes[index] = node
        self.network.connect(node)
        self._tick_node(node)

    def _tick_researcher(self, experiment: SimulatedExperiment) -> None:
        if experiment is self.experiment and self.network.listening:
            self.machine.tick(self.now)
            self.later(max(0.01, self.machine.deadline - self.now), lambda: self._tick_researcher(experiment))
            self.carry_out()

    def _tick_node(self, node: SimulatedNode) -> None:
        if self.nodes[node.index] is node:
            node.machine.tick(self.now)
            due = node.machine.deadline(self.now) - self.now
            self.later(min(0.5, max(0.01, due)), lambda: self._tick_node(node))
            self.carry_out_node(node)

    # -- actions ------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Do what the researcher's machine wants."""
        if not self.network.listening:
            return
        for action in self.machine.take():
            if isinstance(action, Send):
                line = self.network.lines.get(action.peer)
                if line is not None:
                    self.network.send(line, "down", action)
            elif isinstance(action, Drop):
                line = self.network.lines.get(action.peer)
                if line is not None:
                    self.network.cut(line, tell_node=self.random.random() < 0.5, tell_researcher=False)
            elif isinstance(action, Deliver):
                self.experiment.on(action.event)
        self.experiment.flush()

    def carry_out_node(self, node: SimulatedNode) -> None:
        """Do what a node's machine wants."""
        for action in node.machine.take():
            line = self.network.current[node.index]
            if isinstance(action, Send) and line is not None:
                self.network.send(line, "up", action)
            elif isinstance(action, Reconnect):
                if line is not None:
                    self.network.cut(line, tell_node=False, tell_researcher=not line.holes["up"])
                self.network.reconnect(node, action.after)
            elif isinstance(action, Deliver):
                node.on(action.event)

    # -- faults -------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        if self.now >= self.story.calm:
            return
        self.later(self.random.expovariate(1 / self.story.pause), self._fault)
        index = self.random.randrange(self.story.nodes)
        line = self.network.current[index]
        kind = self.random.choice(["cut", "cut", "hole", "one-way", "stall", "restart", "cancel", "researcher"])
        if kind == "cancel":
            if self.network.listening:
                self.experiment.cancel_one(index)
                self.carry_out()
        elif kind == "restart":
            if self.nodes[index] is not None:
                self._kill(self._names[index])
        elif kind == "researcher":
            if not self.story.disks or self.random.random() < 0.7:
                return
            self._kill(RESEARCHER)
        elif line is None:
            return
        elif kind == "cut":
            self.network.cut(line, tell_node=True, tell_researcher=True)
        elif kind == "stall":
            line.stalled = self.now + self.random.uniform(1, 12)
        else:
            ways = ("up", "down") if kind == "hole" else (self.random.choice(["up", "down"]),)
            self._open_hole(line, ways)
        self.faults[kind] += 1

    def _kill(self, who: str) -> None:
        if who == RESEARCHER:
            if self.network.listening:
                self.stats.update(self.machine.stats)
                self.network.stop_listening()
                self.disks[who].cut(self.random)
                self.later(self.random.uniform(0.5, 8), self._start_researcher)
            return
        index = self._names.index(who)
        self.nodes[index] = None
        self.network.forget(index)
        if who in self.disks:
            self.disks[who].cut(self.random)
        self.later(self.random.uniform(0.5, 5), lambda: self._boot(index))

    def _open_hole(self, line: Line, ways: tuple[str, ...]) -> None:
        for way in ways:
            line.holes[way] = True
        machine, limits = self.machine, self.story.limits
        silence = limits.pace(self.story.nodes) * limits.missed
        self.later(silence * limits.patience + 2.0, lambda: self._check_noticed(line, ways, machine))

    def _check_noticed(self, line: Line, ways: tuple[str, ...], machine: ResearcherMachine) -> None:
        """Whoever hears nothing on a line must have given it up by now."""
        runs = machine is self.machine and self.network.listening
        known = machine._known.get(f"n{line.node}") if runs else None
        if "up" in ways and known is not None and known.peer is not None and known.peer.token == line.token:
            raise Violation(f"the researcher takes a dead line of {known.node_id} for alive")
        node = self.nodes[line.node]
        if "down" in ways and node is not None and self.network.current[line.node] is line and line.up:
            raise Violation(f"n{line.node} takes a dead line for alive")
