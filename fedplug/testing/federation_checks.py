"""What must work over every transport: a small federation, with its blobs, its accidents and its goodbyes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from typing import Any, TypeVar

import numpy as np

from fedplug.core.link import (
    Connected,
    Disconnected,
    LinkEvent,
    SearchReceived,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)
from fedplug.core.messages import DatasetCard, NodeInfo, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import DatasetsFound, NodeJoined, NodeLost, PoolEvent, UpdateFetched, UpdateOffered
from fedplug.core.transport import Buffer, Channel, Closed, Item, Listener, Transport, TransportOptions
from fedplug.protocol import NodeEndpoint, ResearcherEndpoint
from fedplug.testing.registry import Check, LawBrokenError
from fedplug.testing.transport_case import PATIENCE, TransportCase

PLAN = PlanBundle("Plan", "class Plan:\n    pass\n")
MEBIBYTE = 1024 * 1024

P = TypeVar("P", bound=PoolEvent)
L = TypeVar("L", bound=LinkEvent)


class Pair:
    """A researcher and a node over a transport, connected; the node's line can be cut."""

    def __init__(self, case: TransportCase, stack: ExitStack) -> None:
        self.case = case
        self.cuttable = CuttableTransport(case.make())
        self.pool = ResearcherEndpoint(case.make(), case.make_url(), case.options)
        stack.callback(self.pool.close)
        info = NodeInfo(node_id="n1", name="one")
        self.link = NodeEndpoint(self.cuttable, self.pool.address, info, case.for_node, retry=0.05)
        stack.callback(self.link.close)
        await_link(self.link, Connected)
        joined = await_pool(self.pool, NodeJoined)
        if joined.node != info or "n1" not in self.pool.nodes:
            raise LawBrokenError(f"The node said that it is {info}, the researcher knows {joined.node}.")

    def give(self, params: Params, *, round_index: int = 0, aux: dict[str, Params] | None = None) -> TaskKey:
        """Send a task; returns its key."""
        key = TaskKey(experiment_id="check", round=round_index, node_id="n1")
        request = TrainRequest(key=key, dataset_id="d", plan_class="Plan", aux=tuple(aux or ()))
        self.pool.train(request, PLAN, params, aux)
        return key


# the laws --------------------------------------------------------------------------------------------------------


def check_search(case: TransportCase) -> None:
    """A search reaches the node, and its answer comes back."""
    card = DatasetCard(dataset_id="d1", name="x", type="csv", tags=("a",), shape=(3, 4))
    with ExitStack() as stack:
        pair = Pair(case, stack)
        pair.pool.search(5, ("a",))
        search = await_link(pair.link, SearchReceived)
        pair.link.answer_search(search.query, [card])
        found = await_pool(pair.pool, DatasetsFound)
        if (found.node_id, found.query, found.cards) != ("n1", 5, (card,)):
            raise LawBrokenError(f"The answer was {card}, the researcher got {found}.")


def check_small_task(case: TransportCase) -> None:
    """A small model goes there and back in one message each way, with signs of life in between."""
    seen: list[Any] = []
    with ExitStack() as stack:
        pair = Pair(case, stack)
        model = Params.from_arrays({"w": np.arange(10, dtype=np.float32)})
        key = pair.give(model)
        task = await_link(pair.link, TaskReceived)
        _equal(task.params, model, "the model at the node")
        pair.link.report(Progress(key=key, step=3))
        pair.link.finish(TrainReply(key=key, sample_count=7), task.params * 2.0)
        offer = await_pool(pair.pool, UpdateOffered, lambda message, node_id: seen.append((message, node_id)))
        pair.pool.fetch(offer.reply.key)
        update = await_pool(pair.pool, UpdateFetched)
        _equal(update.params, model * 2.0, "the update at the researcher")
        if update.reply.sample_count != 7:
            raise LawBrokenError(f"The node had 7 samples, the reply says {update.reply.sample_count}.")
        if [(message.step, node_id) for message, node_id in seen] != [(3, "n1")]:
            raise LawBrokenError(f"The node reported step 3, the researcher saw {seen}.")
        pair.pool.commit(key)
        await_link(pair.link, UpdateCommitted)


