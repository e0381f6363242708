"""The file of a round's updates, and the spool that fills it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from round_kit import ScriptedPool, make_round, make_updates

from fedplug.core.errors import CodecError, DiskFullError, StoreError
from fedplug.core.journal import Journal
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.researcher.durable_spool import DurableSpool
from fedplug.researcher.round_records import AnyRecord, Begun, Place, Received, RoundState
from fedplug.researcher.spool import Spool
from fedplug.researcher.update_file import RegionRoom, UpdateFile

KEY = TaskKey(experiment_id="exp", round=0, node_id="node-0")
REPLY = TrainReply(key=KEY, sample_count=7, metrics={"loss": float("nan")}, aux=("extra",))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[UpdateFile]:
    file = UpdateFile(tmp_path / "updates.bin", fresh=True)
    yield file
    file.close()


def some_params(size: int, seed: int = 0) -> Params:
    return Params.from_arrays({"w": np.random.default_rng(seed).normal(size=size)})


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_what_is_written_is_read_to_the_bit(file: UpdateFile, tmp_path: Path, budget: int) -> None:
    """In memory if it fits, else through a map of the file."""
    params, aux = some_params(1000), {"extra": some_params(3, 1), "empty": Params.from_arrays({})}
    places = [file.write(REPLY, params, aux), file.write(REPLY, some_params(5, 2), {})]
    file.sync()
    again = UpdateFile(file.path, fresh=False, end=file.path.stat().st_size)
    spool = Spool(tmp_path, budget)
    recalled = again.read(places[0], spool)
    again.close()
    event = recalled.event
    assert (event.params, dict(event.aux)) == (params, aux)
    assert event.reply.key == KEY
    assert np.isnan(event.reply.metrics["loss"])
    assert isinstance(recalled.room, RegionRoom) is (budget == 0)
    assert spool.in_memory == (params.nbytes + 24 if budget else 0)
    recalled.room.release()
    assert spool.in_memory == 0


def test_arrays_that_were_received_into_the_file_are_not_written_again(file: UpdateFile, tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    room = RegionRoom(spool, file)
    params = some_params(2000)
    memory = room.allocate(params.nbytes)
    memory[:] = np.frombuffer(params.buffer, np.uint8)
    here = Params(params.spec, memory)
    before = file.path.stat().st_size
    place = file.write(REPLY, here, {})
    assert file.path.stat().st_size - before < params.nbytes
    assert file.read(place, spool).event.params == params


def test_memory_that_is_used_again_is_not_taken_for_what_lay_there_before(file: UpdateFile, tmp_path: Path) -> None:
    """A map that is gone leaves its address to others."""
    spool = Spool(tmp_path, 0)
    seen = set()
    for seed in range(20):
        params = some_params(2000, seed)
        room = RegionRoom(spool, file) if seed % 2 == 0 else spool.room(params.nbytes, in_file=True)
        memory = room.allocate(params.nbytes)
        seen.add(memory.ctypes.data)
        memory[:] = np.frombuffer(params.buffer, np.uint8)
        place = file.write(REPLY, Params(params.spec, memory), {})
        room.release()
        del memory
        assert file.read(place, spool).event.params == params
    assert len(seen) < 20, "else this shows nothing"


def test_a_file_that_is_begun_anew_leaves_the_arrays_of_the_old_one_alone(file: UpdateFile, tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    params = some_params(3000)
    kept = file.read(file.write(REPLY, params, {}), spool).event.params
    other = UpdateFile(file.path, fresh=True)
    other.write(REPLY, some_params(3000, 9), {})
    assert np.array_equal(kept["w"], params["w"])
    other.close()
    file.path.unlink()
    assert np.array_equal(kept["w"], params["w"])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(0, 10, "0" * 64), "description has changed"),
        (Place(10**9, 10, "0" * 64), "description has changed"),
    ],
)
def test_a_place_that_is_none_is_refused(file: UpdateFile, tmp_path: Path, place: Place, words: str) -> None:
    file.write(REPLY, some_params(10), {})
    with pytest.raises(CodecError, match=words):
        file.read(place, Spool(tmp_path, 1 << 20))


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_every_bit_of_an_update_is_covered_by_a_digest(file: UpdateFile, tmp_path: Path, budget: int) -> None:
    params = some_params(10)
    place = file.write(REPLY, params, {"extra": some_params(2, 1)})
    file.sync()
    whole = file.path.read_bytes()
    used = [*range(params.nbytes), *range(4096, 4096 + 16), *range(place.start, place.start + place.nbytes)]
    for at in used:
        bad = bytearray(whole)
        bad[at] ^= 1 << at % 8
        file.path.write_bytes(bad)
        with pytest.raises(CodecError):
            file.read(place, Spool(tmp_path, budget))
    file.path.write_bytes(whole[: place.start])
    with pytest.raises(CodecError):
        file.read(place, Spool(tmp_path, budget))


def test_row_37_a_full_disk_is_told_before_anything_is_mapped(
    file: UpdateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskFullError, match="disk is full"):
            file.map(1 << 20)
    assert file.path.stat().st_size == 0
    file.map(1 << 20)


def test_a_disk_that_fails_is_no_full_disk(file: UpdateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(StoreError, match="Input/output error") as caught:
        file.write(REPLY, some_params(3), {})
    assert not isinstance(caught.value, DiskFullError)


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_round_keeps_what_it_takes_large_or_small(tmp_path: Path, budget: int) -> None:
    """Over a pool that writes into the memory it is given; in whatever order the updates come."""
    updates = make_updates(3)
    nodes = sorted(updates)
    script = [("offer", node) for node in reversed(nodes)]
    pool = ScriptedPool(updates, script)
    begun = Begun(
        experiment="exp", round=0, asked="", params="", plan="", attempts=dict.fromkeys(nodes, 0), file="updates.bin"
    )
    with Journal[AnyRecord](tmp_path / "journal.sqlite", AnyRecord) as journal:
        journal.write(begun)
        state, file = RoundState(begun), UpdateFile(tmp_path / begun.file, fresh=True)
        spool = DurableSpool(tmp_path, budget, journal, state, file)
        clean = make_round(ScriptedPool(updates, script), tmp_path).run().params
        assert make_round(pool, tmp_path, spool=spool).run().params == clean
        assert sorted(pool.committed) == [f"exp/{node}" for node in nodes]
        assert pool.in_file == (set(nodes) if budget == 0 else set())
        assert {e.record.node for e in journal.entries() if isinstance(e.record, Received)} == set(nodes)
        for node in nodes:
            recalled = spool.recall(state.key(node))
            assert recalled is not None
            assert recalled.event.params == updates[node]
        assert spool.recall(TaskKey(experiment_id="exp", round=0, node_id=nodes[0], attempt=1)) is None
        file.close()
