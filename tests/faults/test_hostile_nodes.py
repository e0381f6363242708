"""Nodes that send what no training makes: each is refused by name, and the round ends as if it had not been there."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from frame_kit import TamperedTransport
from mutator_kit import Mutator

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, QuorumStrategy
from fedplug.core.errors import CodecError
from fedplug.core.link import SearchReceived, TaskReceived
from fedplug.core.messages import DatasetCard, NodeInfo, TrainReply
from fedplug.core.params import Params
from fedplug.core.plugins import default_host
from fedplug.core.transport import Frame, Opened, TransportOptions
from fedplug.protocol import Limits, NodeEndpoint, ResearcherEndpoint
from fedplug.transports.inproc import InprocTransport
from fedplug.transports.registry import open_transport
from fedplug.wire import decode_header, encode_header
from fedplug.wire import headers as h

ROWS = 10
WAIT_S = 60.0
ROUNDS = 100
ENOUGH = "2 replies had come before its own, and no more were needed"
HONEST = ("lyon", "nice")


class Model(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(5, np.float32), "b": np.zeros((2, 2)), "n": np.zeros(1, np.int64)}

    def training_data(self):
        return DataManager(np.zeros((1, 1)), np.zeros(1))

    def training_step(self, data, target):
        return 0.0, {}


@dataclass
class Watch(Monitor):
    """Remembers why nodes were dropped."""

    reasons: dict[str, str] = field(default_factory=dict)

    def dropped(self, node_id, reason):
        self.reasons[node_id] = reason


def trained(node: str) -> dict[str, Any]:
    """What an honest node sends: its own, and the same each time."""
    rng = np.random.default_rng(list(hashlib.sha256(node.encode()).digest()))
    return {"w": rng.normal(size=5).astype(np.float32), "b": rng.normal(size=(2, 2)), "n": np.ones(1, np.int64)}


@contextmanager
def running(url: str, node: str, change: Callable[[dict[str, Any]], Any], samples: int = ROWS) -> Iterator[None]:
    """A node that answers each task at once with what ``change`` makes of an honest update."""
    card = DatasetCard(dataset_id="d", name="d", type="arrays", tags=("#d",), shape=(ROWS, 1))
    stopped = threading.Event()
    transport = open_transport(url, default_host())

    def serve(link: NodeEndpoint) -> None:
        while not stopped.is_set():
            event = link.next_event(None)
            if isinstance(event, SearchReceived):
                link.answer_search(event.query, [card])
            elif isinstance(event, TaskReceived):
                arrays = trained(node)
                changed = change(arrays) or arrays
                reply = TrainReply(key=event.request.key, sample_count=samples, steps=1)
                link.finish(reply, Params.from_arrays(changed))

    with NodeEndpoint(transport, url, NodeInfo(node_id=node), retry=0.02) as link:
        thread = threading.Thread(target=serve, args=(link,))
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            link.wake()
            thread.join()


def run(url: str, hostile: Mapping[str, Any] | None = None) -> tuple[str, dict[str, str]]:
    """One round of two honest nodes, and a hostile one. The digest of the new model, and who was dropped."""
    watch = Watch()
    exp = Experiment(
        training_plan_class=Model, transport=url, min_nodes=3 if hostile else 2, round_limit=1, progress="quiet",
        node_selection_strategy=QuorumStrategy(2), connect_timeout=WAIT_S, seed=1,
    )  # fmt: skip
    with exp, ExitStack() as stack:
        exp.add_monitor(watch)
        exp.pool()
        for node in HONEST:
            stack.enter_context(running(url, node, lambda arrays: None))
        if hostile:
            # Its name comes first: it is the first to be folded.
            stack.enter_context(running(url, "evil", **hostile))
        exp.set_tags("#d")
        exp.run()
        assert exp.round_current() == 1
    return exp.params().fingerprint(), watch.reasons


@pytest.fixture(scope="module")
def clean() -> str:
    """The model after a round without anybody hostile."""
    digest, reasons = run("inproc://hostile-nodes-clean")
    assert not reasons
    return digest


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name].flat[1 if arrays[name].size > 1 else 0] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


def replaced(**others: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {**arrays, **others}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("w", np.nan), "not finite (NaN or infinity) in 'w'"),
        (put("w", np.inf), "not finite (NaN or infinity) in 'w'"),
        (put("b", -np.inf), "not finite (NaN or infinity) in 'b'"),
        (put("w", 1e38), "values in 'w' whose squares are too large for float32"),
        (put("w", -1e38), "values in 'w' whose squares are too large for float32"),
        (put("b", 1e200), "values in 'b' whose squares are too large for float64"),
    ],
    ids=["nan", "inf", "minus-inf", "1e38", "minus-1e38", "1e200-in-float64"],
)
def test_row_25_values_that_would_spoil_the_sum(change, words, clean, inproc_url):
    digest, reasons = run(inproc_url, {"change": change})
    assert list(reasons) == ["evil"]
    assert words in reasons["evil"]
    assert digest == clean


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(w=np.zeros(6, np.float32)), "'w' has shape (6,), expected (5,)"),
        (replaced(w=np.zeros((5, 1), np.float32)), "'w' has shape (5, 1), expected (5,)"),
        (replaced(w=np.zeros(5)), "'w' has dtype float64, expected float32"),
        (without("b"), "'b' is missing"),
        (replaced(x=np.zeros(1)), "'x' is not part of the model"),
        (lambda arrays: {("v" if key == "w" else key): value for key, value in arrays.items()}, "'w' is missing"),
        (replaced(w=np.zeros(1 << 26, np.uint8)), "'w' has shape (67108864,), expected (5,)"),
    ],
    ids=["shape", "dimensions", "dtype", "missing", "extra", "name", "far-too-large"],
)
def test_row_26_another_layout_than_that_of_the_model(change, words, clean, inproc_url):
    digest, reasons = run(inproc_url, {"change": change})
    assert list(reasons) == ["evil"]
    assert words in reasons["evil"]
    assert digest == clean


@pytest.mark.parametrize("samples", [0, -1, -(2**62), 2**62, ROWS + 1])
def test_row_27_a_number_of_samples_that_cannot_be(samples, clean, inproc_url):
    digest, reasons = run(inproc_url, {"change": lambda arrays: None, "samples": samples})
    assert list(reasons) == ["evil"]
    assert f"{samples:,}" in reasons["evil"] or str(samples) in reasons["evil"]
    assert digest == clean


def test_the_clean_run_would_show_a_third_node(clean, inproc_url):
    """The tests above prove something only if the update of a third node shows in the bits of the model."""
    digest, reasons = run(inproc_url, {"change": lambda arrays: None})
    assert not reasons
    assert digest != clean


def flood(url: str, messages: int) -> list[h.AnyHeader]:
    """Join as a node, send nonsense, and come back until the researcher says what it thinks of that."""
    said: list[h.AnyHeader] = []
    transport = open_transport(url, default_host())
    for incarnation in itertools.count(1):
        hello = h.Hello(session=(incarnation, 1), versions=(1, 1), node=NodeInfo(node_id="evil"))
        with transport.connect(url, TransportOptions()) as channel:
            while not isinstance(channel.receive(WAIT_S), Opened):
                pass
            channel.send(encode_header(hello))
            answer = channel.receive(WAIT_S)
            while not isinstance(answer, Frame):
                answer = channel.receive(WAIT_S)
            said.append(decode_header(answer.header))
            if isinstance(said[-1], h.Refuse) and said[-1].code == "muted":
                return said
            while messages:
                if channel.send(b"nonsense" * 8):
                    messages -= 1
                else:
                    channel.receive(WAIT_S)  # comes back when there is room
    raise AssertionError("unreachable")


def test_row_30_ten_thousand_unusable_messages_mute_their_sender_and_hurt_nobody_else(zmq_url, caplog):
    watch = Watch()
    exp = Experiment(
        training_plan_class=Model, transport=zmq_url, min_nodes=2, round_limit=3, progress="quiet",
        node_selection_strategy=QuorumStrategy(2), connect_timeout=WAIT_S, seed=1,
    )  # fmt: skip
    with exp, ExitStack() as stack:
        exp.add_monitor(watch)
        url = exp.pool().description
        for node in HONEST:
            stack.enter_context(running(url, node, lambda arrays: None))
        exp.set_tags("#d")
        exp.run(rounds=1)
        said: list[h.AnyHeader] = []
        flooding = threading.Thread(target=lambda: said.extend(flood(url, 10_000)))
        flooding.start()
        exp.run(rounds=1)  # in the middle of it
        flooding.join()
        exp.run(rounds=1)
        assert exp.pool().traffic()["messages_malformed"] == 16, "nobody looks at the others"
    assert exp.round_current() == 3
    assert not watch.reasons, "no node that takes part has noticed"
    assert isinstance(said[0], h.Welcome)
    named = [message for message in caplog.messages if "evil has sent 16 messages" in message]
    assert len(named) == 1, "said once, and not for every connection"


def test_a_node_whose_every_message_comes_with_mutants_harms_nobody(inproc_url):
    """They say anything that can be said; nothing of it may stop the researcher, or what the others do."""
    mutator, watch = Mutator(11), Watch()
    evil: set[bytes] = set()
    mutants = Counter()

    def incoming(frame: Frame, header: h.AnyHeader) -> Iterator[Frame]:
        if isinstance(header, h.Hello) and header.node.node_id == "evil":
            evil.add(frame.peer)
        elif frame.peer in evil and not isinstance(header, h.Datasets):  # or it would not take part
            for _ in range(20):
                mutant = mutator.of(frame.header)
                with contextlib.suppress(CodecError):
                    mutants[type(decode_header(mutant)).__name__] += 1
                    yield Frame(frame.peer, mutant, frame.body)
        yield frame

    transport = TamperedTransport(InprocTransport(), incoming)
    limits = Limits(malformed=10**6)  # some can be read and make no sense: it must not be muted for that
    with ExitStack() as stack:
        pool = stack.enter_context(ResearcherEndpoint(transport, inproc_url, limits=limits))
        exp = Experiment(
            training_plan_class=Model, transport=pool, min_nodes=3, round_limit=ROUNDS, progress="quiet",
            node_selection_strategy=QuorumStrategy(2, wait_for="quorum"), connect_timeout=WAIT_S, seed=1,
        )  # fmt: skip
        stack.enter_context(exp)
        exp.add_monitor(watch)
        for node in (*HONEST, "evil"):
            stack.enter_context(running(inproc_url, node, lambda arrays: None))
        exp.set_tags("#d")
        exp.run()
        assert exp.round_current() == ROUNDS
    assert {reason for node, reason in watch.reasons.items() if node != "evil"} <= {ENOUGH}
    assert mutants["Offer"] > 20, mutants
