"""Finding the nodes of an experiment and their data: wait for nodes, ask them by tags, choose one data set each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

from fedplug.core.errors import DatasetError, TransportError, UsageError
from fedplug.core.messages import DatasetCard, NodeInfo
from fedplug.core.pool import (
    DatasetsFound,
    NodeJoined,
    NodePool,
    PoolEvent,
    UpdateFetched,
    UpdateOffered,
    Watcher,
)
from fedplug.researcher.dataset_table import NodeDatasets
from fedplug.researcher.federated_dataset import FederatedDataset, display_name

SETTLE = 2.6
"""Seconds without a new node after which the nodes there are taken for all: nodes knock every 2 s ± 25 %."""

_REFUSALS = {
    "refused_version": "A node that tried was refused, since it speaks another version of the protocol: "
    "upgrade FedPlug on the older side.",
    "refused_duplicate-node": "A node that tried was refused, since its id is that of a node that is connected: "
    "a copied node folder needs a new id.",
    "refused_wrong-id": "A node that tried was refused, since its key is allowed for a node with another id: "
    "its owner sees in its log what you are to type.",
    "turned_away_unknown-key": "A node that tried was not let in, since its key is not allowed: "
    "the log says how to allow it.",
    "turned_away_wrong-key": "A node that tried did not come in, since it trusts another key than yours: "
    "compare what 'fedplug keys show' says with its owner.",
    "turned_away_plaintext-node": "Somebody tried without encryption: a node needs your key, by 'fedplug node trust'.",
    "turned_away_plaintext-researcher": "Somebody tried with encryption, for which you need keys: "
    "make them with 'fedplug researcher init'.",
    "turned_away_full": "A node that tried found no room: allow this process more open files (ulimit -n).",
    "turned_away_no-answer": "It cannot be found out which keys are allowed: 'fedplug researcher list' says why.",
}
"""Counter of the pool's traffic → what it means."""


