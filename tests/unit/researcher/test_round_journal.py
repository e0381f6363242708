"""The journal of an experiment: what is on the disk at each point of a round, and what is made of it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_experiments import ARGS, Counting, Momentum, experiment, federation
from round_kit import Mean

from fedplug import Decision, Experiment, FedplugWarning, Monitor, Params, QuorumStrategy, Strategy
from fedplug.core.crash_points import POINTS, watched
from fedplug.core.errors import DiskFullError, JournalError, RoundError, StoreError, UpdateRejectedError
from fedplug.core.journal import Journal
from fedplug.core.messages import TaskFailure, TaskKey, TrainRequest
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import PoolEvent, TaskFailed, Watcher
from fedplug.core.strategy import RoundState
from fedplug.researcher import breakpoints, settling
from fedplug.researcher import round as round_module
from fedplug.researcher.round_records import AnyRecord, Asked, Begun, Committed, Late, Received, Refused, Stopped
from fedplug.simulation import Federation

ROUNDS = 3
RESEARCHER = [name for name in POINTS if name in list(POINTS)[: list(POINTS).index("breakpoint-written") + 1]]


class Counted(Federation):
    """Virtual nodes that remember what they were given, and may fail."""

    def __init__(self, nodes: Federation) -> None:
        self.__dict__.update(nodes.__dict__)
        self.failing: set[str] = set()
        self.given: list[tuple[int, str, int]] = []
        self.committed: Counter[tuple[int, str, int]] = Counter()

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None = None
    ) -> None:
        self.given.append((request.key.round, request.key.node_id, request.key.attempt))
        super().train(request, plan, params, aux)

    def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
        event = super().next_event(timeout, watch)
        key = getattr(getattr(event, "reply", None), "key", None)
        if key is not None and key.node_id in self.failing:
            return TaskFailed(TaskFailure(key=key, code="plan-raised", text="the disk of the node is full"))
        return event

    def commit(self, key: Any) -> None:
        self.committed[key.round, key.node_id, key.attempt] += 1
        super().commit(key)


def settings() -> dict[str, Any]:
    return {"round_limit": ROUNDS, "agg_optimizer": Momentum(), "node_selection_strategy": Counting()}


def nodes() -> Counted:
    return Counted(federation())


def load(path: Path, pool: Federation, **more: Any) -> Experiment:
    given = {"agg_optimizer": Momentum(), "node_selection_strategy": Counting(), **more}
    return Experiment.load_breakpoint(path, transport=pool, progress="quiet", **given)


def records(folder: Path) -> list[AnyRecord]:
    with Journal[AnyRecord](folder / "journal.sqlite", AnyRecord) as journal:
        return [entry.record for entry in journal.entries()]


def bits(exp: Experiment) -> tuple[str, Any]:
    replies = {
        number: {node: (reply["sample_count"], reply["metrics"]) for node, reply in each.items()}
        for number, each in exp.training_replies().items()
    }
    return exp.params().fingerprint(), replies


@pytest.fixture(autouse=True)
def _no_surprising_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Breakpoints cannot say how to make")
        yield


def copy(image: Path) -> Path:
    """A copy that may be spoilt."""
    target = Path(tempfile.mkdtemp(dir=image.parent)) / image.name
    shutil.copytree(image, target)
    return target


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update goes to the disk by itself, as soon as it is here."""
    monkeypatch.setattr(settling, "SETTLE_AFTER", 0.0)


