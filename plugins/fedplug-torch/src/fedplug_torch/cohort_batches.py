"""Batches of several nodes: which of them are drawn together, and the rows of all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fedplug.core.cohort import CohortError
from fedplug.core.data import BatchSource
from fedplug.core.params import Array
from fedplug_torch.data import TensorData


class Run(NamedTuple):
    """Adjacent nodes whose next batches have one size.

    Attributes:
        low: The first of them.
        high: The one behind the last.
        size: Samples of each batch.
    """

    low: int
    high: int
    size: int


def schedule(sizes: Sequence[Sequence[int]]) -> Iterator[Run]:
    """Which nodes take a step together, until each has drawn all its batches, in their order.

    A node with a smaller batch than the others takes its step apart, at once, and so joins them again.

    Args:
        sizes: For each node, the sizes of its batches.
    """
    first = sizes[0]
    if all(each == first for each in sizes):
        for size in first:
            yield Run(0, len(sizes), size)
        return
    done = [0] * len(sizes)
    while True:
        upcoming = [each[place] if place < len(each) else 0 for each, place in zip(sizes, done, strict=True)]
        largest = max(upcoming)
        if not largest:
            return
        runs = _runs(upcoming)
        for run in [each for each in runs if each.size < largest] or runs:
            yield run
            for node in range(run.low, run.high):
                done[node] += 1


def repeated(runs: Iterable[Run], most: int) -> Iterator[tuple[Run, int]]:
    """Runs with the number of times that they occur one after the other, at most ``most``."""
    before, count = None, 0
    for run in runs:
        if run == before and count < most:
            count += 1
            continue
        if before is not None:
            yield before, count
        before, count = run, 1
    if before is not None:
        yield before, count


def _runs(upcoming: Sequence[int]) -> list[Run]:
    runs: list[Run] = []
    low = 0
    for node in range(1, len(upcoming) + 1):
        if node == len(upcoming) or upcoming[node] != upcoming[low]:
            if upcoming[low]:
                runs.append(Run(low, node, upcoming[low]))
            low = node
    return runs


class Rows:
    """Draws rows of the tensors of several nodes.

    Args:
        sources: For each node, its data; one object for nodes that share it.
        device: Where the rows are wanted.

    Raises:
        CohortError: The data are no tensors in memory, or not of one kind.
    """

    def __init__(self, sources: Sequence[BatchSource], device: torch.device) -> None:
        self._shared = all(source is sources[0] for source in sources)
        self._leaves: list[list[torch.Tensor]] = []
        kinds = set()
        for source in sources[:1] if self._shared else sources:
            if type(source) is not TensorData:
                raise CohortError(f"its data are no tensors in memory ({type(source).__name__})")
            leaves, self._structure = pytree.tree_flatten((source.data, source.target))
            self._places = [place for place, leaf in enumerate(leaves) if leaf is not None]
            self._count = len(leaves)
            tensors = [leaves[place].to(device) for place in self._places]
            kinds.add((self._structure, tuple((each.shape[1:], each.dtype) for each in tensors)))
            self._leaves.append(tensors)
        if len(kinds) > 1:
            raise CohortError("the data of the nodes have different shapes", for_good=False)

    def draw(self, run: Run, rows: Sequence[Array]) -> list[torch.Tensor]:
        """The rows of adjacent nodes: for each tensor of the data one of shape ``(nodes, size, ...)``.

        Args:
            run: The nodes.
            rows: The row numbers for each of them.
        """
        if self._shared:
            picked = torch.from_numpy(np.concatenate(rows))
            return [
                leaf.index_select(0, picked.to(leaf.device)).view(len(rows), run.size, *leaf.shape[1:])
                for leaf in self._leaves[0]
            ]
        each = [self._of(node, mine) for node, mine in zip(range(run.low, run.high), rows, strict=True)]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]

    def one(self, node: int, rows: Array) -> tuple[Any, Any]:
        """The batch of one node, as its plan gets it."""
        return self.arranged(self._of(node, rows))

    def arranged(self, leaves: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        """Data and target as the plan has nested them."""
        filled: list[Any] = [None] * self._count
        for place, leaf in zip(self._places, leaves, strict=True):
            filled[place] = leaf
        data, target = pytree.tree_unflatten(filled, self._structure)
        return data, target

    def _of(self, node: int, rows: Array) -> list[torch.Tensor]:
        picked = torch.from_numpy(rows)
        leaves = self._leaves[0 if self._shared else node]
        return [leaf.index_select(0, picked.to(leaf.device)) for leaf in leaves]
