"""The parts that worker processes of a simulation are made of: messages, shared memory, and portions of tasks."""

from __future__ import annotations

import gc
import io
import logging
import math
import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import Moment, moments

from fedplug.core.errors import CodecError, ConnectionLostError
from fedplug.core.messages import TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.rng import SeedTree
from fedplug.node.shared import SharedBuffer
from fedplug.simulation import IID
from fedplug.simulation.engines import Task, Trained
from fedplug.simulation.process_channel import Channel
from fedplug.simulation.process_memory import ResultReader, ResultWriter, SharedArrays, pack, unpack
from fedplug.simulation.process_messages import (
    Common,
    Done,
    Drop,
    Forget,
    Jobs,
    Output,
    Plan,
    Remark,
    Rows,
    ToWorker,
    request_of,
)
from fedplug.simulation.process_queue import TaskQueue, group_sizes
from fedplug.simulation.process_streams import Printed, Remarks
from fedplug.simulation.process_tasks import TaskTable
from fedplug.simulation.process_worker import Worker
from fedplug.simulation.virtual_data import SharedData

Message = Drop | Forget | Plan


@pytest.fixture
def ends() -> Iterator[tuple[Channel[Any], Channel[Any]]]:
    first, second = (Channel(sock, Message) for sock in socket.socketpair())  # type: ignore[arg-type]
    yield first, second
    first.close()
    second.close()


def block_of(text: bytes) -> SharedBuffer:
    block = SharedBuffer.create(len(text))
    block[: len(text)] = text
    return block


def test_many_messages_and_their_memory_arrive_in_order_although_nobody_waits_for_the_reader(ends) -> None:
    ours, theirs = ends
    sizes = [0, 1, 250, 3]  # more blocks than the kernel passes at once
    for round_number in range(40):
        parcels = [(Plan(round_number * 4 + n, b"x" * 9000), tuple(block_of(b"%d" % n) for _ in range(size % 200)))
                   for n, size in enumerate(sizes)]  # fmt: skip
        ours.send(parcels, wait=False)
    assert ours.is_waiting
    found: list[tuple[Plan, list[int]]] = []

    def read() -> None:
        while len(found) < 160:
            found.extend(theirs.receive(wait=True))

    reader = threading.Thread(target=read)
    reader.start()
    ours.flush(wait=True)
    reader.join()
    assert [message.number for message, _ in found] == list(range(160))
    for message, fds in found:
        n = message.number % 4
        assert len(fds) == sizes[n] % 200
        for fd in fds:
            assert SharedBuffer.attach(fd, 1)[:1] == b"%d" % n
    assert theirs.receive(wait=False) == []


def test_an_end_that_is_gone_is_told_after_all_that_it_has_sent(ends) -> None:
    ours, theirs = ends
    ours.send([(Drop((1,)), ())], wait=False)
    ours.close()
    assert theirs.receive(wait=True) == [(Drop((1,)), [])]
    with pytest.raises(ConnectionLostError):
        theirs.receive(wait=True)
    with pytest.raises(ConnectionLostError):
        theirs.send([(Drop((1,)), ())], wait=True)


def test_nonsense_is_no_message() -> None:
    first, second = socket.socketpair()
    channel: Channel[Any] = Channel(second, Message)  # type: ignore[arg-type]
    first.sendall(b"\x01\x00\x00\x00\x00\xc1")
    with pytest.raises(CodecError, match="malformed"):
        channel.receive(wait=True)
    first.close()
    channel.close()


def test_descriptors_that_did_not_come_are_told_with_what_to_do() -> None:
    first, second = socket.socketpair()
    channel: Channel[Any] = Channel(second, Message)  # type: ignore[arg-type]
    first.sendall(b"\x01\x00\x00\x00\x02\xc0")
    with pytest.raises(CodecError, match="2 blocks of shared memory were announced, 0 came") as caught:
        channel.receive(wait=True)
    assert "ulimit" in caught.value.cure
    first.close()
    channel.close()


