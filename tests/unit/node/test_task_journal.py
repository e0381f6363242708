"""What a node remembers of its tasks, and in which order it reaches the disk."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import OrderedDict

import numpy as np
import pytest

from fedplug.core.crash_points import watched
from fedplug.core.errors import DiskFullError, JournalError, RefusedError, StoreError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.node.journal import tasks
from fedplug.node.journal.contract import NoTaskJournal
from fedplug.node.journal.records import Finished
from fedplug.node.journal.tasks import JOURNAL_FILE, RESERVE, DiskTaskJournal, open_tasks
from fedplug.node.journal.updates import FOLDER, SMALL
from fedplug.node.policy.schema import Policy, ResourceRules
from fedplug.node.store import STORE_FILE, NodeStore

HER, HIM = "zmq://her:7400", "zmq://him:7400"
LITTLE = Params.from_arrays({"w": np.arange(6.0).reshape(2, 3), "b": np.float32(0.1)})
LARGE = Params.from_arrays({"w": np.arange(SMALL // 8 + 1, dtype=np.int64)})
DAY = 86_400.0


def key_of(number=0, attempt=0):
    return TaskKey(experiment_id="e/1", round=number, node_id="n", attempt=attempt)


def reply_of(key, *aux):
    return TrainReply(key=key, sample_count=7, steps=3, metrics={"loss": 0.5}, aux=aux)


class Bench:
    """A node's folder; `open` is what a start of the node does, `kill` what SIGKILL does."""

    def __init__(self, tmp_path):
        self.tmp_path, self.number, self.notes = tmp_path, 0, 0
        self.folder = tmp_path / "node-0"
        NodeStore.create(self.folder, name="n").close()
        self.now = 1_000_000.0
        self.free = 2**40
        self.opened = contextlib.ExitStack()

    def open(self, **settings):
        self.store = self.opened.enter_context(NodeStore.open(self.folder))
        settings = {"now": lambda: self.now, "free": lambda folder: self.free, **settings}
        self.journal = DiskTaskJournal(self.store, **settings)
        self.opened.callback(self.journal.close)
        return self.journal

    def kill(self):
        """Go on with what the files are now, whatever would still be written in an orderly end."""
        self.number += 1
        copy = self.tmp_path / f"node-{self.number}"
        shutil.copytree(self.folder, copy)
        self.opened.close()
        self.folder = copy

    def restart(self, **settings):
        self.kill()
        return self.open(**settings)

    def note(self):
        """Stands for the entry of the audit log without which no update leaves."""
        self.notes += 1

    def finish(self, key, params=LITTLE, aux=None, researcher=HER):
        aux = aux or {}
        self.journal.begin(researcher, key)
        assert self.journal.finish(researcher, reply_of(key, *aux), params, aux, self.note)

    def kept(self):
        """What lies on the disk: rows of updates, and files."""
        return len(self.store.read("SELECT 1 FROM updates")), len(list((self.folder / FOLDER).iterdir()))


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.open()
    yield bench
    bench.opened.close()


@pytest.mark.parametrize(("params", "files"), [(LITTLE, 0), (LARGE, 1), (Params.from_arrays({}), 0)])
def test_a_finished_update_comes_back_to_the_bit(bench, params, files):
    aux = {"control": LITTLE, "empty": Params.from_arrays({})}
    bench.finish(key_of(), params, aux)
    assert bench.kept() == (1, files)
    journal = bench.restart()
    (found,) = journal.earlier(HER).finished
    assert found.reply == reply_of(key_of(), *aux)
    assert bytes(found.params.buffer) == bytes(params.buffer)
    assert (found.params, dict(found.aux)) == (params, aux)
    assert journal.earlier(HER).ends == {}


