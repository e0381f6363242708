"""A short soak of real processes: rounds with faults drawn from a seed, the same bits, and nothing that grows."""

from __future__ import annotations

import gc
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_kit import Federation, Watch, federation_below

from fedplug.testing.faults import Fault

SIZE = 30_000
UPDATE = 8 * SIZE
ROUNDS = 40


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes"), ("lyon", "nice", "paris"), keys=True) as federation:
        yield federation


def use(process: psutil.Process) -> Counter[str]:
    """What a process holds."""
    gc.collect()
    return Counter(fds=process.num_fds(), threads=process.num_threads(), memory=process.memory_info().rss)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Trouble(Watch):
    """Does something to a node at the beginning of each round. The process of Lyon is left alone: it is looked at."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(self._trouble)
        self.done: Counter[str] = Counter()
        self._federation = federation
        self._random = random.Random(5)

    def _trouble(self, what: str, node_id: str) -> None:
        if what != "round":
            return
        name = self._random.choice(list(self._federation.nodes))
        kind = self._random.choice(["cut", "reset", "flip", "hole", "blackout", "kill"])
        proxy, node = self._federation.proxies[name], self._federation.nodes[name]
        if kind == "kill":
            if name == "lyon":
                return
            node.send(signal.SIGKILL)
            node.wait()
            node.start()
        elif kind == "blackout":
            proxy.blackout()
            proxy.restore()
        else:
            proxy.play(Fault(kind, self._random.randrange(UPDATE), self._random.choice(["up", "down"])))
        self.done[kind] += 1


@pytest.mark.slow
def test_the_bits_are_the_same_and_nothing_is_left_over_after_forty_rounds_of_faults(federation: Federation) -> None:
    calm = federation.run(model_args={"size": SIZE}, round_limit=ROUNDS)
    lyon = federation.nodes["lyon"]
    watched = {"researcher": psutil.Process(), "lyon": psutil.Process(lyon.process.pid)}
    before, there = {name: use(process) for name, process in watched.items()}, files(lyon.place)

    trouble = Trouble(federation)
    outcome = federation.run(trouble, model_args={"size": SIZE}, round_limit=ROUNDS)
    assert outcome.digest == calm.digest
    assert set(trouble.done) == {"cut", "reset", "flip", "hole", "blackout", "kill"}
    for name, process in watched.items():
        grown = use(process)
        grown.subtract(before[name])
        assert grown["fds"] <= 3, (name, grown)
        assert grown["threads"] <= 1, (name, grown)
        assert grown["memory"] <= 16 * 2**20, (name, grown)
    assert files(lyon.place) == there