class Slots:
    """A worker's writer and the simulation's reader, with the descriptors passed by hand."""

    def __init__(self) -> None:
        self.writer, self.reader, self.segments = ResultWriter(), ResultReader(), 0

    def carry(self, *arrays: Params) -> list[Params]:
        place, new = self.writer.write(arrays)
        if new is not None:
            self.segments += 1
            self.reader.add(new[0], os.dup(new[1].fd))
        return self.reader.read(place, [each.spec for each in arrays])


def some(value: float, size: int = 3000) -> Params:
    return Params.from_arrays({"w": np.full(size, value, np.float32), "n": np.array([7], np.int64)})


KEYS = st.builds(
    TaskKey, experiment_id=st.sampled_from("ab"), round=st.integers(0, 1), node_id=st.sampled_from(["n", "m"]),
    attempt=st.integers(0, 1),
)  # fmt: skip
ARGS = st.sampled_from([{}, {"lr": 1}, {"lr": 1.0}, {"lr": True}, {"shape": (2, 2)}, {"names": {"a", "b"}}])
REQUESTS = st.builds(
    TrainRequest, key=KEYS, dataset_id=st.sampled_from("de"), plan_class=st.sampled_from("PQ"), model_args=ARGS,
    training_args=ARGS, seed=st.integers(0, 2**63 - 1), data_seed=st.integers(0, 2**63 - 1),
    acked_round=st.integers(-1, 1), acked_state=st.sampled_from(["", "s"]), total_rounds=st.integers(0, 1),
    aux=st.sampled_from([(), ("c",)]), train=st.booleans(),
)  # fmt: skip


class Told:
    """A worker that does nothing with what it is told, but to make out the requests."""

    def __init__(self) -> None:
        self.arrays: set[int] = set()
        self.plans: set[int] = set()
        self.common = 0
        self.commons = 0
        self.found: list[tuple[int, TrainRequest, Common]] = []

    def take(self, parcels: list[Any]) -> None:
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(ToWorker)
        common = None
        for message, _ in parcels:
            message = decoder.decode(encoder.encode(message))
            if isinstance(message, Common):
                common, self.commons = message, self.commons + 1
            elif isinstance(message, Jobs):
                assert common is not None
                self.found += [(job.number, request_of(common.request, job), common) for job in message.jobs]


def told_apart(args: Any) -> list[dict[str, Any]]:
    """The arguments with their types: 1, 1.0 and True are equal. A set has no order, so its ``repr`` will not do."""
    return [{name: (type(value), value) for name, value in each.items()} for each in args]


def table() -> TaskTable:
    data = SharedData({"x": np.zeros((4, 2))}, IID(2), SeedTree.root(1), (), "")
    return TaskTable(SharedArrays(data))


GLOBAL, PLAN = Params.from_arrays({"w": np.zeros(3, np.float32)}), PlanBundle("P", "class P: pass")


@given(requests=st.lists(REQUESTS, min_size=1, max_size=6), same=st.booleans())
def test_a_worker_makes_out_each_request_though_it_is_told_what_several_have_in_common_once(requests, same) -> None:
    tasks, told = table(), Told()
    tasks._data.of = lambda node: Rows(0, 1)  # type: ignore[method-assign]
    if same:
        requests = [
            msgspec.structs.replace(
                requests[0], key=msgspec.structs.replace(requests[0].key, node_id=each.key.node_id),
                dataset_id=each.dataset_id, seed=each.seed, data_seed=each.data_seed, acked_round=each.acked_round,
                acked_state=each.acked_state, model_args=dict(requests[0].model_args),
            ) for each in requests
        ]  # fmt: skip
    pending = [tasks.add(Task(request, PLAN, GLOBAL, {})) for request in requests]
    told.take(tasks.parcels(told, [[each.number] for each in pending]))  # type: ignore[arg-type]
    for each, request, (number, found, common) in zip(pending, requests, told.found, strict=True):
        assert number == each.number
        args = pickle.loads(common.args) if common.args else (found.model_args, found.training_args)
        assert told_apart(args) == told_apart((request.model_args, request.training_args))
        without = {"model_args": {}, "training_args": {}}
        assert msgspec.structs.replace(found, **without) == msgspec.structs.replace(request, **without)
    if same:
        assert told.commons == 1
    for each in pending:
        tasks.finish(each)
    assert not tasks.pending
    assert set(tasks._idle) == set(tasks._arrays), "nobody needs the arrays any more"


