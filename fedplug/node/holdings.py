"""What data a running node holds: those of its store, and those that its script keeps in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import RefusedError, UnknownNameError
from fedplug.core.messages import DatasetCard
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.store import NodeStore

_CURE = "Search again: Experiment.set_tags."


class Holdings:
    """The data sets of a node.

    Args:
        store: The node's store.
        memory: Data sets that lie in memory.
    """

    def __init__(self, store: NodeStore, memory: Sequence[MemoryDataset] = ()) -> None:
        self._store = store
        self._memory = {dataset.card().dataset_id: dataset for dataset in memory}

    def cards(self, tags: Iterable[str]) -> list[DatasetCard]:
        """What a researcher may know about the data sets that carry all of ``tags``."""
        asked = tuple(tags)
        cards = [record.card() for record in self._store.datasets(asked)]
        return cards + [dataset.card() for dataset in self._memory.values() if set(asked) <= set(dataset.tags)]

    def name_of(self, dataset_id: str) -> str:
        """The name of the data set with this id; empty if there is none."""
        try:
            return self.dataset(dataset_id).name
        except RefusedError:
            return ""

    def dataset(self, dataset_id: str) -> DatasetRecord | MemoryDataset:
        """The data set that a request names.

        Raises:
            RefusedError: There is none of that id (any more): code ``"dataset-changed"``, ``"dataset-removed"``, or
                ``"no-dataset"`` if there never was.
        """
        if dataset_id in self._memory:
            return self._memory[dataset_id]
        try:
            return self._store.dataset(dataset_id)
        except UnknownNameError:
            pass
        former = self._store.former_dataset(dataset_id)
        if former is not None and former.reason == "changed":
            raise RefusedError(
                f"Data set {former.name!r} has changed since this experiment was set up ({former.when[:10]}).",
                code="dataset-changed",
                cure=f"What it holds now may be used after a new search. {_CURE}",
            )
        if former is not None:
            raise RefusedError(
                f"Data set {former.name!r} was removed from this node ({former.when[:10]}). It has: {self._names()}.",
                code="dataset-removed",
                cure=_CURE,
            )
        raise RefusedError(
            f"This node has no data set {dataset_id!r} (any more). It has: {self._names()}.",
            code="no-dataset",
            cure=_CURE,
        )

    def _names(self) -> str:
        names = [record.name for record in self._store.datasets()]
        return ", ".join(sorted([*names, *(dataset.name for dataset in self._memory.values())])) or "none"
