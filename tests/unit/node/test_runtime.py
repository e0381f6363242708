from __future__ import annotations

import json
import logging
import queue
import threading
import time

import numpy as np
import pytest

from fedplug.core.link import (
    Connected,
    Disconnected,
    ResearcherLink,
    SearchReceived,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)
from fedplug.core.messages import LogLine, Progress, TaskFailure, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.gate import Gate
from fedplug.node.handover import Handover
from fedplug.node.jobs import Trained, Worker, cancelled
from fedplug.node.journal.contract import NoTaskJournal
from fedplug.node.outcomes import Outcomes
from fedplug.node.policy.schema import OPEN
from fedplug.node.runtime import Runtime
from fedplug.node.status import STATUS_FILE, StatusBoard, read_status
from fedplug.node.store import NodeStore

PARAMS = Params.from_arrays({"w": np.zeros(2)})


class Link(ResearcherLink):
    """The researcher of these tests: events are put in, answers are read from a queue."""

    def __init__(self):
        self.events = queue.Queue()
        self.answers = queue.Queue()
        self.waits = queue.Queue()

    def next_event(self, timeout):
        return self.events.get(timeout=30)

    def wake(self):
        self.events.put(None)

    def answer_search(self, query, cards):
        self.answers.put((query, [card.name for card in cards]))

    def answer_plan(self, query, answer):
        self.answers.put((query, answer))

    def report(self, message):
        waits = isinstance(message, LogLine) and message.text.startswith("Waits for its turn")
        (self.waits if waits else self.answers).put(message)

    def finish(self, reply, params, aux=None):
        self.answers.put(reply)

    def fail(self, failure):
        self.answers.put(failure)

    def close(self):
        pass

    def answer(self):
        return self.answers.get(timeout=30)


class StubWorker(Worker):
    """Holds each job until it is released or cancelled."""

    def __init__(self):
        self.begun = queue.Queue()
        self.release = queue.Queue()

    def warm_up(self):
        pass

    def run(self, job, emit):
        if job.cancelled.is_set():
            return cancelled(job.key)
        self.emit = emit
        self.begun.put(job.key.round)
        emit(Progress(key=job.key, step=1, total_steps=4, metrics={"loss": 2.0}))
        what = self.release.get(timeout=30)
        if isinstance(what, Exception):
            raise what
        if job.cancelled.is_set():
            return cancelled(job.key)
        if isinstance(what, str):
            return TaskFailure(key=job.key, code="plan-raised", text=what)
        return Trained(TrainReply(key=job.key, sample_count=8, steps=4, metrics={"loss": 1.0}), job.params, {})

    def cancel(self, job):
        job.cancelled.set()
        self.release.put(None)

    def close(self):
        self.release.put(None)


@pytest.fixture
def node(tmp_path):
    class Bench:
        link, worker = Link(), StubWorker()
        store = NodeStore.create(tmp_path / "n", name="n")

    path = tmp_path / "wards.csv"
    path.write_text("x,y\n" + "1,0\n2,1\n" * 4)
    record, _ = inspect_file(path, tags=["a", "b"])
    Bench.store.add_dataset(record)
    Bench.dataset = record
    Bench.folder = Bench.store.folder
    Bench.board = StatusBoard(Bench.store.folder, ["inproc://r"])
    memory = [MemoryDataset("mem", {"x": [1.0]}, tags=["a"])]
    Bench.runtime = Runtime(Bench.store, Gate(Bench.store, lambda: OPEN), Bench.worker, Bench.board, memory=memory)
    Bench.contact = Bench.runtime.add_researcher("inproc://r", Bench.link)
    Bench.other = Link()
    other = Bench.runtime.add_researcher("inproc://s", Bench.other)
    threads = [threading.Thread(target=s) for s in (Bench.contact.serve, other.serve, Bench.runtime.serve_tasks)]
    for thread in threads:
        thread.start()
    yield Bench
    Bench.runtime.stop()
    Bench.worker.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    Bench.board.close()
    Bench.store.close()