class Images:
    """What is on the disk at each point of an undisturbed run: what a process that is killed there leaves behind."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.taken: list[tuple[str, int, Path]] = []
        with experiment(**settings(), transport=nodes()) as exp:
            self.folder = exp.experimentation_path()
            with watched(lambda point: self.take(point, exp.round_current())):
                exp.run()
            self.bits = bits(exp)
        self.records = records(self.folder)

    def take(self, point: str, number: int) -> None:
        image = self.place / f"{len(self.taken)}-{point}"
        shutil.copytree(self.folder, image)
        self.taken.append((point, number, image))

    def of(self, point: str, number: int) -> Path:
        """Return a copy, to be spoilt, of the image that was taken last at a point of a round."""
        image = [image for name, done, image in self.taken if (name, done) == (point, number)][-1]
        return copy(image)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Breakpoints cannot say how to make")
        patch.setenv("FEDPLUG_DIR", str(tmp_path_factory.mktemp("home")))
        patch.setattr(settling, "SETTLE_AFTER", 0.0)  # each update by itself
        yield Images(tmp_path_factory.mktemp("images"))


def test_every_point_of_the_researcher_is_reached_in_every_round(images: Images) -> None:
    reached = Counter((point, number) for point, number, _ in images.taken)
    assert {point for point, _ in reached} == set(RESEARCHER)
    for number in range(ROUNDS):
        assert (reached["round-begun", number], reached["round-committed", number]) == (1, 1)
        assert (reached["update-fetched", number], reached["reply-acknowledged", number]) == (4, 4)


@pytest.mark.parametrize("point", RESEARCHER)
def test_row_05_a_run_that_is_cut_off_goes_on_to_the_same_bits(images: Images, point: str) -> None:
    """In whatever round, wherever: nothing that is on the disk is trained again, and keys stay what they were."""
    for name, _, taken in images.taken:
        if name != point:
            continue
        image = copy(taken)
        known = records(image)
        begun = next((each for each in reversed(known) if isinstance(each, Begun)), None)
        here = {r.node for r in known[known.index(begun) + 1 :] if isinstance(r, Received)} if begun else set()
        pool = nodes()
        with load(image, pool) as exp:
            number = exp.round_current()
            exp.run()
            assert bits(exp) == images.bits
        mine = [(node, attempt) for done, node, attempt in pool.given if done == number]
        if begun is not None and begun.round == number:
            assert mine == [(node, 0) for node in "abcd" if node not in here]
            assert all(pool.committed[number, node, 0] for node in "abcd")
        else:
            assert len(mine) == (4 if number < ROUNDS else 0)
        assert not list(image.glob("updates_*"))


def test_what_the_journal_says_of_a_run(images: Images) -> None:
    assert [type(record) for record in images.records] == ROUNDS * [Begun, *4 * [Received], Committed]
    for number in range(ROUNDS):
        begun, *received, committed = images.records[6 * number : 6 * number + 6]
        assert (begun.round, begun.attempts, committed.round) == (number, dict.fromkeys("abcd", 0), number)
        assert [(node, update) for node, update, _ in committed.updates] == [(r.node, r.update) for r in received]
        assert [weight for _, _, weight in committed.updates] == [20, 25, 30, 35]
    assert (
        len({update for record in images.records if isinstance(record, Received) for update in [record.update]}) == 12
    )
    assert images.records[-1].params == images.bits[0]


def test_row_07_a_torn_tail_of_the_journal_is_cut_and_the_run_goes_on_to_the_same_bits(images: Images) -> None:
    image = images.of("reply-acknowledged", 1)
    wal = image / "journal.sqlite-wal"
    whole = wal.read_bytes()
    frame = 24 + int.from_bytes(whole[8:12], "big")
    for length in random.Random(7).sample(range(len(whole) - frame, len(whole)), 8):
        torn = copy(image)
        (torn / wal.name).write_bytes(whole[:length])
        with load(torn, nodes()) as exp:
            exp.run()
            assert bits(exp) == images.bits


def test_row_08_a_journal_that_was_changed_stops_the_start_and_names_the_record(images: Images) -> None:
    import sqlite3

    image = images.of("breakpoint-written", 2)
    records(image)  # closed: there is no write-ahead log any more
    db = sqlite3.connect(image / "journal.sqlite")
    db.execute("UPDATE records SET body = zeroblob(9) WHERE number = 3")
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="record 3 was changed") as caught:
        load(image, nodes())
    assert caught.value.record == 3
    (image / "journal.sqlite").rename(image / "damaged.sqlite")  # as the cure says
    with load(image, nodes()) as exp:
        exp.run()
        assert bits(exp) == images.bits


def test_a_journal_that_lacks_its_end_is_noticed_by_the_breakpoint(images: Images) -> None:
    image = images.of("breakpoint-written", 1)
    shutil.copy(images.of("breakpoint-written", 0) / "journal.sqlite", image)
    (image / "journal.sqlite-wal").unlink(missing_ok=True)
    with pytest.raises(JournalError, match="is not the one that it once had"):
        load(image, nodes())


@pytest.mark.parametrize("point", ["reply-acknowledged", "round-committed"])
def test_row_08_an_update_that_was_damaged_on_the_disk_is_asked_for_again(images: Images, point: str) -> None:
    """Every bit of the file matters, or is in the gaps between the arrays."""
    pristine = images.of(point, 1)
    (file,) = pristine.glob("updates_*.bin")
    used = [
        (record.place.start, record.place.nbytes) for record in records(pristine)[7:] if isinstance(record, Received)
    ]
    rng = random.Random(8)
    places = [0, 15, *(start + rng.randrange(nbytes) for start, nbytes in used)]
    for at in places:
        image = copy(pristine)
        data = bytearray(file.read_bytes())
        data[at] ^= 1 << rng.randrange(8)
        (image / file.name).write_bytes(data)
        pool = nodes()
        with load(image, pool) as exp:
            with pytest.warns(FedplugWarning, match=r"The update of node [abcd] in .* is damaged") as told:
                exp.run()
            assert len(told) == 1
            assert bits(exp) == images.bits
        assert len([done for done, *_ in pool.given if done == 1]) == 1


def test_a_file_of_updates_that_was_cut_off_or_is_gone(images: Images) -> None:
    image = images.of("round-committed", 1)
    (file,) = image.glob("updates_*.bin")
    file.write_bytes(file.read_bytes()[:5000])
    with load(image, nodes()) as exp:
        with pytest.warns(FedplugWarning, match="is damaged"):
            exp.run()
        assert bits(exp) == images.bits
    image = images.of("reply-acknowledged", 1)
    (file,) = image.glob("updates_*.bin")
    file.unlink()
    pool = nodes()
    with load(image, pool) as exp:
        exp.run()
        assert bits(exp) == images.bits
    assert all(attempt > 0 for done, _, attempt in pool.given if done == 1), "nodes may have forgotten the others"


def test_a_round_that_was_begun_with_other_arguments_begins_anew(images: Images) -> None:
    image = images.of("reply-acknowledged", 1)
    pool = nodes()
    with load(image, pool) as exp:
        exp.set_training_args({**ARGS, "epochs": 1})
        exp.run()
    mine = [(node, attempt) for done, node, attempt in pool.given if done == 1]
    assert [node for node, _ in mine] == ["a", "b", "c", "d"]
    assert all(attempt > 0 for _, attempt in mine)


def test_an_aggregator_that_does_not_repeat_itself_is_told_of(images: Images) -> None:
    other = Momentum()
    with load(images.of("round-committed", 1), nodes(), agg_optimizer=other) as exp:
        other.beta = 0.25
        with pytest.warns(FedplugWarning) as told:
            exp.run()
        assert exp.round_current() == ROUNDS
    assert ["does not come to the same again" in str(each.message) for each in told].count(True) == 1


# -- in one process ---------------------------------------------------------------------------------------------------


def test_a_round_that_failed_is_tried_again_with_the_updates_that_are_here(fedplug_dir: Path) -> None:
    pool = nodes()
    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)
    with experiment(**{**settings(), "node_selection_strategy": QuorumStrategy(4)}, transport=pool) as exp:
        pool.failing = {"c"}
        with pytest.raises(RoundError, match="disk of the node"):
            exp.run()
        pool.failing = set()
        exp.run()
        assert bits(exp) == clean
        known = records(exp.experimentation_path())
    first = [given for given in pool.given if given[0] == 0]
    assert first[:4] == [(0, node, 0) for node in "abcd"]
    assert [node for _, node, attempt in first[4:]] == ["c", "d"] or [node for _, node, _ in first[4:]] == ["c"]
    assert all(attempt > 0 for *_, attempt in first[4:])
    assert any(isinstance(record, Stopped) for record in known)
    assert {record.node for record in known if isinstance(record, Asked)} == {node for _, node, _ in first[4:]}


def test_row_47_ctrl_c_leaves_the_round_to_the_next_run(fedplug_dir: Path) -> None:
    class Interrupts(Monitor):
        times = 0

        def replied(self, node_id: str, reply: Any) -> None:
            self.times += 1
            if self.times == 2:
                raise KeyboardInterrupt

    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)
    pool = nodes()
    with experiment(**settings(), transport=pool) as exp:
        exp.add_monitor(Interrupts())
        with pytest.raises(KeyboardInterrupt):
            exp.run()
        folder = exp.experimentation_path()
    again = nodes()
    with load(folder, again) as exp:
        exp.run()
        assert bits(exp) == clean
    assert "a" not in {node for number, node, _ in again.given if number == 0}


def test_row_46_who_goes_on_with_an_experiment_that_runs_is_refused(fedplug_dir: Path) -> None:
    refused: list[str] = []

    class Second(Monitor):
        def replied(self, node_id: str, reply: Any) -> None:
            with pytest.raises(StoreError, match="in use by another process") as caught:
                load(exp.experimentation_path(), nodes())
            refused.append(caught.value.message)

    with experiment(**settings(), transport=nodes()) as exp:
        exp.add_monitor(Second())
        exp.run(1)
        assert len(refused) == 4
        with load(exp.experimentation_path(), nodes()) as second:  # it runs no more
            second.run()


def test_an_update_that_is_refused_is_not_asked_for_again(fedplug_dir: Path, tmp_path: Path, at_once: None) -> None:
    class Picky(Mean):
        def check_update(self, update, start):
            if update.node_id == "b":
                raise UpdateRejectedError("it is not to its taste.")

    wanted = {**settings(), "aggregator": Picky(), "node_selection_strategy": QuorumStrategy(3, deadline=60)}
    image = tmp_path / "image"

    def look(point: str) -> None:
        if point == "aggregated" and not image.exists():
            shutil.copytree(exp.experimentation_path(), image)

    with experiment(**wanted, transport=nodes()) as exp, watched(look):
        exp.run(1)
        clean = exp.params().fingerprint()
    assert [record.node for record in records(image) if isinstance(record, Refused)] == ["b"]
    pool = nodes()
    with load(image, pool, aggregator=Picky(), node_selection_strategy=QuorumStrategy(3, deadline=60)) as exp:
        exp.run(1)
        assert exp.params().fingerprint() == clean
    assert pool.given == []


def test_row_21_an_update_that_comes_when_its_round_is_over_is_journalled_as_late_and_not_used(
    fedplug_dir: Path,
) -> None:
    class Slow(Counted):
        def late(self) -> list[TaskKey]:
            first = self.given[0]
            return [TaskKey(experiment_id=exp.id, round=0, node_id="z")] if self.given[-1][0] > first[0] else []

    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)
    with experiment(**settings(), transport=Slow(federation())) as exp:
        exp.run(2)
        assert [r for r in records(exp.experimentation_path()) if isinstance(r, Late)] == [
            Late(round=0, node="z", attempt=0)
        ]
        exp.run()
        assert bits(exp) == clean


class Replacing(Strategy):
    """Asks the first three nodes, and for one that fails another one."""

    def select(self, ctx: Any, nodes: Any) -> list[str]:
        return list(nodes)[:3]

    def judge(self, ctx: Any, state: RoundState) -> Decision:
        missing = 3 - len(state.replied)
        if missing == 0:
            return Decision("enough")
        lost = len([node for node in state.dropped if state.outcomes[node] == "failed"])
        return Decision("wait", ask=state.others[: lost - len(state.added)])


def test_nodes_that_were_asked_besides_are_asked_again_under_the_same_keys(
    fedplug_dir: Path, tmp_path: Path, at_once: None
) -> None:
    pool = nodes()
    pool.failing = {"b"}
    images: list[Path] = []

    def look(point: str) -> None:
        if point in ("update-fetched", "reply-acknowledged", "aggregated"):
            images.append(tmp_path / f"{len(images)}-{point}")
            shutil.copytree(exp.experimentation_path(), images[-1])

    with experiment(round_limit=1, transport=pool, node_selection_strategy=Replacing()) as exp, watched(look):
        exp.run()
        clean = bits(exp)
    assert list(clean[1][0]) == ["a", "c", "d"]
    assert [given[1:] for given in pool.given] == [("a", 0), ("b", 0), ("c", 0), ("d", 1)]
    assert len(images) > 3
    for image in images:
        asked = [(each.node, each.attempt) for each in records(copy(image)) if isinstance(each, Asked)]
        again = nodes()
        again.failing = {"b"}
        with load(image, again, agg_optimizer=None, node_selection_strategy=Replacing()) as exp:
            exp.run()
            assert bits(exp) == clean
        assert asked in ([], [("d", 1)])
        assert {given for given in again.given if given[1] == "d"} <= {(0, "d", 1)}


def test_the_arguments_of_the_model_are_part_of_what_is_asked(fedplug_dir: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"

    def look(point: str) -> None:
        if point == "round-committed":
            shutil.copytree(exp.experimentation_path(), image)

    start = Params.from_arrays({"start": np.arange(3.0)})
    with experiment(round_limit=1, transport=nodes(), model_args={"start": start}) as exp, watched(look):
        exp.run()
        clean = bits(exp)
    for args, trained in ((start, 0), (start * 2, 4)):
        pool = nodes()
        with load(copy(image), pool, agg_optimizer=None, node_selection_strategy=None) as exp:
            exp.set_model_args({"start": args})
            exp.run()
            assert bits(exp) == clean, "the plan makes no use of them"
        assert len(pool.given) == trained


def test_without_breakpoints_there_is_no_journal(fedplug_dir: Path) -> None:
    with experiment(save_breakpoints=False) as exp:
        exp.run(2)
        assert not list(exp.experimentation_path().glob("journal*"))
        assert not list(exp.experimentation_path().glob("updates*"))


# -- full disks -------------------------------------------------------------------------------------------------------


class Space:
    """A disk that is full until somebody has been told so often enough."""

    def __init__(self) -> None:
        self.full = False
        self.told: list[str] = []

    def message(self, text: str) -> None:
        if "disk is full" in text:
            self.told.append(text)

    def guarded(self, real: Callable[..., Any], wanted: Callable[..., bool], times: int = 3) -> Callable[..., Any]:
        left = [times]

        def call(*args: Any) -> Any:
            if wanted(*args) and left[0]:
                left[0] -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return call


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr(round_module, "TICK", 0.01)
    monkeypatch.setattr(settling, "TRY_AGAIN", 0.01)
    return Space()


def watching(exp: Experiment, space: Space) -> None:
    class Listens(Monitor):
        def message(self, text: str) -> None:
            space.message(text)

    exp.add_monitor(Listens())


def in_updates(file: int, *_: Any) -> bool:
    return "updates_" in os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115 - a file descriptor


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_row_37_a_disk_that_is_full_at_the_spool_pauses_the_round(
    fedplug_dir: Path, monkeypatch: pytest.MonkeyPatch, space: Space, call: str
) -> None:
    from fedplug.researcher import update_file

    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)
    pool = nodes()
    with experiment(**settings(), transport=pool) as exp:
        watching(exp, space)
        if call == "pwrite":
            monkeypatch.setattr(os, "pwrite", space.guarded(os.pwrite, in_updates))
        else:
            monkeypatch.setattr(update_file, "_flush", space.guarded(update_file._flush, in_updates))
        exp.run()
        assert bits(exp) == clean
        assert [type(each) for each in records(exp.experimentation_path())] == ROUNDS * [
            Begun,
            *4 * [Received],
            Committed,
        ]
    assert len(space.told) == 1, "once, and not at every try"
    assert "goes on when there is room" in space.told[0]


def test_row_37_a_disk_that_is_full_at_the_journal_pauses_the_round_and_nobody_is_told_that_his_update_is_safe(
    fedplug_dir: Path, monkeypatch: pytest.MonkeyPatch, space: Space
) -> None:
    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)
    pool = nodes()
    real, tries = Journal.flush, []

    def flush(journal: Journal[Any]) -> None:
        waits = journal.written.number < journal.head.number > 1
        if waits and len(tries) < 3:
            tries.append(dict(pool.committed))
            raise DiskFullError("The disk is full: the journal cannot be written.")
        real(journal)

    monkeypatch.setattr(Journal, "flush", flush)
    with experiment(**settings(), transport=pool) as exp:
        watching(exp, space)
        exp.run()
        assert bits(exp) == clean
        assert [type(each) for each in records(exp.experimentation_path())] == ROUNDS * [
            Begun,
            *4 * [Received],
            Committed,
        ]
    assert tries == [{}, {}, {}]
    assert len(space.told) == 1


def test_row_37_a_disk_that_is_full_at_the_breakpoint_ends_the_run_and_the_next_goes_on(
    fedplug_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with experiment(**settings()) as exp:
        exp.run()
        clean = bits(exp)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pool = nodes()
    with experiment(**settings(), transport=pool) as exp:
        exp.run(1)
        with monkeypatch.context() as patch:
            patch.setattr(breakpoints, "_write", full)
            for _ in range(2):  # it is not gone on from what is not on the disk
                with pytest.raises(StoreError, match="No space left on device"):
                    exp.run(1)
                assert exp.round_current() == 2
        folder = exp.experimentation_path()
        image = folder.with_name("image")
        shutil.copytree(folder, image)
        exp.run()
        assert bits(exp) == clean
    assert max(Counter(pool.given).values()) == 1
    with load(image, nodes()) as exp:  # and the process could have died just as well
        assert exp.round_current() == 1
        exp.run()
        assert bits(exp) == clean