def test_slots_are_used_again_when_nobody_holds_their_arrays_and_not_before() -> None:
    slots = Slots()
    held = [slots.carry(some(n), some(-n, 5)) for n in range(9)]
    for n, found in enumerate(held):
        assert found == [some(n), some(-n, 5)], "nothing was written over it"
    grown = slots.segments
    view = held[0][0]["w"][:10]
    del held, found
    gc.collect()
    for n in range(100):
        assert slots.carry(some(n)) == [some(n)]
    assert slots.segments == grown
    assert view.tolist() == [0.0] * 10, "a view of it holds a slot"


def test_larger_results_get_larger_slots_and_none_get_no_slot() -> None:
    slots = Slots()
    first = slots.carry(some(1))
    assert slots.carry(some(2, 50_000)) == [some(2, 50_000)]
    assert slots.carry(some(3)) == [some(3)]
    assert first == [some(1)]
    empty = Params.from_arrays({"w": np.zeros((0, 3), np.float32)})
    assert slots.carry(empty) == [empty]
    assert slots.segments == 2


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_what_is_packed_is_unpacked(size) -> None:
    params = some(3, size)
    data, blocks = pack(params)
    assert bool(blocks) is (size == 100_000)
    assert unpack(params.spec, data, [os.dup(block.fd) for block in blocks]) == params


@given(
    rounds=st.lists(st.integers(1, 120), min_size=1, max_size=4), workers=st.integers(1, 20), taken=st.integers(0, 5)
)
def test_groups_hold_each_task_once_and_depend_on_nothing_but_the_order_of_the_tasks(rounds, workers, taken) -> None:
    def groups(take: int) -> list[list[int]]:
        queue, number, found = TaskQueue(workers, together=True), 0, []
        for count in rounds:
            for _ in range(count):
                number += 1
                queue.add(number)
                found += [queue.groups.popleft() for _ in range(min(take, len(queue.groups)))]
            queue.seal()
            queue.seal()
            found += queue.groups
            queue.groups.clear()
        return found

    found = groups(0)
    assert [number for group in found for number in group] == list(range(1, sum(rounds) + 1))
    assert found == groups(taken)
    assert max(map(len, found)) <= 24


