"""Nodes that do not train: each answers every task at once with the parameters it was sent.

For measuring and testing what stands around the training, over a real transport:

    python -m fedplug.testing.echo_nodes zmq://127.0.0.1:7400 16

They offer a data set tagged ``#echo``, need no framework, and end when their standard input is closed.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

from fedplug.core.link import ResearcherLink, SearchReceived, TaskReceived
from fedplug.core.messages import DatasetCard, NodeInfo, TrainReply
from fedplug.core.plugins import default_host
from fedplug.protocol import NodeEndpoint
from fedplug.transports.registry import open_transport

ECHO_TAG = "#echo"


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


def main(url: str, count: int) -> None:
    """Run ``count`` echo nodes until standard input ends."""
    stopped = threading.Event()
    transport = open_transport(url, default_host())
    with ExitStack() as stack:
        links = [
            stack.enter_context(NodeEndpoint(transport, url, NodeInfo(node_id=f"echo-{index:04d}")))
            for index in range(count)
        ]
        threads = [threading.Thread(target=serve, args=(link, 1 + i, stopped)) for i, link in enumerate(links)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopped.set()
        for link in links:
            link.wake()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
