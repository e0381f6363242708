"""Batches of samples that are read when they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.datasets.base import PlanDataset, stacked
from fedplug.core.params import Array


class SampleData(BatchSource):
    """The samples of a `PlanDataset`, or some of them, as NumPy arrays; each is read when its batch is drawn.

    Args:
        dataset: Bound to the node's data.
        indices: The samples, in this order; all by default.
    """

    @classmethod
    def conformance_cases(cls) -> list[Self]:
        """What ``fedplug plugins check`` tests."""
        return [cls(_Numbers(), None)]

    def __init__(self, dataset: PlanDataset, indices: Array | None = None) -> None:
        self.dataset = dataset
        self.indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def labels(self) -> Array | None:
        """The targets, where they are known without reading the samples."""
        labels = self.dataset.labels()
        return None if labels is None else labels[self.indices]

    def subset(self, indices: Array) -> Self:
        """The samples at ``indices``, still not read."""
        return type(self)(self.dataset, self.indices[indices])

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """Batches of samples, stacked along a new first axis."""
        drawn = self.indices if order is None else self.indices[order]
        for start in range(0, args.batches_per_epoch(len(self)) * args.batch_size, args.batch_size):
            samples = [self.dataset[int(index)] for index in drawn[start : start + args.batch_size]]
            yield stacked([data for data, _ in samples]), stacked([target for _, target in samples])


class _Numbers(PlanDataset):
    """Seven samples without a file, for the checks."""

    def __len__(self) -> int:
        return 7

    def sample(self, index: int) -> tuple[Any, Any]:
        return np.array([index, index + 0.5]), index % 2