@given(tasks=st.integers(1, 3000), workers=st.integers(1, 20))
def test_no_worker_has_more_than_its_share_and_the_last_groups_are_small(tasks, workers) -> None:
    sizes = group_sizes(tasks, workers)
    assert sum(sizes) == tasks
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= 24
    assert max(sum(sizes[worker::workers]) for worker in range(workers)) == -(-tasks // workers)
    assert sizes[-1] < 16


@given(left=st.integers(1, 500), workers=st.integers(1, 16), has=st.integers(0, 70), seconds=st.floats(1e-6, 10))
def test_portions_are_small_for_long_tasks_and_leave_something_for_the_others(left, workers, has, seconds) -> None:
    queue = TaskQueue(workers, together=False)
    for number in range(left):
        queue.add(number)
    queue.count_in(seconds)
    portion = queue.portion(has, 1)
    assert 0 <= portion <= -(-left // (2 * workers))
    assert has + portion <= max(64, has)
    assert portion or has >= 1, "who has nothing gets something"
    if seconds > 0.004:
        assert has + portion <= max(2, has)


def test_tasks_that_come_back_are_the_next_and_those_taken_out_are_gone() -> None:
    queue = TaskQueue(2, together=True)
    for number in range(4):
        queue.add(number)
    assert queue.remove(3)
    queue.seal()
    assert list(queue.groups) == [[0, 1], [2]]
    queue.put_back([8, 9])
    assert queue.remove(2)
    assert list(queue.groups) == [[8, 9], [0, 1]]
    assert not queue.remove(5)


def worker_with(channel: Any) -> tuple[Worker, Task, Trained]:
    """A worker that nobody serves, a task, and its result."""
    key = TaskKey(experiment_id="e", round=0, node_id="n")
    task = Task(TrainRequest(key=key, dataset_id="d", plan_class="P"), PLAN, GLOBAL, {})
    return Worker(channel), task, Trained(TrainReply(key=key, sample_count=3), GLOBAL, {})


def test_what_a_worker_is_to_write_is_put_down_under_the_lock_of_the_thread_that_writes() -> None:
    """Else it may be put down just when that thread has taken all, and be lost."""
    worker, task, trained = worker_with(Unwritten())

    class Guarded(list[Any]):
        def append(self, each: Any) -> None:
            assert worker._lock.locked(), f"{each} without the lock"
            super().append(each)

        def __iadd__(self, each: Any) -> Any:
            assert worker._lock.locked(), f"{each} without the lock"
            return super().__iadd__(each)

    worker._out = Guarded()
    worker._sent = math.inf  # nothing is old enough to be written
    worker._groups.append({1: task, 2: task})
    worker.say(Remark("fedplug", 20, "a line"))
    worker.say(Output(0, "before it\n", error=False))
    worker._now = 1
    worker.say(Output(1, "a line", error=False))
    worker._put(worker._done(1, task, trained, 0.1))
    worker._drop(2)
    assert [type(message).__name__ for message, _ in worker._out] == ["Remark", "Output", "Segment", "Done", "Dropped"]
    assert worker._out[3][0].said == (Output(1, "a line", error=False),)


def test_a_finalizer_may_print_in_the_middle_of_anything_that_a_worker_says() -> None:
    """It runs in the thread that has just the lock, which it must not wait for; and nothing may be lost."""
    written: list[Any] = []

    class Written:
        def send(self, parcels: Any, *, wait: bool) -> None:
            written.extend(message for message, _ in parcels)

    worker, task, trained = worker_with(Written())
    came = 0

    def say() -> None:
        worker.say(Output(0, "gone\n", error=True))

    def speak(moment: Moment) -> None:
        with moment:
            worker.say(Output(1, "a line\n", error=False))
            worker._put(worker._done(1, task, trained, 0.1))
            worker._flush()

    for moment in moments("simulation/process_worker.py", say):
        written.clear()
        worker._sent = -math.inf  # all is old enough to be written
        thread = threading.Thread(target=speak, args=(moment,), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits for itself"
        worker._flush()
        said = [each for message in written for each in (message, *getattr(message, "said", ()))]
        texts = sorted(each.text for each in said if isinstance(each, Output))
        assert texts == ["a line\n", *["gone\n"] * moment.came]
        assert sum(isinstance(each, Done) for each in written) == 1
        came += moment.came
    assert came > 100


def test_a_fork_of_a_worker_speaks_where_the_worker_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    out, error = io.StringIO(), io.StringIO()
    streams = [Printed(said.append, lambda: 1, error=each) for each in (False, True)]
    remarks = Remarks(said.append)
    monkeypatch.setattr(sys, "__stdout__", out)
    monkeypatch.setattr(sys, "__stderr__", error)
    record = logging.makeLogRecord({"name": "fedplug", "levelno": 20, "msg": "of a fork"})
    for stream in streams:
        stream.write("a line\n")
    remarks.emit(record)
    assert said == [Output(1, "a line\n", False), Output(1, "a line\n", True), Remark("fedplug", 20, "of a fork")]
    said.clear()
    monkeypatch.setattr(os, "getpid", lambda: 0)
    for stream in streams:
        stream.write("a line\n")
    remarks.emit(record)
    assert said == []
    assert (out.getvalue(), error.getvalue()) == ("a line\n", "a line\nof a fork\n")


class Unwritten:
    """A channel to which nothing is to be written."""
