"""The flow of messages of one round, in simulated time: one researcher and its nodes, or a tree of aggregators."""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.scaling.events import Action, Clock, Line, Station, Thread
from benchmarks.scaling.scenario import Outcome, Scenario
from benchmarks.scaling.sites import Leaf, Site


class Play:
    """One round.

    Args:
        given: What is played.
    """

    def __init__(self, given: Scenario) -> None:
        self.given = given
        self.clock = Clock()
        self.chance = random.Random(given.seed)
        self.cores = None if given.cores is None else Station(self.clock, given.cores)
        self.over = False
        self._sent = self._received = 0.0
        self._end = (0.0, 0)
        hosts = [Thread(self.clock, self.cores) for _ in range(given.hosts)]
        self._root = Site(self, len(given.fan_outs) - 1, None)
        self._sites = [self._root]
        self._grow(self._root, len(given.fan_outs) - 1, self._threads(hosts))
        lowest = [site for site in self._sites if site.parent is not None and isinstance(site.children[0], Leaf)]
        self._slowest = max(
            leaf.alone for site in lowest or self._sites for leaf in site.children if isinstance(leaf, Leaf)
        )
        for site in lowest[: given.dead]:
            site.dies = True

    def _threads(self, hosts: list[Thread]) -> Iterator[Thread]:
        number = 0
        while True:
            yield hosts[number * len(hosts) // self.given.leaves] if hosts else Thread(self.clock, self.cores)
            number += 1

    def _grow(self, site: Site, level: int, threads: Iterator[Thread]) -> None:
        for _ in range(self.given.fan_outs[level]):
            if level == 0:
                site.children.append(Leaf(self, site, next(threads)))
            else:
                below = Site(self, level - 1, site)
                self._sites.append(below)
                site.children.append(below)
                self._grow(below, level - 1, threads)

    def carry(self, lines: tuple[Line, ...], nbytes: float, arrived: Action) -> None:
        """Send over lines, one behind the other, and count at both ends of each."""
        first, *rest = lines
        self._sent += nbytes

        def there() -> None:
            self._received += nbytes
            if rest:
                self.carry(tuple(rest), nbytes, arrived)
            else:
                arrived()

        first.send(nbytes, there)

    def finish(self, counted: int) -> None:
        """The root has the new parameters."""
        self.over = True
        self._end = (self.clock.now, counted)

    def run(self) -> Outcome:
        """Play it to the end, and until nothing is under way.

        Raises:
            RuntimeError: It did not come to an end, which is a bug.
        """
        self._root.begin()
        self.clock.run()
        if not self.over:
            raise RuntimeError(f"The round stood still at {self.clock.now:g} s.")
        seconds, counted = self._end
        return Outcome(
            seconds=seconds, slowest=self._slowest, counted=counted, lost=sum(site.lost for site in self._sites),
            sent=self._sent, received=self._received, root_up=self._root.wire_up.carried,
            root={name: thread.busy for name, thread in self._root.threads.items()},
            root_down=self._root.wire_down.carried, events=self.clock.events,
        )  # fmt: skip


def play(given: Scenario) -> Outcome:
    """Play one round.

    Args:
        given: What is played.

    Returns:
        When it ended, and what was moved and counted.
    """
    return Play(given).run()
