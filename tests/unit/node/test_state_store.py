"""The states that a node keeps between rounds: one interface, in memory and in files."""

from __future__ import annotations

import contextlib
import sqlite3
import stat

import numpy as np
import pytest

from fedplug import Params
from fedplug.core.errors import DiskFullError, StoreError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.node import NodeStore
from fedplug.node.state_store import MAX_AGE_DAYS, FileStateStore, MemoryStateStore, open_states
from fedplug.node.store import STORE_FILE


def state(value: float, size: int = 5) -> LocalState:
    arrays = {"parameters/w": np.full(size, value), "optimizer/n": np.array([3], np.int64), "a/h": np.float16(1)}
    return LocalState(Params.from_arrays(arrays), b"\x80")


class Clock:
    def __init__(self):
        self.time = 1e9

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path):
    with NodeStore.create(tmp_path / "node", name="n") as store:
        yield store


@pytest.fixture(params=["memory", "files"])
def states(request, store, clock):
    return MemoryStateStore(10_000, clock) if request.param == "memory" else FileStateStore(store, 10_000, clock)


def files(store):
    return sorted(path.name for path in (store.folder / "state").iterdir())


def test_what_is_saved_comes_back_to_the_bit(states):
    states.save("e", "d", 0, "0", "", state(0.1))
    assert states.load("e", "d", 0, "0") == state(0.1)
    for other in (("x", "d", 0, "0"), ("e", "x", 0, "0"), ("e", "d", 1, "0"), ("e", "d", -1, "0"), ("e", "d", 0, "")):
        assert states.load(*other) is None


def test_a_lost_reply_never_advances_a_node(states):
    states.save("e", "d", 0, "0", "", state(0))
    states.save("e", "d", 1, "1", "0", state(1))  # the reply is lost
    states.save("e", "d", 2, "2", "0", state(2))
    assert states.load("e", "d", 0, "0") == state(0)
    assert states.load("e", "d", 1, "1") is None
    assert states.load("e", "d", 2, "2") == state(2)
    states.save("e", "d", 3, "3", "2", state(3))
    assert states.load("e", "d", 0, "0") is None
    assert states.load("e", "d", 2, "2") == state(2)


def test_another_attempt_at_a_round_replaces_what_the_first_left(states):
    states.save("e", "d", 0, "0", "", state(0))
    states.save("e", "d", 1, "1", "0", state(1))
    states.save("e", "d", 1, "1", "0", state(1.5))
    assert states.load("e", "d", 0, "0") == state(0)
    assert states.load("e", "d", 1, "1") == state(1.5)


def test_a_state_of_another_way_is_no_state_and_ways_part_from_a_common_one(states):
    states.save("e", "d", 0, "0", "", state(0))
    states.save("e", "d", 1, "1a", "0", state(1))
    states.save("e", "d", 1, "1b", "0", state(2))
    assert states.load("e", "d", 0, "0") == state(0), "both ways went on from it"
    assert states.load("e", "d", 1, "1b") == state(2)
    assert states.load("e", "d", 1, "1a") is None
    states.save("e", "d", 2, "2a", "1a", state(3))
    assert [states.load("e", "d", *key) for key in ((0, "0"), (1, "1b"))] == [None, None]
    assert states.load("e", "d", 2, "2a") == state(3)


KEY = TaskKey(experiment_id="e", round=2, node_id="n")


@pytest.mark.parametrize(
    ("acked", "wanted", "found", "heard"),
    [
        (1, "1a", True, 0), (1, "1b", False, 1), (0, "0b", False, 0), (-1, "", False, 0), (-1, "1a", False, 0),
        (1, "", False, 0),
    ],
)  # fmt: skip
def test_the_base_of_a_request_is_the_state_it_names(states, acked, wanted, found, heard):
    states.save("e", "d", 1, "1a", "", state(1))
    told = []
    request = TrainRequest(key=KEY, dataset_id="d", plan_class="P", acked_round=acked, acked_state=wanted)
    assert states.base_of(request, told.append) == (state(1) if found else None)
    assert len(told) == heard
    assert all("round 2 comes from another way of the experiment" in line.text and line.key == KEY for line in told)


def test_a_damaged_state_is_not_called_that_of_another_way(store):
    states = FileStateStore(store)
    states.save("e", "d", 1, "1a", "", state(1))
    (store.folder / "state" / files(store)[0]).write_bytes(b"")
    told = []
    request = TrainRequest(key=KEY, dataset_id="d", plan_class="P", acked_round=1, acked_state="1a")
    assert states.base_of(request, told.append) is None
    assert told == []


