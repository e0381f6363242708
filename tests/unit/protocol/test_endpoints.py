"""The drivers: threads, waiting, waking, closing."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from fedplug.core.errors import AddressError, CodecError, KeysError, TransportError, UsageError
from fedplug.core.link import Connected, Disconnected, TaskReceived, UpdateCommitted
from fedplug.core.messages import NodeInfo, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import NodeJoined, NodeLost, UpdateFetched, UpdateOffered
from fedplug.core.transport import TransportOptions
from fedplug.protocol import Limits, NodeEndpoint, ResearcherEndpoint
from fedplug.testing.federation_checks import CuttableTransport, await_link, await_pool
from fedplug.transports.inproc import InprocTransport

PLAN = PlanBundle("Plan", "class Plan:\n    pass\n")
MODEL = Params.from_arrays({"w": np.arange(5, dtype=np.float32)})


@pytest.fixture
def pool(inproc_url):
    with ResearcherEndpoint(InprocTransport(), inproc_url) as pool:
        yield pool


def node(pool, name="n1", **options):
    return NodeEndpoint(InprocTransport(), pool.address, NodeInfo(node_id=name), retry=0.02, **options)


def _drain(link, timeout=0):
    """Take events until the link says that it is closed."""
    while True:
        link.next_event(timeout)


def give(pool, name="n1", round_index=0, params=MODEL):
    key = TaskKey(experiment_id="e", round=round_index, node_id=name)
    pool.train(TrainRequest(key=key, dataset_id="d", plan_class="Plan"), PLAN, params)
    return key


def test_next_event_comes_back_after_its_time(pool):
    assert pool.next_event(0) is None
    assert pool.next_event(0.01) is None
    with node(pool) as link:
        await_link(link, Connected)
        assert link.next_event(0) is None
        link.wake()
        assert link.next_event(None) is None


def test_a_commit_arrives_though_no_other_task_follows(pool):
    with node(pool) as link:
        await_link(link, Connected)
        key = give(pool)
        await_link(link, TaskReceived)
        link.finish(TrainReply(key=key, sample_count=1), MODEL)
        await_pool(pool, UpdateOffered)
        pool.commit(key)
        assert await_link(link, UpdateCommitted).key == key


def test_a_node_finds_a_researcher_that_starts_later(inproc_url):
    with NodeEndpoint(InprocTransport(), inproc_url, NodeInfo(node_id="n1"), retry=0.02) as link:
        first = link.next_event(10)
        assert isinstance(first, Disconnected)
        assert "nobody listens" in first.reason
        with ResearcherEndpoint(InprocTransport(), inproc_url) as pool:
            assert isinstance(link.next_event(10), Connected)
            assert isinstance(pool.next_event(10), NodeJoined)


def test_the_options_of_each_connection_are_asked_for_anew_and_an_error_of_theirs_does_not_end_the_node(inproc_url):
    answers = iter([TransportOptions(), KeysError("Others can read the keys."), TransportOptions(heartbeat=1.5)])
    seen = []

    class Watching(InprocTransport):
        def connect(self, url, options):
            seen.append(options.heartbeat)
            return super().connect(url, options)

    def current():
        answer = next(answers, TransportOptions())
        if isinstance(answer, KeysError):
            # Whoever listens now can be found only at the next try.
            opened.append(ResearcherEndpoint(InprocTransport(), inproc_url))
            raise answer
        return answer

    opened = []
    with NodeEndpoint(Watching(), inproc_url, NodeInfo(node_id="n1"), current, retry=0.02) as link:
        await_link(link, Connected)
    opened.pop().close()
    assert seen == [2.0, 1.5]


def test_a_connection_whose_options_do_not_hold_any_more_is_ended_and_made_anew_with_the_next_ones(pool):
    given = iter([TransportOptions(heartbeat=0.02), TransportOptions(heartbeat=0.03)])
    asked = []

    def holds(options):
        asked.append(options.heartbeat)
        return options.heartbeat != 0.02 or len(asked) < 3

    address = pool.address
    with NodeEndpoint(
        InprocTransport(), address, NodeInfo(node_id="n1"), lambda: next(given), retry=0.02, holds=holds
    ) as link:
        await_link(link, Connected)
        gone = await_link(link, Disconnected)
        assert "has changed which keys it trusts" in gone.reason
        await_link(link, Connected)
        assert "its owner has changed" in await_pool(pool, NodeLost).reason
        await_pool(pool, NodeJoined)
    assert asked[:3] == [0.02] * 3
    assert 0.02 not in asked[3:]


def test_a_wrong_address_is_the_callers_error():
    with pytest.raises(AddressError):
        NodeEndpoint(InprocTransport(), "inproc://no/such", NodeInfo(node_id="n"))
    with pytest.raises(AddressError):
        ResearcherEndpoint(InprocTransport(), "inproc://no/such")


def test_errors_of_orders_come_back_to_the_caller(pool):
    key = give(pool)
    with pytest.raises(UsageError, match="given out before"):
        give(pool)
    with pytest.raises(UsageError, match="not been offered"):
        pool.fetch(key)
    key = TaskKey(experiment_id="e", round=1, node_id="n")
    request = TrainRequest(key=key, dataset_id="d", plan_class="P", model_args={"a": "b" * 300_000})
    with pytest.raises(CodecError, match="bytes"):
        pool.train(request, PLAN, MODEL)


def test_a_closed_end_says_so(inproc_url):
    pool = ResearcherEndpoint(InprocTransport(), inproc_url)
    link = node(pool)
    await_link(link, Connected)
    pool.close()
    pool.close()
    link.close()
    link.close()
    with pytest.raises(UsageError, match="closed"):
        give(pool)
    with pytest.raises(UsageError, match="closed"):
        link.answer_search(1, [])
    with pytest.raises(UsageError, match="closed"):
        _drain(link)


@pytest.mark.parametrize("closes", ["pool", "link"])
def test_an_io_thread_that_is_about_to_look_sees_the_goodbye_before_it_sees_that_it_is_to_end(inproc_url, closes):
    pool = ResearcherEndpoint(InprocTransport(), inproc_url)
    link = node(pool)
    await_link(link, Connected)
    end = pool if closes == "pool" else link
    collect, seen = end._collect, []

    def look():
        if threading.current_thread() is threading.main_thread():
            seen.append(end._stop)
        collect()

    end._collect = look
    end.close()
    assert seen == [False]
    (link if closes == "pool" else pool).close()


def test_closing_wakes_who_waits(pool):
    link = node(pool)
    await_link(link, Connected)
    errors = []

    def wait():
        try:
            _drain(link, timeout=None)
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    link.close()
    thread.join()
    assert "closed" in errors[0].message


def test_a_transport_that_breaks_is_reported_not_swallowed(inproc_url):
    class Breaking(InprocTransport):
        def listen(self, url, options):
            listener = super().listen(url, options)

            def broken(timeout):
                raise ZeroDivisionError("oops")

            listener.receive = broken
            return listener

    pool = ResearcherEndpoint(Breaking(), inproc_url)
    with pytest.raises(TransportError, match="oops"):
        pool.next_event(10)
    pool.close()


def test_events_of_a_cancelled_task_are_taken_back(pool):
    with node(pool) as link:
        key = give(pool)
        await_link(link, TaskReceived)
        link.finish(TrainReply(key=key, sample_count=1), MODEL)
        until = time.monotonic() + 10
        while not any(isinstance(event, UpdateOffered) for event in pool._events) and time.monotonic() < until:
            threading.Event().wait(0.001)
        pool.cancel(key, "changed my mind")
        assert isinstance(pool.next_event(0), NodeJoined)
        assert pool.next_event(0) is None


def test_offers_that_rode_along_are_fetched_without_the_network(pool):
    with node(pool) as link:
        key = give(pool)
        await_link(link, TaskReceived)
        link.finish(TrainReply(key=key, sample_count=1), MODEL * 2.0)
        await_pool(pool, UpdateOffered)
        link.close()
        await_pool(pool, NodeLost)
        pool.fetch(key)
        event = pool.next_event(0)
        assert isinstance(event, UpdateFetched)
        assert event.params == MODEL * 2.0


def test_several_fetches_are_under_way_at_once_and_memory_is_the_callers(pool):
    big = Params.from_arrays({"w": np.arange(600_000, dtype=np.float32)})
    links = [node(pool, f"n{index}") for index in range(3)]
    try:
        keys = [give(pool, f"n{index}", params=big) for index in range(3)]
        for index, link in enumerate(links):
            task = await_link(link, TaskReceived)
            link.finish(TrainReply(key=task.request.key, sample_count=1), task.params * float(index))
        for _ in keys:
            await_pool(pool, UpdateOffered)
        memory = {}
        for key in keys:
            pool.fetch(key, lambda nbytes, key=key: memory.setdefault(key, np.empty(nbytes + 10, np.uint8)))
        for _ in keys:
            update = await_pool(pool, UpdateFetched)
            key = update.reply.key
            assert np.shares_memory(update.params["w"], memory[key])
            assert update.params == big * float(key.node_id[1:])
    finally:
        for link in links:
            link.close()


def test_a_node_places_arrays_where_it_wants_them(pool):
    blocks = []

    def place(nbytes):
        blocks.append(np.empty(nbytes, np.uint8))
        return blocks[-1]

    with node(pool, allocate=place) as link:
        give(pool)
        small = await_link(link, TaskReceived).params
        large = Params.from_arrays({"w": np.arange(100_000, dtype=np.float64)})
        give(pool, round_index=1, params=large)
        pulled = await_link(link, TaskReceived).params
        assert [block.nbytes for block in blocks] == [MODEL.nbytes, large.nbytes]
        assert np.shares_memory(small["w"], blocks[0])
        assert np.shares_memory(pulled["w"], blocks[1])


def test_a_lost_connection_costs_only_what_was_under_way(pool):
    limits = Limits()
    big = Params.from_arrays({"w": np.arange(6 * 2**20, dtype=np.float32)})
    transport = CuttableTransport(InprocTransport())
    with NodeEndpoint(transport, pool.address, NodeInfo(node_id="n1"), retry=0.02) as link:
        key = give(pool, params=big)
        await_link(link, TaskReceived)
        link.finish(TrainReply(key=key, sample_count=1), big * 2.0)
        await_pool(pool, UpdateOffered)
        pool.fetch(key)
        for _ in range(3):
            transport.cut()
            await_link(link, Disconnected)
            await_link(link, Connected)
        assert await_pool(pool, UpdateFetched).params == big * 2.0
        received = pool.traffic()["bytes_received"]
        assert received <= big.nbytes + 3 * limits.peer_credit * limits.chunk + 100_000


def test_traffic_counts_frames_and_refusals(pool):
    with node(pool) as link:
        await_link(link, Connected)
        assert pool.traffic()["frames_received"] >= 1
        assert link.traffic()["bytes_sent"] > 0