def check_large_task(case: TransportCase) -> None:
    """20 MiB go there and back in chunks, with extra arrays beside them, to the bit."""
    rng = np.random.default_rng(3)
    with ExitStack() as stack:
        pair = Pair(case, stack)
        model = Params.from_arrays({"w": rng.standard_normal(5 * MEBIBYTE, dtype=np.float32), "n": np.arange(3)})
        extra = Params.from_arrays({"c": rng.standard_normal(300_001, dtype=np.float32)})
        update, back = model * 3.0, extra * 2.0
        key = pair.give(model, aux={"control": extra})
        task = await_link(pair.link, TaskReceived)
        _equal(task.params, model, "the model at the node")
        _equal(task.aux["control"], extra, "the extra arrays at the node")
        pair.link.finish(TrainReply(key=key, sample_count=1, aux=("control",)), update, {"control": back})
        await_pool(pair.pool, UpdateOffered)
        placed: list[int] = []

        def allocate(nbytes: int) -> Any:
            placed.append(nbytes)
            return np.empty(nbytes, np.uint8)

        pair.pool.fetch(key, allocate)
        fetched = await_pool(pair.pool, UpdateFetched)
        _equal(fetched.params, update, "the update at the researcher")
        _equal(fetched.aux["control"], back, "the extra arrays at the researcher")
        if sorted(placed) != sorted([update.nbytes, back.nbytes]):
            raise LawBrokenError(f"Memory was asked for {placed}, not once for each blob.")
        pair.pool.commit(key)
        await_link(pair.link, UpdateCommitted)
        received = pair.pool.traffic()["bytes_received"]
        if not update.nbytes <= received <= 1.01 * (update.nbytes + back.nbytes):
            raise LawBrokenError(f"An update of {update.nbytes + back.nbytes:,} bytes took {received:,}.")


def check_cancel(case: TransportCase) -> None:
    """A cancelled task ends at the node, and nothing more is heard of it."""
    with ExitStack() as stack:
        pair = Pair(case, stack)
        model = Params.from_arrays({"w": np.zeros(4)})
        key = pair.give(model)
        await_link(pair.link, TaskReceived)
        pair.pool.cancel(key, "enough")
        cancelled = await_link(pair.link, TaskCancelled)
        if (cancelled.key, cancelled.reason) != (key, "enough"):
            raise LawBrokenError(f"{key} was cancelled, the node heard {cancelled}.")
        pair.link.finish(TrainReply(key=key, sample_count=1), model)
        # The next task's offer is the next event: of the cancelled one nothing was left.
        second = pair.give(model, round_index=1)
        await_link(pair.link, TaskReceived)
        pair.link.finish(TrainReply(key=second, sample_count=1), model)
        offer = await_pool(pair.pool, UpdateOffered)
        if offer.reply.key != second:
            raise LawBrokenError(f"{key} was cancelled, and offered all the same.")


def check_reoffer(case: TransportCase) -> None:
    """An update that was finished while the line was cut is offered after it is mended, once."""
    with ExitStack() as stack:
        pair = Pair(case, stack)
        model = Params.from_arrays({"w": np.arange(2 * MEBIBYTE, dtype=np.float32)})
        key = pair.give(model)
        task = await_link(pair.link, TaskReceived)
        pair.cuttable.cut()
        await_link(pair.link, Disconnected)
        pair.link.finish(TrainReply(key=key, sample_count=1), task.params * 2.0)
        await_link(pair.link, Connected)
        await_pool(pair.pool, UpdateOffered)
        pair.cuttable.cut()
        await_link(pair.link, Disconnected)
        pair.pool.fetch(key)
        await_link(pair.link, Connected)
        fetched = await_pool(pair.pool, UpdateFetched)
        _equal(fetched.params, model * 2.0, "the update after two cuts")
        pair.pool.commit(key)
        await_link(pair.link, UpdateCommitted)


def check_cut_while_away(case: TransportCase) -> None:
    """A task that is given while the node is away reaches it when it is back."""
    with ExitStack() as stack:
        pair = Pair(case, stack)
        pair.cuttable.hold()
        pair.cuttable.cut()
        await_link(pair.link, Disconnected)
        await_pool(pair.pool, NodeLost)
        model = Params.from_arrays({"w": np.ones(3)})
        key = pair.give(model)
        pair.cuttable.release()
        task = await_link(pair.link, TaskReceived)
        if task.request.key != key:
            raise LawBrokenError(f"Task {key} was given, {task.request.key} arrived.")