@pytest.mark.parametrize("params", [LITTLE, LARGE])
def test_a_committed_update_is_forgotten_and_its_end_is_not(bench, params):
    bench.finish(key_of(), params)
    bench.journal.end(HER, key_of(), "committed")
    bench.journal.settle()
    assert bench.kept() == (0, 0)
    for _ in range(2):
        journal = bench.restart()
        assert journal.earlier(HER).finished == []
        assert journal.earlier(HER).ends == {key_of(): "committed"}
    with pytest.raises(RefusedError, match="begun this task before") as caught:
        journal.begin(HER, key_of())
    assert caught.value.code == "committed"
    journal.begin(HER, key_of(attempt=1))
    with pytest.raises(RefusedError, match="begun this task before") as caught:
        journal.begin(HER, key_of(attempt=1))
    assert caught.value.code == "interrupted"
    journal.begin(HIM, key_of())


def test_each_researcher_has_tasks_of_its_own(bench):
    bench.finish(key_of())
    bench.finish(key_of(), LARGE, researcher=HIM)
    bench.journal.end(HIM, key_of(), "cancelled")
    journal = bench.restart()
    assert ([task.params for task in journal.earlier(HER).finished], journal.earlier(HER).ends) == ([LITTLE], {})
    assert (journal.earlier(HIM).finished, journal.earlier(HIM).ends) == ([], {key_of(): "cancelled"})


class Crash(BaseException):
    pass


def crash_at(point):
    def watch(name):
        if name == point:
            raise Crash

    return watched(watch)


def life(bench, params):
    """A task from its beginning to its end."""
    bench.finish(key_of(), params)
    bench.journal.end(HER, key_of(), "committed")
    bench.journal.settle()


CRASHES = {
    "task-begun": ("interrupted", 0),
    "task-trained": ("interrupted", 0),
    "update-kept": ("", 1),
    "task-ended": ("committed", 0),
}


@pytest.mark.parametrize("params", [LITTLE, LARGE], ids=["little", "large"])
@pytest.mark.parametrize(("point", "end", "offered"), [(point, *rest) for point, rest in CRASHES.items()])
def test_rows_02_and_03_a_node_killed_at_any_point_knows_where_it_was(bench, params, point, end, offered):
    with pytest.raises(Crash), crash_at(point):
        life(bench, params)
    journal = bench.restart()
    found = journal.earlier(HER)
    assert found.ends.get(key_of(), "") == end
    assert [task.params for task in found.finished] == [params] * offered
    assert bench.kept() == (offered, offered * (params is LARGE))
    again = bench.restart().earlier(HER)
    assert (again.ends, len(again.finished)) == (found.ends, offered)


def test_an_update_and_what_is_written_beside_it_reach_the_disk_together(bench):
    def fails():
        bench.store.former_dataset("none")  # the store can be read meanwhile
        raise StoreError("The audit log cannot be written.")

    bench.journal.begin(HER, key_of())
    with pytest.raises(StoreError, match="audit log"):
        bench.journal.finish(HER, reply_of(key_of()), LARGE, {}, fails)
    assert bench.kept() == (0, 0)
    assert bench.restart().earlier(HER).ends == {key_of(): "interrupted"}


def test_that_a_small_update_was_committed_is_written_with_the_next_task(bench):
    bench.finish(key_of())
    before = bench.journal._journal.written
    bench.journal.end(HER, key_of(), "committed")
    assert bench.journal.unsettled
    assert bench.journal._journal.written == before
    assert (bench.journal.waiting, bench.kept()) == (0, (1, 0))
    bench.finish(key_of(1))
    assert bench.kept() == (1, 0)
    assert not bench.journal.unsettled
    found = bench.restart().earlier(HER)
    assert (found.ends, [task.reply.key for task in found.finished]) == ({key_of(): "committed"}, [key_of(1)])


def test_a_node_that_dies_before_that_offers_the_update_once_more(bench):
    bench.finish(key_of())
    bench.journal.end(HER, key_of(), "committed")
    journal = bench.restart()
    (found,) = journal.earlier(HER).finished
    assert (found.reply, found.params) == (reply_of(key_of()), LITTLE)
    journal.end(HER, key_of(), "committed")
    journal.close()  # an orderly end leaves nothing
    assert bench.restart().earlier(HER).ends == {key_of(): "committed"}
    assert bench.kept() == (0, 0)