class NodeSearch:
    """One search: which nodes hold a data set with these tags.

    Args:
        pool: Where to look.
        tags: Tags that a data set must all carry.
        nodes: Ids or names of the nodes to ask; None for all that connect.
        min_nodes: Number of nodes with such data to wait for; None to wait until no more nodes come.
        timeout: Seconds after which the search gives up.
        say: Told what is being waited for.
        listing: Whether every node counts, with such data or without, because somebody only wants to look.
    """

    def __init__(
        self,
        pool: NodePool,
        tags: Sequence[str],
        nodes: Sequence[str] | None,
        min_nodes: int | None,
        timeout: float,
        say: Callable[[str], None],
        *,
        listing: bool = False,
    ) -> None:
        self.pool = pool
        self.tags = tuple(tags)
        self.wanted = None if nodes is None else tuple(nodes)
        self.min_nodes = min_nodes
        self.timeout = timeout
        self.say = say
        self.listing = listing
        self._said: dict[str, tuple[DatasetCard, ...]] = {}

    def run(self, query: int) -> FederatedDataset:
        """Search until the nodes asked for have answered, and choose one data set on each.

        Args:
            query: A number that no search on this pool has used yet.

        Raises:
            TransportError: No node, or not every node asked for, connected within the time-out.
            DatasetError: No data set matches, or the tags are ambiguous on a node.
        """
        self.wait(query)
        return self._choose()

    def wait(self, query: int) -> dict[str, list[DatasetCard]]:
        """Search until the nodes asked for have answered. What they found: node id → data sets, both sorted.

        Raises:
            TransportError: As for `run`.
            DatasetError: No data set matches within the time-out.
        """
        self.pool.search(query, ())  # all cards: so that an error can say what is there instead
        start = last_change = time.monotonic()
        told = False
        while not self._complete(time.monotonic() - last_change):
            now = time.monotonic()
            if now - start > self.timeout or (self.pool.is_fixed and not self._unanswered()):
                self._explain()
            event = self.pool.next_event(0.25 if told else 0.05)
            if event is None and not told and not self.pool.is_fixed:
                self.say(self._waiting_text())
                told = True
            while event is not None:  # all that is there: each look at who is missing goes through all nodes
                if isinstance(event, DatasetsFound) and event.query == query:
                    self._said[event.node_id] = event.cards
                if isinstance(event, NodeJoined | DatasetsFound):
                    last_change = time.monotonic()
                event = self.pool.next_event(0)
        return dict(sorted(self._matching().items()))

    def _complete(self, quiet: float) -> bool:
        if self._unanswered() or self._absent():
            return False
        if self.wanted is not None:
            return True
        if self.min_nodes is not None and len(self._matching()) >= self.min_nodes:
            return True
        settled = self.pool.is_fixed or (bool(self.answers) and quiet > SETTLE)
        return settled and len(self._matching()) >= (self.min_nodes or 0)

    def _choose(self) -> FederatedDataset:
        matching = self._matching()
        if not matching:
            self._refuse_unmatched(list(self.answers))
        if self.wanted is not None:
            without = [node for node in self.answers if self._is_wanted(node) and node not in matching]
            if without:
                self._refuse_unmatched(without)
        return FederatedDataset.from_answers(self.tags, matching, self.pool.nodes)

    def _matching(self) -> dict[str, list[DatasetCard]]:
        """Node id → data sets that carry all tags; the nodes that have none are there only for a listing."""
        wanted = set(self.tags)
        found = {
            node: sorted((card for card in cards if wanted <= set(card.tags)), key=lambda card: card.name)
            for node, cards in self.answers.items()
            if self._is_wanted(node)
        }
        return {node: cards for node, cards in found.items() if cards or self.listing}

    def _is_wanted(self, node_id: str) -> bool:
        if self.wanted is None:
            return True
        info = self.pool.nodes.get(node_id)
        return node_id in self.wanted or (info is not None and info.name in self.wanted)

    @property
    def answers(self) -> dict[str, tuple[DatasetCard, ...]]:
        """What the connected nodes hold. One that was away for a moment is not asked again, so its answer stands."""
        present = self.pool.nodes
        return {node: cards for node, cards in self._said.items() if node in present}

    def _unanswered(self) -> list[str]:
        """The connected nodes that matter and have not said yet what data they have."""
        said = self._said
        return [node for node in self.pool.nodes if node not in said and self._is_wanted(node)]

    def _absent(self) -> list[str]:
        if not self.wanted:
            return []
        present = {name for node_id, info in self.pool.nodes.items() for name in (node_id, info.name)}
        return [node for node in self.wanted if node not in present]

    def _waiting_text(self) -> str:
        if self.wanted is not None:
            return f"Waiting at {self.pool.description} for {', '.join(self._absent() or self.wanted)} ..."
        count = f"{self.min_nodes} nodes" if self.min_nodes and self.min_nodes > 1 else "nodes"
        return f"Waiting at {self.pool.description} for {count}{self._with_data(', '.join(self.tags))} ..."

    def _with_data(self, tags: str) -> str:
        return "" if self.listing else f" with data tagged {tags}"

    def _explain(self) -> None:
        """The time is up: say what is missing."""
        here = self.pool.description
        start_one = f"Start a node with: fedplug node start --researcher {here}"
        seconds = f"within {self.timeout:g} s"
        if refused := self._refusals():
            start_one = f"{refused} {start_one}"
        connected = ", ".join(display_name(node, self.pool.nodes) for node in self.pool.nodes)
        if not self.pool.nodes:
            raise TransportError(f"No node connected to {here} {seconds}.", cure=start_one)
        if absent := self._absent():
            raise TransportError(
                f"Node {absent[0]!r} did not connect to {here} {seconds}. Connected: {connected}.",
                cure=f"{did_you_mean(absent[0], self.pool.nodes)}Check its id or name, and that it is running. "
                f"{start_one}",
            )
        if unanswered := self._unanswered():
            raise TransportError(
                f"Node {display_name(unanswered[0], self.pool.nodes)} did not say what data it has {seconds}.",
                cure="Its log may say why; nodes=[...] leaves it out.",
            )
        if not self._matching():
            self._refuse_unmatched(list(self.answers))
        raise TransportError(
            f"Only {len(self._matching())} of {self.min_nodes} nodes{self._with_data(str(list(self.tags)))} "
            f"connected to {here} {seconds}. Connected: {connected}.",
            cure=f"{start_one}, or lower min_nodes.",
        )

    def _refusals(self) -> str:
        """What is known about nodes that tried to connect and were turned away."""
        traffic = self.pool.traffic()
        found = [sentence for counter, sentence in _REFUSALS.items() if traffic.get(counter)]
        return " ".join(found)

    def _refuse_unmatched(self, node_ids: Sequence[str]) -> None:
        there = "; ".join(
            f"{display_name(node, self.pool.nodes)} has "
            + (", ".join(f"{card.name!r} {list(card.tags)}" for card in self.answers.get(node, ())) or "no data set")
            for node in sorted(node_ids)
        )
        raise DatasetError(
            f"No data set is tagged {list(self.tags)}: {there or 'no node answered'}.",
            cure="Ask for tags that the data sets carry, or add the data on the node: "
            f"fedplug node dataset add --tags {shlex.quote(','.join(self.tags))} ...",
        )


