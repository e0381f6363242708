"""Fifty nodes, two hundred rounds, faults all the time, in simulated time: the same bits, and nothing that grows."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from fedplug.protocol.simulated_experiment import SimulatedExperiment
from fedplug.protocol.simulator import RESEARCHER, SMALL, Simulator, Story

NODES, ROUNDS = 50, 200
STORY = Story(
    nodes=NODES, rounds=ROUNDS, calm=20_000, pause=2, cuts=0.002, liars=True, limits=replace(SMALL, remembered=40)
)  # fmt: skip
LOOKS = (50, 100, 150, 199)


def held(*roots: object) -> int:
    """Bytes of everything that can be reached from some objects, but for code."""
    seen: set[int] = set()
    waiting: deque[Any] = deque(roots)
    total = 0
    while waiting:
        one = waiting.popleft()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType | types.CodeType):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting.extend(gc.get_referents(one))
    return total


def test_what_is_held_is_counted_whole():
    chain: list[Any] = [bytearray(50_000), {"a": (bytearray(50_000),)}]
    assert 100_000 < held(chain, chain) < 102_000


class Watched(SimulatedExperiment):
    """Looks from time to time at what the machines hold."""

    def _conclude(self, roll, model):
        super()._conclude(roll, model)
        if self._round in LOOKS:
            nodes = [node.machine for node in self._world.nodes if node is not None]
            self._world.looks[self._round] = (held(self._machine), held(*nodes) / len(nodes))


@pytest.mark.slow  # as many events as in two thousand short stories
def test_nothing_grows_in_two_hundred_rounds_of_faults():
    world = Simulator(2, STORY, experiment=Watched)
    world.looks = {}
    world.run()
    assert world.faults.total() > 10_000
    assert min(world.faults[kind] for kind in ("cut", "hole", "restart", "researcher", "cancel", "stall")) > 20
    assert len(world.witness.committed) == ROUNDS, "each with the bits that it has without faults"

    researcher, node = zip(*(world.looks[number] for number in LOOKS if number in world.looks), strict=True)
    assert max(researcher) < 1.5 * min(researcher) + 100_000, researcher
    assert max(node) < 1.5 * min(node) + 5_000, node
    for name, disk in world.disks.items():
        left = disk.files
        assert set(left) == ({("model", ROUNDS - 1)} if name == RESEARCHER else set()), name
    assert len(world.network.lines) <= NODES