def test_updates_that_may_go_are_not_forgotten_when_the_transaction_that_removes_them_is_undone(bench):
    bench.finish(key_of(0))
    bench.journal.end(HER, key_of(0), "committed")
    bench.journal.begin(HER, key_of(1))
    full = [DiskFullError("The disk is full.")]

    def note():
        if full:
            raise full.pop()

    assert not bench.journal.finish(HER, reply_of(key_of(1)), LITTLE, {}, note)
    assert bench.kept() == (1, 0)
    assert bench.journal.unsettled
    bench.journal.settle()
    assert bench.kept() == (0, 0)
    assert not bench.journal.unsettled


def test_what_earlier_runs_have_left_is_looked_up_under_the_lock(bench):
    """Else the thread of another researcher could change it meanwhile."""

    class Guarded(OrderedDict):
        def items(self):
            assert bench.journal._lock.locked()
            return super().items()

    bench.finish(key_of(0))
    bench.journal.end(HER, key_of(0), "cancelled")
    bench.finish(key_of(1))
    bench.journal._ends, bench.journal._open = Guarded(bench.journal._ends), Guarded(bench.journal._open)
    found = bench.journal.earlier(HER)
    assert [each.reply.key for each in found.finished] == [key_of(1)]
    assert found.ends == {key_of(0): "cancelled"}


def test_updates_that_may_go_make_room(bench):
    rules = Policy(resources=ResourceRules(updates=LITTLE.nbytes))
    journal = bench.restart(policy=lambda: rules)
    bench.finish(key_of())
    with pytest.raises(RefusedError, match="bytes of finished updates"):
        journal.require_room(HER, 1)
    journal.end(HER, key_of(), "committed")
    journal.require_room(HER, LITTLE.nbytes)
    assert bench.kept() == (0, 0)


def test_journals_of_earlier_versions_are_read(bench):
    bench.finish(key_of())
    bench.finish(key_of(1))
    bench.journal._journal.write(Finished(HER, key_of(), "0" * 64), Finished(HER, key_of(1), "1" * 64))
    bench.kill()
    store("DELETE FROM updates WHERE rowid = (SELECT max(rowid) FROM updates)")(bench)
    found = bench.open().earlier(HER)
    assert [task.reply.key for task in found.finished] == [key_of()]
    assert found.ends == {key_of(1): "update-lost"}


def test_a_task_that_was_cancelled_while_it_trained_leaves_nothing(bench):
    bench.journal.begin(HER, key_of())
    bench.journal.end(HER, key_of(), "cancelled")
    assert bench.journal.finish(HER, reply_of(key_of()), LARGE, {}, bench.note)
    assert bench.kept() == (0, 0)
    assert bench.restart().earlier(HER).ends == {key_of(): "cancelled"}


def test_only_the_first_end_counts_and_a_task_that_was_not_begun_has_none(bench):
    bench.journal.end(HER, key_of(), "no-space")
    bench.finish(key_of(1))
    bench.journal.end(HER, key_of(1), "committed")
    bench.journal.end(HER, key_of(1), "cancelled")
    bench.journal.settle()
    assert bench.restart().earlier(HER).ends == {key_of(1): "committed"}


def damage_file(bench):
    (file,) = (bench.folder / FOLDER).iterdir()
    data = bytearray(file.read_bytes())
    data[77] ^= 1
    file.write_bytes(data)


def cut_file(bench):
    (file,) = (bench.folder / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:-8])


def empty_file(bench):
    (file,) = (bench.folder / FOLDER).iterdir()
    file.write_bytes(b"")


def remove_file(bench):
    (file,) = (bench.folder / FOLDER).iterdir()
    file.unlink()


def store(statement):
    def change(bench):
        with contextlib.closing(sqlite3.connect(bench.folder / STORE_FILE)) as db, db:
            db.execute(statement)

    return change


