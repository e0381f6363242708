"""The data of an experiment: one data set per node, known by its card only."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from fedplug.core.dataset_type import most_samples
from fedplug.core.errors import DatasetError, FedplugWarning, UnknownNameError, UsageError
from fedplug.core.messages import DatasetCard, NodeInfo
from fedplug.researcher.dataset_differences import differences

_FIELDS = tuple(field.name for field in msgspec.structs.fields(DatasetCard))

_FOREIGN = {
    "data_type": "A card calls it 'type'.",
    "path": "Leave it out: a path never leaves its node.",
}
"""What else people write who know data sets from Fed-BioMed."""


class FederatedDataset:
    """Exactly one data set for each node. It does not change once it is made.

    Args:
        cards: Node id → its data set's card: a `DatasetCard`, or a dictionary of a card's fields; or a list with
            exactly one of them.
        nodes: What is known about the nodes, for messages to people.

    Raises:
        DatasetError: There is no node at all, or a node has another number of data sets than one.
        UsageError: Something else than cards was given, or a card's field is missing, unknown or of a wrong type.

    Example:
        >>> card = {"dataset_id": "ds-1", "name": "wards", "type": "csv", "tags": ["breast"], "shape": [569, 31]}
        >>> FederatedDataset({"node-a": card}).sample_sizes()
        {'node-a': 569}
    """

    def __init__(self, cards: Mapping[str, Any], nodes: Mapping[str, NodeInfo] | None = None) -> None:
        given: object = cards
        if not isinstance(given, Mapping) or not all(isinstance(node_id, str) and node_id for node_id in given):
            raise UsageError(
                f"A federated data set is made from a dictionary of node id and card, not from {_kind(given)}.",
                cure='E.g. {"node-a": card}; experiment.training_data().data() is one.',
            )
        if not cards:
            raise DatasetError("A federated data set needs at least one node.")
        self._cards = {node_id: _card_of(node_id, card) for node_id, card in sorted(cards.items())}
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

    def dataset_ids(self) -> Mapping[str, str]:
        """Node id → id of its data set."""
        return self._ids

    def most_samples(self) -> Mapping[str, int]:
        """Node id → how many samples a training can have seen there, for the nodes of which that is known."""
        return self._most

    @cached_property
    def _ids(self) -> Mapping[str, str]:
        return {node: card.dataset_id for node, card in self._cards.items()}

    @cached_property
    def _most(self) -> Mapping[str, int]:
        found = {node: most_samples(card.type, card.shape) for node, card in self._cards.items()}
        return {node: most for node, most in found.items() if most is not None}

    def sample_sizes(self) -> dict[str, int]:
        """Node id → number of samples, as far as a card says so."""
        return {node_id: card.shape[0] if card.shape else 0 for node_id, card in self._cards.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Node id → shape of its data set."""
        return {node_id: card.shape for node_id, card in self._cards.items()}

    def mismatches(self) -> list[str]:
        """How the nodes' data sets differ where those of one experiment should not, a sentence for each difference.

        Looked at are type, columns (or arrays) and their types, dimensions and shape of a sample, and target; what a
        card does not say is not looked at. Numbers of samples may differ. Most nodes are taken to be right, and the
        others are named.

        Returns:
            The sentences; none if all fits together.
        """
        called = list(self._names.values())
        unique = {
            node_id: name
            for node_id, name in self._names.items()
            if name and called.count(name) == 1 and (name == node_id or name not in self._cards)
        }
        return differences({unique.get(node_id, node_id): card for node_id, card in self._cards.items()})

    def __len__(self) -> int:
        return len(self._cards)

    def __repr__(self) -> str:
        rows = ", ".join(f"{self._names.get(n) or n}: {card.name!r} {card.shape}" for n, card in self._cards.items())
        return f"FederatedDataset({rows})"


def warn_of_mismatches(data: FederatedDataset) -> None:
    """Give one warning, if the nodes' data sets differ where they should not."""
    if differing := data.mismatches():
        listed = "\n".join(f"  - {sentence}" for sentence in differing)
        warnings.warn(
            f"The data sets of the nodes do not fit together:\n{listed}\n"
            "A plan that relies on what differs will fail or learn nonsense on some node.",
            FedplugWarning,
            stacklevel=3,
        )


def display_name(node_id: str, nodes: Mapping[str, NodeInfo]) -> str:
    """How a node is called in messages: its name and, where that differs, its id."""
    info = nodes.get(node_id)
    return f"{info.name!r} ({node_id})" if info and info.name and info.name != node_id else repr(node_id)


def _card_of(node_id: str, given: Any) -> DatasetCard:
    """The card that a person means by ``given``."""
    if isinstance(given, list | tuple):
        if len(given) != 1:
            named = ", ".join(repr(_card_of(node_id, each).name) for each in given) or "none"
            raise DatasetError(
                f"An experiment uses one data set per node, but node {node_id!r} was given {len(given)}: {named}.",
                cure="Keep the one to train on.",
                node=node_id,
            )
        given = given[0]
    if isinstance(given, DatasetCard):
        return given
    whose = f"The data set of node {node_id!r}"
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{whose} is {_kind(given)}, not a DatasetCard or a dictionary of its fields.",
            cure="Take the cards from training_data().data() of an experiment that has searched.",
        )
    for name in given:
        if name not in _FIELDS:
            cure = _FOREIGN.get(name) or UnknownNameError("field", str(name), _FIELDS).cure
            raise UsageError(f"{whose} has a field {name!r}, which no card has.", cure=cure)
    try:
        card = msgspec.convert(dict(given), DatasetCard)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{whose} cannot be used: {error}.",
            cure="A card has dataset_id, name, type, tags and shape; it may have description, columns, dtypes, target.",
        ) from None
    if any(length < 0 for length in card.shape):
        raise UsageError(f"{whose} has the impossible shape {card.shape}.")
    return card


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