def task(node, number=0, dataset_id=None):
    key = TaskKey(experiment_id="exp", round=number, node_id="n")
    request = TrainRequest(key=key, dataset_id=dataset_id or node.dataset.dataset_id, plan_class="Plan")
    return TaskReceived(request, PlanBundle("Plan", "class Plan: pass"), PARAMS)


def test_a_search_finds_stored_and_memory_data_sets_by_all_tags(node):
    for query, (tags, names) in enumerate([(("a",), ["wards", "mem"]), (("a", "b"), ["wards"]), (("z",), [])]):
        node.link.events.put(SearchReceived(query, tags))
        assert node.link.answer() == (query, names)


def test_a_task_is_trained_reported_and_offered(node, caplog):
    caplog.set_level(logging.INFO, "fedplug.node")
    node.link.events.put(task(node))
    assert isinstance(node.link.answer(), Progress)
    node.worker.release.put(None)
    assert node.link.answer().sample_count == 8
    assert "round 1 of experiment exp: plan Plan (" in caplog.text
    assert "'wards'" in caplog.text
    assert [plan.bundle.class_name for plan in Approvals(node.store, OPEN).plans()] == ["Plan"]


def test_tasks_run_one_after_the_other_in_order_of_arrival(node):
    for number in range(3):
        node.link.events.put(task(node, number))
    for number in range(3):
        assert node.worker.begun.get(timeout=30) == number
        assert node.worker.begun.empty()
        node.worker.release.put(None)


def test_a_search_is_answered_while_a_training_runs(node):
    node.link.events.put(task(node))
    node.worker.begun.get(timeout=30)
    assert isinstance(node.link.answer(), Progress)
    node.link.events.put(SearchReceived(7, ("a",)))
    assert node.link.answer()[0] == 7


def test_an_unknown_data_set_is_refused_with_those_that_exist(node):
    node.link.events.put(task(node, dataset_id="ds-gone"))
    failed = node.link.answer()
    assert failed.code == "no-dataset"
    assert "mem, wards" in failed.text


def test_a_failed_training_and_a_bug_are_answered_and_the_next_task_runs(node):
    for number, what in enumerate(["raised on purpose", RuntimeError("/secret")]):
        node.link.events.put(task(node, number))
        node.worker.begun.get(timeout=30)
        assert isinstance(node.link.answer(), Progress)
        node.worker.release.put(what)
        failed = node.link.answer()
        assert failed.key.round == number
        assert "/secret" not in failed.text
    node.link.events.put(task(node, 2))
    assert node.worker.begun.get(timeout=30) == 2


def test_a_running_and_a_queued_task_are_cancelled_without_an_answer(node):
    for number in range(3):
        node.link.events.put(task(node, number))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    node.link.events.put(TaskCancelled(task(node, 1).request.key, "too slow"))
    node.link.events.put(TaskCancelled(task(node, 0).request.key, "too slow"))
    assert node.worker.begun.get(timeout=30) == 2
    assert node.link.answer().key.round == 2


def test_two_researchers_take_turns_and_each_gets_its_own_answers(node):
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    node.other.events.put(task(node, 1))
    node.worker.release.put(None)
    assert node.link.answer().key.round == 0
    assert node.worker.begun.get(timeout=30) == 1
    assert isinstance(node.other.answer(), Progress)
    node.worker.release.put(None)
    assert node.other.answer().key.round == 1
    assert node.link.answers.empty()


def test_who_has_to_wait_is_told_and_told_again_while_the_training_before_makes_progress(node, monkeypatch):
    monkeypatch.setattr("fedplug.node.runtime.TELL_WAITING", 0.0)
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    node.other.events.put(task(node, 1))
    told = node.other.waits.get(timeout=30)
    assert told.key.round == 1
    assert told.text == "Waits for its turn on this node: 1 training is before it."
    node.worker.emit(Progress(key=task(node, 0).request.key, step=2))
    assert isinstance(node.link.answer(), Progress)
    assert node.other.waits.get(timeout=30) == told
    for _ in range(2):
        node.worker.release.put(None)
    assert node.link.answer().key.round == 0