def check_researcher_restarts(case: TransportCase) -> None:
    """A node is told when the researcher leaves, and finds the next one at the same address."""
    with ExitStack() as stack:
        pair = Pair(case, stack)
        address = pair.pool.address
        pair.pool.close()
        await_link(pair.link, Disconnected)
        again = ResearcherEndpoint(case.make(), address, case.options)
        stack.callback(again.close)
        await_link(pair.link, Connected)
        await_pool(again, NodeJoined)


def check_node_says_goodbye(case: TransportCase) -> None:
    """A node that closes is known to be gone at once."""
    with ExitStack() as stack:
        pair = Pair(case, stack)
        pair.link.close()
        lost = await_pool(pair.pool, NodeLost)
        if lost.node_id != "n1" or pair.pool.nodes:
            raise LawBrokenError(f"n1 left, but {lost} came and {list(pair.pool.nodes)} are there.")


FEDERATION_CHECKS: tuple[Check, ...] = tuple(
    Check(
        "federation-" + function.__name__.removeprefix("check_").replace("_", "-"),
        (function.__doc__ or "").strip(),
        function,
    )
    for function in (
        check_search,
        check_small_task,
        check_large_task,
        check_cancel,
        check_reoffer,
        check_cut_while_away,
        check_researcher_restarts,
        check_node_says_goodbye,
    )
)
"""What must work over every transport."""


# helpers ---------------------------------------------------------------------------------------------------------


class CuttableTransport(Transport):
    """A node's transport whose connections can be cut, as a broken network would.

    Args:
        inner: The transport under test.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._channel: _CuttableChannel | None = None
        self._free = Event()
        self._free.set()

    def listen(self, url: str, options: TransportOptions) -> Listener:
        """As the transport under test."""
        return self._inner.listen(url, options)

    def connect(self, url: str, options: TransportOptions) -> Channel:
        """As the transport under test, as soon as connections are let through."""
        if not self._free.wait(PATIENCE):
            raise LawBrokenError("The check forgot to let connections through again.")
        self._channel = _CuttableChannel(self._inner.connect(url, options))
        return self._channel

    def cut(self) -> None:
        """End the current connection without a word."""
        if self._channel is not None:
            self._channel.cut()

    def hold(self) -> None:
        """Make no new connections until `release`."""
        self._free.clear()

    def release(self) -> None:
        """Make connections again."""
        self._free.set()


class _CuttableChannel(Channel):
    def __init__(self, inner: Channel) -> None:
        self._inner = inner
        self._cut = False
        self.traffic = inner.traffic

    def cut(self) -> None:
        self._cut = True
        self._inner.wake()

    def receive(self, timeout: float | None) -> Item | None:
        item = None if self._cut else self._inner.receive(timeout)
        if not self._cut:
            return item
        self._inner.close()
        return Closed(b"", "cut by the check")

    def send(self, header: Buffer, body: Buffer = b"") -> bool:
        return self._inner.send(header, body)

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()


def await_pool(pool: ResearcherEndpoint, kind: type[P], watch: Callable[[Any, str], None] | None = None) -> P:
    """The next event of a kind at the researcher. Comings and goings of nodes are passed over."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        event = pool.next_event(1.0, watch)
        if isinstance(event, kind):
            return event
        if event is not None and not isinstance(event, NodeJoined | NodeLost):
            raise LawBrokenError(f"Expected {kind.__name__} at the researcher, but {event} came.")
    raise LawBrokenError(f"Expected {kind.__name__} at the researcher, but nothing came in {PATIENCE:.0f} s.")


def await_link(link: NodeEndpoint, kind: type[L]) -> L:
    """The next event of a kind at the node. Lost and new connections are passed over."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        event = link.next_event(1.0)
        if isinstance(event, kind):
            return event
        if event is not None and not isinstance(event, Connected | Disconnected):
            raise LawBrokenError(f"Expected {kind.__name__} at the node, but {event} came.")
    raise LawBrokenError(f"Expected {kind.__name__} at the node, but nothing came in {PATIENCE:.0f} s.")


def _equal(params: Params, expected: Params, what: str) -> None:
    # By the bytes: a fingerprint that travelled may have been believed.
    if params.spec.difference(expected.spec) or bytes(params.buffer) != bytes(expected.buffer):
        raise LawBrokenError(f"{what.capitalize()} is not what was sent.")
