"""What has changed at the nodes since a breakpoint was saved."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from fedplug.core.messages import DatasetCard
from fedplug.core.pool import DatasetsFound, NodePool
from fedplug.researcher.federated_dataset import FederatedDataset


def ask_nodes(pool: NodePool, query: int, nodes: Collection[str], timeout: float) -> dict[str, tuple[DatasetCard, ...]]:
    """All data sets of the nodes that are connected, by node id.

    Args:
        pool: Where the nodes are.
        query: A number that no search on this pool has used yet.
        nodes: Ids of nodes to wait for.
        timeout: Seconds after which the answers there are must do.
    """
    pool.search(query, ())
    found: dict[str, tuple[DatasetCard, ...]] = {}
    deadline = time.monotonic() + timeout
    while not found.keys() >= set(nodes):
        left = 0.0 if pool.is_fixed else deadline - time.monotonic()
        event = pool.next_event(max(0.0, min(left, 0.5)))
        if isinstance(event, DatasetsFound) and event.query == query:
            found[event.node_id] = event.cards
        if event is None and left <= 0:
            break
    return {node: cards for node, cards in found.items() if node in pool.nodes}


def differences(
    data: FederatedDataset,
    cards: Mapping[str, Iterable[DatasetCard]],
    names: Mapping[str, str],
    tags: Iterable[str] | None,
) -> list[str]:
    """What has changed at the nodes since a breakpoint, one sentence each.

    Args:
        data: The data of the breakpoint.
        cards: Node id → what it holds now, for the nodes that are connected.
        names: Node id → name, for the same nodes.
        tags: The tags of the experiment, if it has any.
    """
    found = []
    for node, card in data.data().items():
        who = repr(names.get(node) or data.names().get(node) or node)
        if node not in cards:
            found.append(f"Node {who} is not connected.")
            continue
        now = {each.dataset_id: each for each in cards[node]}
        if card.dataset_id not in now:
            there = ", ".join(repr(each.name) for each in now.values()) or "none"
            found.append(f"Node {who} does not have the data set {card.name!r} any more; it has: {there}.")
        elif (card.shape, card.columns, card.dtypes) != (
            (other := now[card.dataset_id]).shape, other.columns, other.dtypes,
        ):  # fmt: skip
            found.append(
                f"Data set {card.name!r} of node {who} has changed: it had shape {card.shape}, now {other.shape}"
                + ("." if card.columns == other.columns else ", and other columns.")
            )
    wanted = set(tags or ())
    for node, held in cards.items():
        if wanted and node not in data.data() and any(wanted <= set(card.tags) for card in held):
            found.append(f"Node {names.get(node) or node!r} is new: it has data with these tags, and takes no part.")
    return found