def test_a_researcher_cannot_cancel_the_training_of_another(node):
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    node.other.events.put(TaskCancelled(task(node, 0).request.key, "mine now"))
    node.other.events.put(SearchReceived(3, ()))
    assert node.other.answer()[0] == 3
    node.worker.release.put(None)
    assert node.link.answer().sample_count == 8


def test_cancelling_a_task_that_is_not_there_changes_nothing(node):
    node.link.events.put(TaskCancelled(task(node, 5).request.key, "?"))
    node.link.events.put(SearchReceived(1, ("a",)))
    assert node.link.answer()[0] == 1


def test_every_change_of_the_connection_is_one_line(node, caplog):
    caplog.set_level(logging.INFO, "fedplug.node")
    node.link.events.put(Disconnected("connection refused"))
    node.link.events.put(Connected("lab"))
    assert node.contact.connected.wait(30)
    node.link.events.put(Disconnected("version 9 is not spoken here", refused=True))
    node.link.events.put(SearchReceived(1, ()))
    node.link.answer()
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "No researcher at inproc://r (connection refused); trying again every 2 s."
    assert texts[1] == "Connected to researcher lab at inproc://r."
    assert "do not work together: version 9" in texts[2]
    assert not node.contact.connected.is_set()
    assert node.board.now.links[0].connection == "refused"


def test_the_status_file_follows_and_counts_only_while_the_lock_is_held(node):
    from fedplug.node.lock import FolderLock

    node.link.events.put(Connected("lab"))
    node.link.events.put(task(node))
    node.link.events.put(task(node, 1))
    node.worker.begun.get(timeout=30)
    node.link.answer()
    node.link.events.put(SearchReceived(1, ()))
    node.link.answer()
    assert read_status(node.folder).running is False
    lock = FolderLock(node.folder)
    while (now := read_status(node.folder)).queued != 1 or now.task is None:
        pass  # it is written by a thread of its own, five times a second
    assert now.links[0].connection == "connected"
    assert (now.task.round, now.task.dataset, now.queued) == (0, "wards", 1)
    node.worker.release.put(None)
    assert node.link.answer().key.round == 0
    assert node.worker.begun.get(timeout=30) == 1
    while (now := read_status(node.folder)).finished != 1:
        pass
    assert now.finished == 1
    assert "8 samples" in now.last
    lock.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"running": 3}'])
def test_a_status_file_that_cannot_be_read_counts_as_no_status(tmp_path, content):
    (tmp_path / STATUS_FILE).write_bytes(content)
    assert read_status(tmp_path).running is False


def test_the_status_file_tells_what_was_counted_also_when_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("fedplug.node.status._COUNT_INTERVAL", 0.01)
    monkeypatch.setattr("fedplug.node.status._WRITE_INTERVAL", 0.0)
    seen = {"frames_refused": 1}
    board = StatusBoard(tmp_path, ["inproc://r"])
    try:
        board.count(lambda: seen)
        board.count(lambda: {"frames_refused": 2, "bytes_sent": 5})
        for expected in (3, 9):
            seen["frames_refused"] = expected - 2
            end = time.monotonic() + 30
            while read_counters(tmp_path).get("frames_refused") != expected:
                assert time.monotonic() < end
                time.sleep(0.01)
        assert read_counters(tmp_path)["bytes_sent"] == 5
    finally:
        board.close()


def read_counters(folder):
    return json.loads((folder / STATUS_FILE).read_text())["counters"]


def test_a_status_that_cannot_be_written_does_not_stop_anything(tmp_path, caplog):
    (tmp_path / STATUS_FILE).mkdir()
    board = StatusBoard(tmp_path, ["x"])
    board.change(queued=3)
    assert board.now.queued == 3
    board.close()
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1


def test_the_status_file_is_never_half_written(tmp_path):
    board = StatusBoard(tmp_path, ["x"])
    for number in range(50):
        board.change(finished=number)
        assert json.loads((tmp_path / STATUS_FILE).read_bytes())["finished"] <= number
    board.close()
    written = json.loads((tmp_path / STATUS_FILE).read_bytes())
    assert (written["finished"], written["running"]) == (49, False)


