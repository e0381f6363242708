"""Settings of the data: tags, nodes, and the federated data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedplug.core.errors import UsageError
from fedplug.researcher.dataset_table import NodeDatasets
from fedplug.researcher.federated_dataset import FederatedDataset, warn_of_mismatches
from fedplug.researcher.search import NodeSearch, list_datasets, usable_nodes
from fedplug.researcher.settings.base import QUERIES, SettingsBase, are_words
from fedplug.researcher.shown import shown


class DataSettings(SettingsBase):
    """Which data is trained on, and where."""

    def set_tags(self, tags: str | Sequence[str]) -> list[str]:
        """Choose the data by tags and search for it at once. A single tag may be a plain string.

        Raises:
            UsageError: There is no tag, or one is not a string.
            TransportError: No node connects in time.
            DatasetError: No data set carries all tags, or on some node more than one does.
        """
        before, self._tags = self._tags, checked_tags(tags)
        try:
            self.set_training_data(None, from_tags=True)
        except BaseException:
            self._tags = before
            raise
        return list(self._tags)

    def tags(self) -> list[str] | None:
        """The tags; None if the data was not chosen by tags."""
        return None if self._tags is None else list(self._tags)

    def set_nodes(self, nodes: Sequence[str] | None) -> list[str] | None:
        """Restrict the experiment to these nodes (ids or names); None for all.

        This does not search again; ``set_training_data(None, from_tags=True)`` does.

        Raises:
            UsageError: ``nodes`` is empty or holds something else than strings.
        """
        if nodes is not None and (isinstance(nodes, str) or not are_words(nodes)):
            raise UsageError(f"nodes must be a list of node ids or names, got {shown(nodes)}.", cure="None means all.")
        self._nodes = None if nodes is None else list(dict.fromkeys(nodes))
        return self.nodes()

    def nodes(self) -> list[str] | None:
        """The nodes the experiment is restricted to; None for all."""
        return None if self._nodes is None else list(self._nodes)

    def all_federation_nodes(self) -> list[str]:
        """The ids of all nodes of the federated data set, sorted; empty while there is none."""
        return [] if self._training_data is None else self._training_data.node_ids()

    def filtered_federation_nodes(self) -> list[str]:
        """The ids of those nodes of the federated data set that the experiment is restricted to, sorted.

        Raises:
            UsageError: None of the nodes it is restricted to holds the data.
        """
        if self._training_data is None:
            return []
        connected = self.pool().nodes if self._nodes is not None else {}
        return usable_nodes(self._training_data, self._nodes, connected)

    def set_training_data(
        self,
        training_data: FederatedDataset | Mapping[str, Any] | None,
        from_tags: bool = False,
    ) -> FederatedDataset:
        """Set the federated data set by hand, or search for it by the experiment's tags.

        Args:
            training_data: The data sets, one per node: a `FederatedDataset`, or what one is made of; None together
                with ``from_tags``.
            from_tags: Search with the experiment's tags (and nodes).

        Raises:
            UsageError: Not exactly one of the two is given, or there are no tags to search by.
            TransportError: No node connects in time.
            DatasetError: No data set carries all tags, or on some node more than one does.
        """
        if (training_data is None) != from_tags:
            raise UsageError(
                "set_training_data needs either training_data or from_tags=True.",
                cure="set_training_data(None, from_tags=True) searches with the experiment's tags.",
            )
        if training_data is None:
            if self._tags is None:
                raise UsageError("There are no tags to search by.", cure="Call set_tags first.")
            found = self._search()
        else:
            found = training_data if isinstance(training_data, FederatedDataset) else FederatedDataset(training_data)
        warn_of_mismatches(found)
        if training_data is not None:
            self._tags = None
        self._training_data = found
        return found

    def list_datasets(self, nodes: Sequence[str] | None = None, verbose: bool = False) -> NodeDatasets:
        """The data sets of the nodes, to choose tags and nodes by. It searches, and changes nothing.

        Args:
            nodes: Ids or names of the nodes to ask; None for all that are connected.
            verbose: Whether to print them as a table too.

        Returns:
            Node id → the cards of its data sets; ``str`` of it is the table. A card never holds a row or a path.

        Raises:
            TransportError: No node, or not every node asked for, connects in time.
        """
        found = list_datasets(
            self.pool(), next(QUERIES), nodes=nodes, min_nodes=self._min_nodes, timeout=self._connect_timeout,
            say=self._monitors.message,
        )  # fmt: skip
        if verbose:
            print(found)  # noqa: T201 - this is what it is for
        return found

    def training_data(self) -> FederatedDataset | None:
        """The federated data set, once it is known."""
        return self._training_data

    def _search(self) -> FederatedDataset:
        search = NodeSearch(
            self.pool(), self._tags or (), self._nodes, self._min_nodes, self._connect_timeout, self._monitors.message
        )
        return search.run(next(QUERIES))


def checked_tags(tags: str | Sequence[str]) -> list[str]:
    """``tags`` as a list.

    Raises:
        UsageError: There is no tag, or one is not a string.
    """
    words = [tags] if isinstance(tags, str) else tags
    if not are_words(words):
        raise UsageError(
            f"tags must be a string or a list of strings, got {shown(tags)}.", cure="E.g. ['#breast', '#csv']."
        )
    return list(words)
