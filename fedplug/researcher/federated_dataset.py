"""The data of an experiment: one data set per node, known by its card only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.messages import DatasetCard, NodeInfo


class FederatedDataset:
    """Exactly one data set for each node.

    Args:
        cards: Node id → its data set's card.
        nodes: What is known about the nodes, for messages to people.

    Raises:
        DatasetError: There is no node at all.
        UsageError: Something else than cards was given.
    """

    def __init__(self, cards: Mapping[str, DatasetCard], nodes: Mapping[str, NodeInfo] | None = None) -> None:
        if not cards:
            raise DatasetError("A federated data set needs at least one node.")
        for node_id, card in cards.items():
            if not isinstance(card, DatasetCard):
                raise UsageError(
                    f"The data set of node {node_id!r} is {type(card).__name__}, not a DatasetCard.",
                    cure="Take the cards from training_data().data() of an experiment that has searched.",
                )
        self._cards = dict(sorted(cards.items()))
        self._names = {node_id: info.name for node_id, info in (nodes or {}).items()}

    @classmethod
    def from_answers(
        cls, tags: Iterable[str], answers: Mapping[str, Iterable[DatasetCard]], nodes: Mapping[str, NodeInfo]
    ) -> FederatedDataset:
        """Choose the one data set of each node that carries all ``tags``; nodes without one are left out.

        Raises:
            DatasetError: On some node the tags match more than one data set; the candidates are named.
        """
        chosen: dict[str, DatasetCard] = {}
        for node_id, cards in answers.items():
            found = list(cards)
            if len(found) > 1:
                candidates = ", ".join(f"{card.name!r} {list(card.tags)}" for card in found)
                raise DatasetError(
                    f"The tags {list(tags)} match {len(found)} data sets on node "
                    f"{display_name(node_id, nodes)}: {candidates}.",
                    cure="Add a tag that only one of them carries; an experiment uses one data set per node.",
                    node=node_id,
                )
            if found:
                chosen[node_id] = found[0]
        return cls(chosen, nodes)

    def data(self) -> dict[str, DatasetCard]:
        """Node id → card."""
        return dict(self._cards)

    def node_ids(self) -> list[str]:
        """The nodes, sorted."""
        return list(self._cards)

    def names(self) -> dict[str, str]:
        """Node id → what people call it, as far as it is known."""
        return dict(self._names)

    def sample_sizes(self) -> dict[str, int]:
        """Node id → number of samples, as far as a card says so."""
        return {node_id: card.shape[0] if card.shape else 0 for node_id, card in self._cards.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Node id → shape of its data set."""
        return {node_id: card.shape for node_id, card in self._cards.items()}

    def __len__(self) -> int:
        return len(self._cards)

    def __repr__(self) -> str:
        rows = ", ".join(f"{self._names.get(n) or n}: {card.name!r} {card.shape}" for n, card in self._cards.items())
        return f"FederatedDataset({rows})"


def display_name(node_id: str, nodes: Mapping[str, NodeInfo]) -> str:
    """How a node is called in messages: its name and, where that differs, its id."""
    info = nodes.get(node_id)
    return f"{info.name!r} ({node_id})" if info and info.name and info.name != node_id else repr(node_id)