# draining ----------------------------------------------------------------------------------------------------


def drain(node):
    thread = threading.Thread(target=node.runtime.drain)
    thread.start()
    return thread


def test_a_node_that_drains_ends_the_training_under_way_and_waits_until_its_update_is_taken(node):
    node.link.events.put(Connected("lab"))
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    node.link.events.put(task(node, 1))
    node.link.events.put(SearchReceived(1, ("a", "b")))
    assert node.link.answer() == (1, ["wards"])  # so round 2 is in the queue
    draining = drain(node)
    refused = node.link.answer()
    assert (refused.key.round, refused.code) == (1, "node-stops")
    node.link.events.put(task(node, 2))
    assert node.link.answer().key.round == 2
    assert node.board.now.draining
    assert node.board.now.task.round == 0
    node.worker.release.put(None)
    offered = node.link.answer()
    assert offered.sample_count == 8
    draining.join(0.05)
    assert draining.is_alive()
    node.link.events.put(UpdateCommitted(offered.key))
    draining.join(30)
    assert not draining.is_alive()
    outcomes = [(each.task[:5], each.outcome) for each in AuditLog(node.store).trainings()]
    assert sorted(outcomes) == [("exp/0", "finished"), ("exp/1", "refused"), ("exp/2", "refused")]


def test_a_node_that_trains_nothing_is_drained_at_once(node):
    drain(node).join(30)
    assert node.worker.begun.empty()


def test_an_update_that_its_researcher_does_not_want_any_more_is_not_waited_for(node):
    node.link.events.put(Connected("lab"))
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    draining = drain(node)
    node.worker.release.put(None)
    assert isinstance(node.link.answer(), Progress)
    node.link.events.put(TaskCancelled(node.link.answer().key, "enough replies"))
    draining.join(30)
    assert not draining.is_alive()


def test_stopping_cuts_draining_short(node):
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    draining = drain(node)
    node.runtime.stop()
    draining.join(30)
    assert not draining.is_alive()


@pytest.mark.parametrize("connected", [True, False])
def test_a_researcher_that_never_takes_its_update_is_given_up(node, connected, caplog):
    handover = Handover(*((0.0, 30.0) if connected else (30.0, 0.0)))
    if connected:
        node.link.events.put(Connected("lab"))
        assert node.contact.connected.wait(30)
    handover.offered(node.contact, task(node).request.key)
    assert handover.wait() is False
    assert "inproc://r does not take it" in caplog.text


def test_only_the_last_update_of_a_researcher_is_waited_for(node):
    handover = Handover()
    for number in range(3):
        handover.offered(node.contact, task(node, number).request.key)
    handover.settled(node.contact, task(node, 2).request.key)
    assert handover.wait() is True


def test_an_update_that_is_cancelled_just_before_it_is_offered_is_not_waited_for(node, monkeypatch):
    journal, handover = node.runtime._outcomes._journal, node.runtime._handover
    finish = journal.finish

    def cancelled_meanwhile(url, reply, *rest):
        node.runtime.cancel(node.contact, reply.key, "enough replies")
        return finish(url, reply, *rest)

    monkeypatch.setattr(journal, "finish", cancelled_meanwhile)
    monkeypatch.setattr(handover, "_absence", 0.0)
    node.link.events.put(task(node, 0))
    assert node.worker.begun.get(timeout=30) == 0
    assert isinstance(node.link.answer(), Progress)
    monkeypatch.setattr(node.worker, "cancel", lambda job: None)  # it is through already
    node.worker.release.put(None)
    assert node.link.answer().sample_count == 8
    assert handover.wait() is True


def test_who_counts_the_updates_that_wait_last_also_says_so_last():
    said = []

    class Journal(NoTaskJournal):
        @property
        def waiting(self):
            assert outcomes._counting.locked()
            return 3

    class Board:
        def change(self, **fields):
            assert outcomes._counting.locked()
            said.append(fields)

    outcomes = Outcomes(None, Journal(), Board(), Handover())
    outcomes.count_kept()
    assert said == [{"kept": 3}]
