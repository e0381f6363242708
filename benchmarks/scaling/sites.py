"""Who takes part in a simulated round: nodes, and aggregators, of which the researcher is the one at the root.

Who does what, and what it costs, is that of the cost model; when it happens comes out of queues: each thread works one
thing after the other, each line carries one message after the other, and a receiver has so many chunks under way at
most. An inner aggregator is to the one above it what a node is, with a sum in place of an update.

Simplified: all updates that are offered are pulled in turn, and folded as they are complete, for the order of folding
is another matter; what a thread does for a node is spent half on the request and half on the reply, and what it does
for bytes evenly on their chunks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.scaling.events import Line, Thread
from benchmarks.scaling.model import LIMITS, THREADS
from benchmarks.scaling.scenario import site_costs

if TYPE_CHECKING:
    from benchmarks.scaling.flow import Play

RECONNECT = 2.0
"""Seconds from a lost connection to the next try."""

TICK = 0.5
"""Signs of life of so many seconds are dealt with at once."""


@dataclass
class Offer:
    """An update, or a sum of updates, that waits where it was made.

    Attributes:
        up: The line it will come over.
        size: Its bytes.
        count: How many updates are in it.
        left: Chunks that were not asked for yet.
        under_way: Chunks that were asked for and are not here.
    """

    up: Line
    size: float
    count: int
    left: int = 0
    under_way: int = 0


class Leaf:
    """A node that trains in this round.

    Args:
        play: The round.
        parent: Whom it is connected to.
        thread: What it works with.
    """

    def __init__(self, play: Play, parent: Site, thread: Thread) -> None:
        given = play.given
        self.parent = parent
        self.down, self.up = (
            Line(play.clock, given.machine.node_bandwidth),
            Line(play.clock, given.machine.node_bandwidth),
        )
        self._play = play
        self._thread = thread
        self._state = "waits"
        # drawn at once, so that who dies does not change what happens to the others
        factor = math.exp(play.chance.gauss(0.0, given.spread))
        self._seconds = given.training * factor
        self._drops = play.chance.random() < given.drop_out

    @property
    def alone(self) -> float:
        """Seconds from the task to the end of what it does, if nobody else keeps it waiting."""
        given = self._play.given
        ways = 1 if self._drops else 2
        silence = LIMITS.silence if self._drops else 0.0
        return ways * given.model / given.machine.node_bandwidth + given.node_seconds + self._seconds + silence

    def begin(self) -> None:
        """The task is here: train, or, if that was done for another aggregator, say how it ended."""
        if self._state == "waits":
            self._state = "trains"
            self._thread.ask(self._play.given.node_seconds, lambda: self._play.clock.after(self._seconds, self._end))
        elif self._state == "done":
            self.parent.offered(Offer(self.up, self._play.given.model, 1))
        elif self._state == "lost":
            self.parent.give_up()

    def _end(self) -> None:
        if self._drops:
            self._play.clock.after(LIMITS.silence, self._lost)
        else:
            self._state = "done"
            self.begin()

    def _lost(self) -> None:
        self._state = "lost"
        self.begin()

    def turn_to(self, site: Site) -> None:
        """Its aggregator is gone; here is another one, with which the round goes on where it was."""
        self.parent = site
        if self._state == "waits":
            site.send_task(self)
        else:
            self.begin()


class Site:
    """The researcher, or an aggregator below it.

    Args:
        play: The round.
        level: 0 where nodes connect.
        parent: The aggregator above; None for the root.
    """

    def __init__(self, play: Play, level: int, parent: Site | None) -> None:
        clock, given = play.clock, play.given
        self.parent = parent
        self.children: list[Leaf | Site] = []
        self.threads = {name: Thread(clock, play.cores) for name in THREADS}
        self.wire_down = Line(clock, given.machine.bandwidth, given.machine.latency)
        self.wire_up = Line(clock, given.machine.bandwidth, given.machine.latency)
        self.down, self.up = Line(clock), Line(clock, given.machine.bandwidth)  # as a child: its network card
        self.lost = self.count = 0
        self.dead = False
        self.dies = False
        self._play = play
        connected = max(given.connected, given.fan_outs[0]) if level == 0 else given.fan_outs[level]
        self._cost = site_costs(given, connected, 1.0 if level == 0 else given.update)
        self._begun = False
        self._open = 0
        self._pulls: deque[Offer] = deque()
        self._credit = LIMITS.pool_credit
        self._signs()

    # -- down -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The parameters are here: digest them once, and send everybody a task."""
        self._begun = True
        self._open += len(self.children)
        self.threads["main"].ask(self._cost.once / 2, self._send_all)

    def _send_all(self) -> None:
        if not self.dead:
            for child in self.children:
                self.send_task(child)

    def send_task(self, child: Leaf | Site) -> None:
        """A request, and the parameters in chunks, of which the child has so many under way at most."""
        self.threads["main"].ask(self._cost.child["main"] / 2, lambda: self._send_chunks(child))

    def _send_chunks(self, child: Leaf | Site) -> None:
        sizes = self._play.given.chunks(self._play.given.model)
        ahead = iter(sizes)
        missing = len(sizes)
        pump, native = (
            (self._cost.down[name] + self._cost.child[name] / 2) / len(sizes) for name in ("pump", "native")
        )
        header = self._cost.header_down / len(sizes)

        def send() -> None:
            size = next(ahead, None)
            if size is not None and not self.dead:
                self.threads["pump"].ask(pump, lambda: self.threads["native"].ask(native, lambda: carry(size)))

        def carry(size: float) -> None:
            self._play.carry((self.wire_down, child.down), size + header, here)

        def here() -> None:
            nonlocal missing
            missing -= 1
            if missing:
                self._play.clock.after(self._play.given.machine.latency, send)
            elif not self.dead:
                child.begin()

        for _ in range(min(len(sizes), LIMITS.peer_credit)):
            send()

    # -- up -------------------------------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """An update waits at a child."""
        if self.dead:
            return
        offer.left = len(self._play.given.chunks(offer.size))
        self._pulls.append(offer)
        self._grant()

    def _grant(self) -> None:
        """Ask for chunks as long as there is credit, of one offer after the other in turn."""
        full = []
        while self._credit and self._pulls:
            offer = self._pulls.popleft()
            if offer.under_way == LIMITS.peer_credit:
                full.append(offer)
                continue
            offer.left -= 1
            offer.under_way += 1
            self._credit -= 1
            if offer.left:
                self._pulls.append(offer)
            self._pull(offer)
        self._pulls.extend(full)

    def _pull(self, offer: Offer) -> None:
        sizes = self._play.given.chunks(offer.size)
        pump, native = ((self._cost.up[name] + self._cost.child[name] / 2) / len(sizes) for name in ("pump", "native"))

        def here() -> None:
            offer.under_way -= 1
            self._credit += 1
            if not offer.left and not offer.under_way:
                fold = self._cost.up["main"] + self._cost.child["main"] / 2
                self.threads["main"].ask(fold, lambda: self._folded(offer))
            self._grant()

        def come() -> None:
            self.threads["native"].ask(native, lambda: self.threads["pump"].ask(pump, here))

        nbytes = sizes[0] + self._cost.header_up / len(sizes)
        # the request for a chunk goes the other way first
        self._play.clock.after(
            self._play.given.machine.latency, lambda: self._play.carry((offer.up, self.wire_up), nbytes, come)
        )

    def _folded(self, offer: Offer) -> None:
        if self.dead:
            return
        if self.dies:
            self.dead = True
            self.lost = 0  # whoever was given up here is given up again elsewhere
            self._play.clock.after(LIMITS.silence + RECONNECT, self._orphans)
            return
        self.count += offer.count
        self._settled()

    def give_up(self) -> None:
        """A child is lost for this round."""
        if not self.dead:
            self.lost += 1
            self._settled()

    def _settled(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.threads["main"].ask(self._cost.once / 2, self._result)

    def _result(self) -> None:
        if self.parent is None:
            self._play.finish(self.count)
            return
        count, self.count = self.count, 0
        given = self._play.given
        self.parent.offered(Offer(self.up, given.model * given.update, count))

    # -- when an aggregator dies ------------------------------------------------------------------------------------

    def _orphans(self) -> None:
        """Its children turn to its siblings, which sum up what they bring, if need be in a second sum."""
        assert self.parent is not None, "only aggregators of the lowest level die"
        living = [site for site in self.parent.children if isinstance(site, Site) and not site.dies]
        for number, child in enumerate(self.children):
            assert isinstance(child, Leaf)
            living[number % len(living)].adopt(child)
        self.parent.give_up_sum()

    def give_up_sum(self) -> None:
        """No sum will come from a child: its nodes are with others now."""
        self._settled()

    def adopt(self, leaf: Leaf) -> None:
        """A node comes in whose aggregator died."""
        if not self._begun:
            leaf.parent = self
            self.children.append(leaf)  # it gets its task with the others
            return
        if self._open == 0 and self.parent is not None:
            self.parent.expect_another()
        self._open += 1
        self.threads["pump"].ask(self._cost.connect, lambda: leaf.turn_to(self))

    def expect_another(self) -> None:
        """A child will offer one more sum."""
        self._open += 1

    # -- signs of life --------------------------------------------------------------------------------------------

    def _signs(self) -> None:
        if self._play.over or not (any(self._cost.idle.values()) or self._cost.idle_bytes):
            return
        for name, share in self._cost.idle.items():
            self.threads[name].ask(share * TICK, lambda: None)
        for line in (self.wire_down, self.wire_up):
            self._play.carry((line,), self._cost.idle_bytes * TICK, lambda: None)
        self._play.clock.after(TICK, self._signs)
