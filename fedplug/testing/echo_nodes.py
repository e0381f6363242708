"""Nodes that do not train: each answers every task at once with the parameters it was sent.

For measuring and testing what stands around the training, over a real transport:

    python -m fedplug.testing.echo_nodes zmq://127.0.0.1:7400 16

They offer a data set tagged ``#echo``, need no framework, and end when their standard input is closed. With
``--keys FILE`` (a `KeyRing` as JSON) each has keys of its own; ``--first N`` numbers them from N.
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from fedplug.core.keys import KeyPair
from fedplug.core.link import ResearcherLink, SearchReceived, TaskReceived
from fedplug.core.messages import DatasetCard, NodeInfo, TrainReply
from fedplug.core.plugins import default_host
from fedplug.core.transport import Transport, TransportOptions
from fedplug.protocol import NodeEndpoint
from fedplug.transports.registry import open_transport

ECHO_TAG = "#echo"


class KeyRing(msgspec.Struct, frozen=True):
    """The keys of a federation of echo nodes.

    Attributes:
        researcher: The researcher's keys, public and secret.
        nodes: The same of each node, in the order of their numbers.
    """

    researcher: tuple[str, str]
    nodes: tuple[tuple[str, str], ...]

    @classmethod
    def make(cls, transport: Transport, count: int) -> KeyRing:
        """New keys for so many nodes."""
        pairs = [transport.new_keys() for _ in range(count + 1)]
        (researcher, *nodes) = [(pair.public, pair.secret) for pair in pairs]
        return cls(researcher, tuple(nodes))

    def researcher_options(self) -> TransportOptions:
        """What the researcher listens with."""
        names = {public: node_id(number) for number, (public, _) in enumerate(self.nodes)}
        return TransportOptions(keys=KeyPair(*self.researcher), enrolled=lambda key: names.get(key, ""))

    def node_options(self, number: int) -> TransportOptions:
        """What a node connects with."""
        return TransportOptions(keys=KeyPair(*self.nodes[number]), peer_key=self.researcher[0])


def node_id(number: int) -> str:
    """The id of a node."""
    return f"echo-{number:04d}"


def serve(link: ResearcherLink, samples: int, stopped: threading.Event) -> None:
    """Answer searches and tasks until ``stopped`` is set."""
    card = DatasetCard(dataset_id="echo", name="echo", type="none", tags=(ECHO_TAG,), shape=(samples, 1))
    while not stopped.is_set():
        event = link.next_event(None)
        if isinstance(event, SearchReceived):
            matches = set(event.tags) <= set(card.tags)
            link.answer_search(event.query, [card] if matches else [])
        elif isinstance(event, TaskReceived):
            link.finish(TrainReply(key=event.request.key, sample_count=samples, steps=1), event.params, event.aux)


def run(url: str, count: int, first: int = 0, ring: KeyRing | None = None, heartbeat: float = 2.0) -> None:
    """Run ``count`` echo nodes until standard input ends."""
    stopped = threading.Event()
    transport = open_transport(url, default_host())
    with ExitStack() as stack:
        links = [
            stack.enter_context(
                NodeEndpoint(
                    transport,
                    url,
                    NodeInfo(node_id=node_id(number)),
                    replace(ring.node_options(number) if ring else TransportOptions(), heartbeat=heartbeat),
                )
            )
            for number in range(first, first + count)
        ]
        threads = [threading.Thread(target=serve, args=(link, 1 + i, stopped)) for i, link in enumerate(links, first)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopped.set()
        for link in links:
            link.wake()
        for thread in threads:
            thread.join()


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m fedplug.testing.echo_nodes", description=__doc__)
    parser.add_argument("url", help="address of the researcher")
    parser.add_argument("count", type=int, help="number of nodes")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--heartbeat", type=float, default=2.0, help="seconds between signs of life")
    parser.add_argument("--keys", type=Path, help="file with the keys of all")
    given = parser.parse_args()
    ring = msgspec.json.decode(given.keys.read_bytes(), type=KeyRing) if given.keys else None
    run(given.url, given.count, given.first, ring, given.heartbeat)


if __name__ == "__main__":
    main()