DAMAGES = {
    "a flipped bit": damage_file,
    "a cut file": cut_file,
    "an empty file": empty_file,
    "no file": remove_file,
    "another header": store("UPDATE updates SET header = x'80'"),
    "no row": store("DELETE FROM updates"),
}


@pytest.mark.parametrize("harm", DAMAGES.values(), ids=DAMAGES)
def test_an_update_that_was_damaged_is_never_offered(bench, caplog, harm):
    bench.finish(key_of(), LARGE)
    bench.kill()
    harm(bench)
    journal = bench.open()
    found = journal.earlier(HER)
    if harm is DAMAGES["no row"]:  # nothing says that it was finished
        assert (found.finished, found.ends) == ([], {key_of(): "interrupted"})
        assert f"Training of {key_of()} was interrupted" in caplog.text
        return
    assert (found.finished, found.ends) == ([], {key_of(): "update-lost"})
    assert f"The update of {key_of()}, which was to be offered again, is lost" in caplog.text
    assert bench.kept() == (0, 0)


def test_the_update_of_another_task_is_not_taken_for_this_one(bench):
    bench.finish(key_of(0))
    bench.finish(key_of(1), LITTLE * 2.0)
    bench.kill()
    with contextlib.closing(sqlite3.connect(bench.folder / STORE_FILE)) as db, db:
        first, second = db.execute("SELECT header, data, task FROM updates ORDER BY rowid").fetchall()
        db.execute("UPDATE updates SET header = ?, data = ? WHERE task = ?", (*first[:2], second[2]))
    found = bench.open().earlier(HER)
    assert [task.reply.key for task in found.finished] == [key_of(0)]
    assert found.ends == {key_of(1): "update-lost"}


def test_a_damaged_journal_stops_the_start_and_names_the_record(bench):
    bench.finish(key_of())
    bench.opened.close()
    with contextlib.closing(sqlite3.connect(bench.folder / JOURNAL_FILE)) as db, db:
        db.execute("UPDATE records SET time = 'x' WHERE number = 1")
    with pytest.raises(JournalError, match="record 1 was changed") as caught:
        bench.open()
    assert caught.value.record == 1


def test_files_that_nobody_names_are_deleted(bench):
    bench.finish(key_of(), LARGE)
    (bench.folder / FOLDER / "left-over.update").write_bytes(b"x")
    bench.restart()
    assert bench.kept() == (1, 1)
    (file,) = (bench.folder / FOLDER).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_an_update_that_nobody_takes_is_given_up_after_a_month(bench, caplog):
    bench.finish(key_of(), LARGE)
    bench.now += 29 * DAY
    assert len(bench.restart().earlier(HER).finished) == 1
    bench.now += 2 * DAY
    bench.journal.require_room(HER, 1)
    assert bench.kept() == (0, 0)
    assert "nobody has taken it for 30 days" in caplog.text
    assert bench.restart().earlier(HER).ends == {key_of(): "expired"}


def test_row_38_a_training_is_refused_where_its_update_would_find_no_room(bench):
    bench.free = RESERVE + 100
    bench.journal.require_room(HER, 100)
    with pytest.raises(RefusedError, match="no room for the update") as caught:
        bench.journal.require_room(HER, 101)
    assert caught.value.code == "no-space"


def test_who_takes_no_updates_gets_none_and_others_do(bench):
    rules = Policy(resources=ResourceRules(updates=LARGE.nbytes + 100))
    journal = bench.restart(policy=lambda: rules)
    bench.finish(key_of(), LARGE)
    journal.require_room(HER, 100)
    with pytest.raises(RefusedError, match=f"{LARGE.nbytes:,} bytes of finished updates") as caught:
        journal.require_room(HER, 101)
    assert caught.value.code == "no-space"
    journal.require_room(HIM, 101)
    journal.end(HER, key_of(), "committed")
    journal.require_room(HER, 101)