def list_datasets(
    pool: NodePool,
    query: int,
    nodes: Sequence[str] | None = None,
    min_nodes: int | None = None,
    timeout: float = 30.0,
    say: Callable[[str], None] | None = None,
    *,
    tags: Sequence[str] = (),
) -> NodeDatasets:
    """The data sets of the nodes, to look at.

    Args:
        pool: Where to look.
        query: A number that no search on this pool has used yet.
        nodes: Ids or names of the nodes to ask; None for all that connect.
        min_nodes: Number of nodes to wait for; None to wait until no more nodes come.
        timeout: Seconds to wait for nodes.
        say: Told what is being waited for.
        tags: Only data sets that carry all of these.

    Returns:
        Node id → its data sets by name, for every node that was asked; some may have none. Printed it is a table.

    Raises:
        TransportError: No node, or not every node asked for, connected within the time-out.
    """
    search = NodeSearch(pool, tags, nodes, min_nodes, timeout, say or _say_nothing, listing=True)
    return NodeDatasets(search.wait(query), pool.nodes)


def usable_nodes(data: FederatedDataset, wanted: Sequence[str] | None, connected: Mapping[str, NodeInfo]) -> list[str]:
    """The nodes that hold the data and that the experiment is not kept from, sorted.

    Args:
        data: The federated data set.
        wanted: Ids or names that the experiment is restricted to; None for all.
        connected: What is known about the nodes that are connected. One that is away just now is known by the
            name that it had when the data was found.

    Raises:
        UsageError: There is none.
    """
    if wanted is None:
        return data.node_ids()
    names = {**data.names(), **{node: info.name for node, info in connected.items()}}
    nodes = [node for node in data.node_ids() if node in wanted or names.get(node) in wanted]
    if not nodes:
        there = {node: NodeInfo(node_id=node, name=names.get(node, "")) for node in data.node_ids()}
        listed = ", ".join(display_name(node, there) for node in there)
        raise UsageError(
            f"None of the nodes {list(wanted)} holds the training data. It lies on {listed}.",
            cure=f"{did_you_mean(wanted[0], there)}"
            "set_nodes(None) uses all; set_training_data(None, from_tags=True) searches again.",
        )
    return nodes


def _say_nothing(text: str) -> None:
    """For whoever only wants the answer."""


def did_you_mean(node: str, known: Mapping[str, NodeInfo]) -> str:
    """A question about the nearest id or name of a node, with a space behind it; empty if none is near."""
    choices: Iterable[str] = sorted({text for info in known.values() for text in (info.node_id, info.name) if text})
    near = get_close_matches(node, choices, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}? " if near else ""


def await_nodes(
    pool: NodePool,
    nodes: Sequence[str],
    timeout: float,
    say: Callable[[str], None],
    watch: Watcher,
    given_up: set[str] | None = None,
) -> None:
    """Give nodes that were there before, and are away just now, time to come back.

    Those that do not are left to the strategy, which decides about nodes that are lost.

    Args:
        pool: Where they should be.
        nodes: Their ids.
        timeout: Seconds to wait at most.
        say: Told who is being waited for.
        watch: Told about signs of life meanwhile.
        given_up: Nodes that were waited for in vain, and so are not waited for again before they have been back:
            otherwise one that is gone for good would hold up every round. It is brought up to date.
    """
    hopeless = set() if given_up is None else given_up
    if pool.is_fixed:  # nobody comes and nobody goes
        _forget_all(pool, watch)
        return
    deadline = time.monotonic() + timeout
    told = False
    while True:
        hopeless -= set(pool.nodes)
        away = [node for node in nodes if node not in pool.nodes and node not in hopeless]
        if not away:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            hopeless |= set(away)
            return
        if not told:
            say(f"Waiting for {', '.join(away)} to connect again ...")
            told = True
        _forget(pool, pool.next_event(min(left, 1.0), watch))
    _forget_all(pool, watch)


def _forget_all(pool: NodePool, watch: Watcher) -> None:
    """That one was away since the last round is no loss to the next."""
    while (event := pool.next_event(0, watch)) is not None:
        _forget(pool, event)


def _forget(pool: NodePool, event: PoolEvent | None) -> None:
    """Nothing that happens between two rounds counts; a node need not hold what nobody will fetch."""
    if isinstance(event, UpdateOffered | UpdateFetched):
        pool.commit(event.reply.key)
