"""A researcher that ends at any point of a round, and goes on from there: rows 5, 6, 8, 45, 46 and 47.

The nodes are processes of their own and live on. No node trains what it has trained, and the bits are those of a run
that nobody disturbs.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_kit import Federation, Watch, federation_below
from killed_researcher import EACH_ONCE, KILLED_IN, ROUNDS, SETTINGS, ended, facts, gone_on, trained, undisturbed

from fedplug import FedplugWarning, QuorumStrategy
from fedplug.core.errors import JournalError, RoundError, StoreError
from fedplug.core.journal import Journal
from fedplug.researcher import round_loop
from fedplug.researcher.round_records import AnyRecord, Received

NODES = ("lyon", "nice", "paris")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("researcher")
        patch.setenv("FEDPLUG_DIR", str(folder))
        yield folder / "var" / "experiments"


@pytest.fixture(scope="module")
def federation(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes"), NODES) as federation:
        yield federation


@pytest.fixture(scope="module")
def clean(federation: Federation) -> tuple[str, dict[int, Any]]:
    return undisturbed(federation)


@pytest.fixture(autouse=True)
def _no_surprising_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing differs at the nodes, and nothing is damaged
        yield


def latest(home: Path) -> Path:
    return max(home.iterdir(), key=lambda folder: folder.stat().st_mtime)


POINTS = {
    "round-begun": "before_TASK",
    "tasks-sent": "tasks_sent",
    "nodes at work": "nodes_at_work",
    "update-fetched": "in_collection",
    "update-in-file": "after_the_file_before_the_journal",
    "reply-journalled": "after_the_journal_before_COMMITTED",
    "reply-acknowledged": "after_COMMITTED",
    "aggregated": "in_aggregation",
    "round-committed": "in_commit",
    "breakpoint half written": "breakpoint_half_written",
    "breakpoint not renamed": "breakpoint_not_renamed",
    "breakpoint-written": "after_commit",
}
OFTEN = ("tasks-sent", "reply-journalled", "round-committed", "breakpoint half written")
"""Where a process is killed in the quick tests; ``test_round_journal.py`` goes on from every point, in one process."""


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id=f"row_05_{name}", marks=[] if point in OFTEN else [pytest.mark.slow])
        for point, name in POINTS.items()
    ],
)
def test_a_researcher_that_is_killed_goes_on_to_the_same_bits(
    federation: Federation, clean: tuple[str, dict[int, Any]], point: str
) -> None:
    killed = ended(federation, signal.SIGKILL, point)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, ""), killed.stderr
    with gone_on(federation) as exp:
        done = KILLED_IN + (point == "breakpoint-written")
        assert exp.round_current() == done
        assert exp.run() == ROUNDS - done
        assert (exp.params().fingerprint(), facts(exp)) == clean
        assert trained(federation, exp) == dict.fromkeys(NODES, EACH_ONCE)
        names = sorted(path.name for path in exp.experimentation_path().iterdir())
    assert [name for name in names if "breakpoint" in name] == [f"breakpoint_{n:04d}" for n in range(ROUNDS + 1)]
    assert not [name for name in names if name.startswith("updates")]


def test_row_05_updates_that_are_too_large_for_memory_are_received_into_their_file(
    federation: Federation, clean: tuple[str, dict[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(federation, signal.SIGKILL, "aggregated", MEMORY_BUDGET="0").returncode == -signal.SIGKILL
    monkeypatch.setattr(round_loop, "MEMORY_BUDGET", 0)
    with gone_on(federation) as exp:
        assert exp.run() == ROUNDS - KILLED_IN
        assert (exp.params().fingerprint(), facts(exp)) == clean
        assert trained(federation, exp) == dict.fromkeys(NODES, EACH_ONCE)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("nodes at work", id="row_47_nodes_at_work"),
        pytest.param("reply-journalled", id="row_47_in_collection", marks=pytest.mark.slow),
        pytest.param("round-committed", id="row_47_in_commit"),
        pytest.param("breakpoint half written", id="row_47_in_the_breakpoint", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_says_goodbye_and_leaves_what_goes_on_to_the_same_bits(
    federation: Federation, clean: tuple[str, dict[int, Any]], point: str
) -> None:
    before = {name: node.output().count("said goodbye") for name, node in federation.nodes.items()}
    stopped = ended(federation, signal.SIGINT, point)
    assert stopped.returncode == -signal.SIGINT, stopped.stderr
    assert stopped.stderr.rstrip().endswith("KeyboardInterrupt")
    for name, node in federation.nodes.items():
        assert node.output().count("said goodbye") > before[name], node.output()
    with gone_on(federation) as exp:
        assert exp.run() == ROUNDS - KILLED_IN
        assert (exp.params().fingerprint(), facts(exp)) == clean


def test_row_06_researcher_and_nodes_are_killed(
    federation: Federation, clean: tuple[str, dict[int, Any]], home: Path
) -> None:
    """No task is trained twice, and what is on the disk of the researcher not even as another attempt."""
    killed = ended(federation, signal.SIGKILL, "reply-journalled")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for node in federation.nodes.values():
        node.send(signal.SIGKILL)
        node.wait()
        node.start()
    with Journal[AnyRecord](latest(home) / "journal.sqlite", AnyRecord) as journal:
        *_, (first, here) = [
            (n, e.record.node) for n, e in enumerate(journal.entries()) if isinstance(e.record, Received)
        ]
        assert first == 2 + len(NODES) + 1, "the one that was journalled when the researcher was killed"
    with gone_on(federation) as exp:
        assert exp.run() == ROUNDS - KILLED_IN
        assert (exp.params().fingerprint(), facts(exp)) == clean
        for node in federation.nodes.values():
            assert set(node.started(exp.id).values()) == {1}
        assert trained(federation, exp)[here] == EACH_ONCE


def test_row_08_a_damaged_update_is_pulled_again_from_a_node_that_was_not_told_to_forget_it(
    federation: Federation, clean: tuple[str, dict[int, Any]], home: Path
) -> None:
    assert ended(federation, signal.SIGKILL, "reply-journalled").returncode == -signal.SIGKILL
    (file,) = latest(home).glob("updates_*.bin")
    data = bytearray(file.read_bytes())
    data[20] ^= 1  # in the second number of the first update
    file.write_bytes(data)
    with gone_on(federation) as exp:
        with pytest.warns(FedplugWarning, match=r"The update of node \w+ in .* is damaged") as told:
            assert exp.run() == ROUNDS - KILLED_IN
        assert len(told) == 1
        assert (exp.params().fingerprint(), facts(exp)) == clean
        assert trained(federation, exp) == dict.fromkeys(NODES, EACH_ONCE)


def test_row_08_a_damaged_update_that_its_node_has_forgotten_is_trained_once_more(
    federation: Federation, clean: tuple[str, dict[int, Any]], home: Path
) -> None:
    assert ended(federation, signal.SIGKILL, "aggregated").returncode == -signal.SIGKILL
    (file,) = latest(home).glob("updates_*.bin")
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with gone_on(federation) as exp:
        with pytest.warns(FedplugWarning, match="is damaged"):
            assert exp.run() == ROUNDS - KILLED_IN
        assert (exp.params().fingerprint(), facts(exp)) == clean
        times = [count[KILLED_IN] for count in trained(federation, exp).values()]
    assert sorted(times) == [1, 1, 2]


def test_row_08_a_damaged_journal_stops_the_start(federation: Federation, home: Path) -> None:
    assert ended(federation, signal.SIGKILL, "aggregated").returncode == -signal.SIGKILL
    wal = latest(home) / "journal.sqlite-wal"
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 4
    wal.write_bytes(data)
    with pytest.raises(JournalError, match="damaged"), gone_on(federation):
        pass


def test_row_46_a_second_researcher_at_one_journal_refuses_to_start(federation: Federation) -> None:
    """While a round is under way in a folder, nobody else goes on with it."""
    refused: list[str] = []

    def look(what: str, node_id: str) -> None:
        if what == "replied" and not refused:
            with pytest.raises(StoreError, match="in use by another process") as caught, gone_on_elsewhere(federation):
                pass
            refused.append(caught.value.message)

    with federation.experiment(Watch(look), **SETTINGS) as exp:
        assert exp.run() == ROUNDS
        assert len(refused) == 1


def gone_on_elsewhere(federation: Federation) -> Any:
    """What another process would try, at another port."""
    return gone_on(Federation(0, federation.options, federation.nodes))


def test_row_45_a_round_without_quorum_fails_with_the_roll_and_goes_on_later(
    federation: Federation, clean: tuple[str, dict[int, Any]]
) -> None:
    """The updates that came in time are not trained again."""
    paris = federation.nodes["paris"]

    def look(what: str, node_id: str) -> None:
        if what == "round":
            paris.send(signal.SIGSTOP)

    watch = Watch(look)
    with federation.experiment(watch, QuorumStrategy(3, deadline=3.0), **SETTINGS) as exp:
        with pytest.raises(RoundError, match="paris") as caught:
            exp.run()
        assert "load_breakpoint" in str(caught.value)
        place = exp.experimentation_path()
    paris.send(signal.SIGCONT)
    with gone_on(federation, place, node_selection_strategy=QuorumStrategy(3, deadline=300.0)) as exp:
        assert exp.run() == ROUNDS
        assert (exp.params().fingerprint(), facts(exp)) == clean
        counts = trained(federation, exp)
        assert (counts["lyon"], counts["nice"]) == (EACH_ONCE, EACH_ONCE)