def test_row_38_an_update_that_finds_no_room_is_said_to_be_in_memory_only(bench, monkeypatch, caplog):
    def full(fd):
        raise OSError(28, "No space left on device")

    bench.journal.begin(HER, key_of())
    with monkeypatch.context() as patch:
        patch.setattr("fedplug.node.disk.os.fsync", full)
        assert not bench.journal.finish(HER, reply_of(key_of()), LARGE, {}, bench.note)
    assert bench.notes == 1
    assert "kept in memory only" in caplog.text
    assert bench.kept() == (0, 0)
    assert bench.restart().earlier(HER).ends == {key_of(): "interrupted"}


def test_row_38_a_training_does_not_begin_where_that_cannot_be_written(bench, monkeypatch):
    def full():
        raise DiskFullError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(bench.journal._journal, "flush", full)
        with pytest.raises(DiskFullError):
            bench.journal.begin(HER, key_of())
        bench.journal.end(HER, key_of(), "no-space")
    bench.finish(key_of(1))
    assert bench.restart().earlier(HER).ends == {key_of(): "no-space"}


def test_row_38_the_end_of_a_task_is_not_lost_in_memory_when_it_cannot_be_written(bench, monkeypatch, caplog):
    def full():
        raise DiskFullError("The disk is full.")

    bench.finish(key_of(), LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(bench.journal._journal, "flush", full)
        bench.journal.end(HER, key_of(), "committed")
    assert "cannot be written down" in caplog.text
    assert bench.kept() == (0, 0)  # that, at least, makes room
    bench.finish(key_of(1))
    assert bench.restart().earlier(HER).ends == {key_of(): "committed"}


def test_the_journal_stays_short_and_keeps_what_is_open(bench, monkeypatch):
    monkeypatch.setattr(tasks, "REMEMBERED", 5)
    monkeypatch.setattr(tasks, "_SLACK", 2)

    def records():
        return [entry.number for entry in bench.journal._journal.entries()]

    def life_of(number):
        bench.finish(key_of(number))
        bench.journal.end(HER, key_of(number), "committed")
        bench.journal.settle()

    for number in range(7):
        life_of(number)
    assert len(records()) == 14
    life_of(7)
    assert records() == list(range(7, 17))
    bench.finish(key_of(100), LARGE)  # open: all that follows it stays
    for number in range(8, 30):
        life_of(number)
    assert records()[0] == 17
    journal = bench.restart()
    found = journal.earlier(HER)
    assert [task.reply.key for task in found.finished] == [key_of(100)]
    assert list(found.ends) == [key_of(number) for number in range(25, 30)]
    journal.end(HER, key_of(100), "committed")
    assert list(bench.restart().earlier(HER).ends) == [*map(key_of, range(26, 30)), key_of(100)]


def test_a_node_without_a_folder_remembers_nothing(tmp_path):
    with NodeStore.in_memory("n") as store:
        journal, notes = open_tasks(store, Policy), []
        assert isinstance(journal, NoTaskJournal)
        journal.require_room(HER, 2**60)
        for _ in range(2):
            journal.begin(HER, key_of())
            assert journal.finish(HER, reply_of(key_of()), LITTLE, {}, lambda: notes.append(1))
            journal.end(HER, key_of(), "committed")
            assert not journal.unsettled
            journal.settle()
        assert notes == [1, 1]
        assert journal.earlier(HER) is None
        journal.close()


def test_row_39_incarnations_grow_wherever_the_clock_was_set_to(tmp_path, monkeypatch):
    with NodeStore.create(tmp_path / "n", name="n") as store:
        first = store.next_incarnation()
        monkeypatch.setattr("fedplug.node.store.time.time_ns", lambda: first - 10**15)
        assert store.next_incarnation() == first + 1
        monkeypatch.undo()
        assert store.next_incarnation() > first + 1
    with NodeStore.in_memory("n") as store:
        assert 0 < store.next_incarnation() < store.next_incarnation() < 2**63
