"""Rounds of a framework and of the plain loop, in turn, on the same nodes and in the same order of samples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.clocks import Stopwatch
from benchmarks.peers.rows import Row, row_of_times, versions
from benchmarks.plain_loop import CNN, MLP, Array, PlainLoop, fashion_mnist, greatest_difference

SEED = 1
TOLERANCE = 1e-5
"""Of a framework's model from the plain loop's, over the largest value of each array: sums in float32 are in order."""


@dataclass(frozen=True)
class Workload:
    """One of S1, S2 and S3: so many nodes of as many images, so many a round, one epoch at batch 32 and rate 0.05."""

    model: type[nn.Module]
    nodes: int
    sampled: int
    pairs: int
    quick_pairs: int
    warm_up: int


WORKLOADS = {
    "S1": Workload(MLP, 100, 10, pairs=25, quick_pairs=3, warm_up=3),
    "S2": Workload(CNN, 100, 10, pairs=4, quick_pairs=1, warm_up=1),
    "S3": Workload(MLP, 1000, 100, pairs=15, quick_pairs=2, warm_up=2),
}


def division(nodes: int, samples: int) -> list[Array]:
    """Which samples each node has: as many as any other, at random and the same in every process."""
    return list(np.random.default_rng(SEED).permutation(samples).reshape(nodes, -1))


def order(round_number: int, node: int, size: int) -> Array:
    """The order in which a node sees its samples in a round."""
    return np.random.default_rng((SEED, round_number, node)).permutation(size)


class Data:
    """Fashion-MNIST, divided among the nodes of a workload."""

    def __init__(self, workload: Workload) -> None:
        self.x, self.y = fashion_mnist()
        self.rows = division(workload.nodes, len(self.x))
        self.loop = PlainLoop(
            self.x, self.y, {str(node): rows for node, rows in enumerate(self.rows)}, workload.model()
        )

    def picked(self, round_number: int, node: int) -> torch.Tensor:
        """The numbers of a node's samples in the order of a round."""
        rows = self.rows[node]
        return torch.from_numpy(rows[order(round_number, node, len(rows))])


class Pairs:
    """Times each round of a framework, then the same round of the plain loop, and compares the models.

    Args:
        name: The workload.
        quick: Fewer rounds; to see that everything runs.
        pid: The process that is timed, with its descendants; this one by default.
    """

    def __init__(self, name: str, quick: bool, pid: int | None = None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        self.name = name
        self.workload = WORKLOADS[name]
        self.data = Data(self.workload)
        self.rounds = self.workload.warm_up + (self.workload.quick_pairs if quick else self.workload.pairs)
        self.figures: list[tuple[float, float]] = []
        self.ceilings: list[tuple[float, float]] = []
        self.worst = 0.0
        self._watch = Stopwatch(pid)
        self._start: dict[str, torch.Tensor] = {}

    def begin(self, params: Mapping[str, torch.Tensor]) -> None:
        """The first round begins, with these parameters."""
        self._start = {name: value.detach().clone() for name, value in params.items()}
        self._watch.start()

    def stop(self) -> None:
        """A round has ended."""
        self.figures.append(self._watch.stop())

    def compare(self, params: Mapping[str, torch.Tensor], nodes: Sequence[int]) -> None:
        """Let the plain loop do the round that was stopped, compare, and begin the next one.

        Args:
            params: What the framework came to.
            nodes: The nodes that trained.

        Raises:
            AssertionError: The two models differ.
        """
        number = len(self.figures)
        if len(set(nodes)) != self.workload.sampled:
            raise AssertionError(f"{self.name}: {sorted(nodes)} trained, and not {self.workload.sampled} nodes")
        # of this thread only: frameworks have threads that go on meanwhile
        wall, cpu = time.perf_counter(), time.thread_time()
        orders = {str(node): order(number, node, len(self.data.rows[node])) for node in sorted(nodes)}
        expected = self.data.loop.round(self._start, orders)
        self.ceilings.append((time.thread_time() - cpu, time.perf_counter() - wall))
        difference = greatest_difference(
            {name: value.detach().numpy() for name, value in params.items()}, expected, list(expected)
        )
        if not difference <= TOLERANCE:
            raise AssertionError(f"{self.name}: round {number} differs from the plain loop by {difference:.2g}")
        self.worst = max(self.worst, difference)
        self.begin(params)

    @property
    def number(self) -> int:
        """The number of the round that runs, from 1."""
        return len(self.figures) + 1

    def row(self, framework: str, distribution: str, how: str, **details: Any) -> Row:
        """What was measured, without the first rounds."""
        skip = self.workload.warm_up
        found = versions(distribution, "torch", "numpy")
        return row_of_times(
            self.name, framework, found.get(distribution, ""), how, self.figures[skip:], self.ceilings[skip:],
            difference=self.worst, versions=found, **details,
        )  # fmt: skip