def test_a_store_of_before_forgets_states_of_which_nobody_knows_the_lineage(tmp_path, old_store):
    folder = old_store(tmp_path / "n", "DROP TABLE states")
    (folder / "state").mkdir()
    (folder / "state" / "old").write_bytes(b"arrays")
    with contextlib.closing(sqlite3.connect(folder / STORE_FILE)) as db, db:
        db.execute("INSERT INTO states VALUES ('e', 'd', 0, 'old', 'digest', 6, 0.0)")
    with NodeStore.open(folder) as store:
        states = FileStateStore(store)
        assert files(store) == []
        states.save("e", "d", 1, "1", "0", state(1))
        assert states.load("e", "d", 1, "1") == state(1)


def test_experiments_and_data_sets_are_apart_and_can_be_forgotten(states):
    for key in (("e", "d"), ("e", "d2"), ("f", "d")):
        states.save(*key, 0, "0", "", state(1))
    states.forget("e")
    assert states.load("e", "d", 0, "0") is None
    assert states.load("e", "d2", 0, "0") is None
    assert states.load("f", "d", 0, "0") == state(1)


def test_the_oldest_states_of_others_make_room(states, clock):
    for index in range(8):
        clock.time += 1
        states.save(f"e{index}", "d", 0, "0", "", state(index, size=200))
    kept = [index for index in range(8) if states.load(f"e{index}", "d", 0, "0")]
    assert kept == list(range(8))[-len(kept) :]
    assert 3 <= len(kept) < 8


def test_a_state_that_is_too_large_is_refused_and_the_old_one_stays(states):
    states.save("e", "d", 0, "0", "", state(0))
    with pytest.raises(StoreError, match="is too large"):
        states.save("e", "d", 1, "1", "0", state(1, size=1000))
    assert states.load("e", "d", 0, "0") == state(0)


def test_files_survive_the_process_and_are_the_owners_only(store):
    FileStateStore(store).save("e", "d", 0, "0", "", state(4))
    with NodeStore.open(store.folder) as again:
        assert open_states(again).load("e", "d", 0, "0") == state(4)
    (name,) = files(store)
    assert stat.S_IMODE((store.folder / "state" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((store.folder / "state").stat().st_mode) == 0o700


def test_there_is_no_file_that_nobody_names(store):
    states = FileStateStore(store)
    for number in range(5):
        states.save("e", "d", number, str(number), str(number - 1), state(number))
    assert len(files(store)) == 2
    (store.folder / "state" / "left-by-a-crash.state").write_bytes(b"x")
    FileStateStore(store)
    assert len(files(store)) == 2
    assert states.load("e", "d", 4, "4") == state(4)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
def test_a_damaged_file_is_no_state_and_the_log_says_so(store, harm, caplog):
    states = FileStateStore(store)
    states.save("e", "d", 0, "0", "", state(4))
    path = store.folder / "state" / files(store)[0]
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": data[:-1] + b"\x01", "cut": data[:-3], "empty": b""}[harm])
    assert states.load("e", "d", 0, "0") is None
    assert "cannot be used" in caplog.text


def test_states_that_nobody_renews_are_forgotten_after_a_month(store, clock):
    states = FileStateStore(store, now=clock)
    states.save("old", "d", 0, "0", "", state(0))
    states.save("slow", "d", 0, "0", "", state(0))
    clock.time += (MAX_AGE_DAYS - 1) * 86_400
    states.save("slow", "d", 1, "1", "0", state(1))
    clock.time += 2 * 86_400
    states.save("new", "d", 0, "0", "", state(0))
    assert states.load("old", "d", 0, "0") is None
    assert states.load("slow", "d", 0, "0") == state(0), "the state that is acknowledged is as young as its experiment"
    clock.time += (MAX_AGE_DAYS + 1) * 86_400
    FileStateStore(store, now=clock)
    assert files(store) == []


def test_a_full_disk_is_an_error_of_ours_and_leaves_what_was_there(store, monkeypatch):
    states = FileStateStore(store)
    states.save("e", "d", 0, "0", "", state(0))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedplug.node.disk.os.fsync", full)
    with pytest.raises(DiskFullError, match="The disk is full"):
        states.save("e", "d", 1, "1", "0", state(1))
    assert len(files(store)) == 1
    assert states.load("e", "d", 0, "0") == state(0)


def test_the_disk_has_the_state_before_the_store_names_it(store, monkeypatch):
    states = FileStateStore(store)
    synced = []
    monkeypatch.setattr("fedplug.node.state_store.os.fsync", lambda fd: synced.append(rows(store)))
    states.save("e", "d", 0, "0", "", state(0))
    assert synced == [0, 0], "file and folder, both before the row"
    assert rows(store) == 1


def rows(store):
    db = sqlite3.connect(store.folder / STORE_FILE)
    try:
        return db.execute("SELECT COUNT(*) FROM states").fetchone()[0]
    finally:
        db.close()


def test_a_node_without_a_folder_keeps_states_in_memory():
    with NodeStore.in_memory("n") as store:
        assert isinstance(open_states(store), MemoryStateStore)
