"""Messages that come twice, too late, from another round or with other bytes than promised: rows 19, 20 and 24.

The nodes are processes, and the messages are theirs; what tampers with them stands before the researcher.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator

import msgspec
import pytest
from fault_kit import CHUNK, LONG, ROUNDS, UPDATE, Federation, Outcome, Watch, federation_below
from frame_kit import TamperedTransport

from fedplug import QuorumStrategy
from fedplug.core.messages import TaskKey
from fedplug.core.plugins import default_host
from fedplug.core.transport import Frame, Item
from fedplug.transports.registry import open_transport
from fedplug.wire import AnyHeader, encode_header
from fedplug.wire import headers as h

LEAVES_ONE_OUT = QuorumStrategy(1, deadline=LONG)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes")) as federation:
        yield federation


@pytest.fixture(scope="module")
def clean(federation: Federation) -> Outcome:
    return federation.run()


def tampered(*args: object, **options: object) -> TamperedTransport:
    return TamperedTransport(open_transport("zmq://127.0.0.1:1", default_host()), *args, **options)


def trained(federation: Federation, outcome: Outcome) -> set[int]:
    """How often tasks of a run were trained."""
    return {times for node in federation.nodes.values() for times in node.started(outcome.experiment_id).values()}


def test_row_19_each_message_comes_twice_and_old_ones_come_again(federation: Federation, clean: Outcome) -> None:
    old: deque[Frame] = deque(maxlen=100)

    def incoming(frame: Frame, header: AnyHeader) -> list[Item]:
        again = [frame, frame]
        old.append(frame)
        if len(old) == old.maxlen:
            again.append(old.popleft())
        return again

    outcome = federation.run(transport=tampered(incoming, copies=2))
    assert outcome.digest == clean.digest
    assert outcome.watch.replies == {(number, name): 1 for number in range(ROUNDS) for name in federation.nodes}
    assert trained(federation, outcome) == {1}
    assert outcome.traffic["chunks_duplicate"] + outcome.traffic["chunks_unasked"] > 100
    assert outcome.traffic["offers_duplicate"] >= ROUNDS * len(federation.nodes)


def test_row_20_replies_from_elsewhere(federation: Federation, clean: Outcome) -> None:
    """With each offer of Paris come others that nobody asked for. They are turned down by name, and cost nothing."""
    forged: set[TaskKey] = set()
    committed: set[TaskKey] = set()
    answers: dict[TaskKey, str] = {}

    def incoming(frame: Frame, header: AnyHeader) -> Iterator[Item]:
        if isinstance(header, h.Offer) and header.reply.key.node_id == "paris":
            true = header.reply.key
            for key in (
                msgspec.structs.replace(true, round=true.round + 7),
                msgspec.structs.replace(true, experiment_id="0" * 32),
                msgspec.structs.replace(true, attempt=true.attempt + 5),
            ):
                forged.add(key)
                yield offered(frame, header, key)
            if true.round:
                yield offered(frame, header, msgspec.structs.replace(true, round=true.round - 1))
        yield frame

    def offered(frame: Frame, header: h.Offer, key: TaskKey) -> Frame:
        reply = msgspec.structs.replace(header.reply, key=key, sample_count=10**6)
        return Frame(frame.peer, encode_header(msgspec.structs.replace(header, reply=reply)), frame.body)

    def outgoing(header: AnyHeader) -> None:
        if isinstance(header, h.Cancel) and header.key in forged:
            answers[header.key] = header.reason
        elif isinstance(header, h.Committed):
            committed.update(key for key in header.keys if key.node_id == "paris")

    outcome = federation.run(transport=tampered(incoming, outgoing))
    assert outcome.digest == clean.digest
    assert outcome.watch.replies == {(number, name): 1 for number in range(ROUNDS) for name in federation.nodes}
    assert len(forged) == 3 * ROUNDS
    assert answers == dict.fromkeys(forged, "stale: the experiment has moved on")
    assert not committed & forged
    assert {key.round for key in committed} >= set(range(ROUNDS - 1)), "the round before is over, and said to be"


def test_row_24_bytes_that_do_not_have_the_digest_that_was_promised(federation: Federation) -> None:
    """Each chunk of Paris is changed, with a checksum to match. It is asked once more, and left out of the round."""
    alone = federation.run(nodes=["lyon"], min_nodes=1, strategy=LEAVES_ONE_OUT)
    cancelled: list[str] = []
    chunks = 0

    def incoming(frame: Frame, header: AnyHeader) -> list[Item]:
        nonlocal chunks
        if isinstance(header, h.Sums) and frame.peer in lying:
            crcs = tuple(sums[header.blob, index] for index, _ in enumerate(header.crcs, header.first))
            return [Frame(frame.peer, encode_header(msgspec.structs.replace(header, crcs=crcs)), frame.body)]
        if not isinstance(header, h.Chunk) or frame.peer not in lying:
            if isinstance(header, h.Hello) and header.node.node_id == "paris":
                lying.add(frame.peer)
            return [frame]
        chunks += 1
        body = memoryview(bytes(frame.body)[::-1])
        sums[header.blob, header.index] = zlib.crc32(body)
        return [Frame(frame.peer, frame.header, body)]

    def outgoing(header: AnyHeader) -> None:
        if isinstance(header, h.Cancel) and header.key.node_id == "paris":
            cancelled.append(header.reason)

    lying: set[bytes] = set()
    sums: dict[tuple[str, int], int] = {}
    watch = Watch()
    outcome = federation.run(watch, strategy=LEAVES_ONE_OUT, transport=tampered(incoming, outgoing))
    assert outcome.rounds == ROUNDS
    assert outcome.digest == alone.digest
    assert {name for _, name in watch.replies} == {"lyon"}
    twice = "do not have the digest that was promised, twice"
    assert sum(name == "paris" and twice in reason for name, reason in watch.dropped_nodes) == ROUNDS
    assert sum(reason.startswith("bad-update: ") and twice in reason for reason in cancelled) == ROUNDS
    assert outcome.traffic["blobs_damaged"] == 2 * ROUNDS
    assert chunks >= 2 * ROUNDS * (UPDATE // CHUNK)
