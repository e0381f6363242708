"""Nodes, and a researcher, that are killed or stopped in the middle of a round: rows 2 to 4, 14 and 15.

Whatever happens to the node in Paris, the run ends with the bits of a run that nobody disturbed. A training that has
ended is never done again; one that was cut off is done again as another attempt, by decision of the researcher.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from fault_kit import CHUNK, CREDIT, NODES, ROUNDS, UPDATE, Federation, Outcome, Watch, federation_below
from fault_researcher import researcher, until

from fedplug.core.crash_points import VARIABLE


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes")) as federation:
        yield federation


@pytest.fixture(scope="module")
def clean(federation: Federation) -> Outcome:
    """A run in which nobody is killed."""
    return federation.run()


@pytest.fixture
def killed(federation: Federation) -> Iterator[Callable[[str], None]]:
    """Return ``killed(point)``: the node in Paris dies at a crash point of its next run, and is then started again."""
    node = federation.nodes["paris"]
    waiting: list[threading.Thread] = []

    def nurse() -> None:
        assert node.wait() == -signal.SIGKILL, node.output()
        node.start()

    def kill_at(point: str) -> None:
        node.end()
        assert node.wait() == 0, node.output()
        node.start(env={VARIABLE: point})
        federation.proxies["paris"].play()
        waiting.append(threading.Thread(target=nurse))
        waiting[0].start()

    yield kill_at
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive(), "the node was not killed"


def tasks(federation: Federation, outcome: Outcome, name: str) -> dict[tuple[int, int], int]:
    """How often each task of a node was trained, by round and attempt."""
    started = federation.nodes[name].started(outcome.experiment_id)
    return {(int(key.split("/")[1]), int(key.split("/")[3])): times for key, times in started.items()}


def require_the_same(outcome: Outcome, clean: Outcome) -> None:
    assert outcome.rounds == ROUNDS
    assert outcome.digest == clean.digest
    assert outcome.watch.replies == {(number, name): 1 for number in range(ROUNDS) for name in NODES}


EACH_ONCE = {(number, 0): 1 for number in range(ROUNDS)}


@pytest.mark.parametrize(
    ("point", "trained"),
    [
        pytest.param("task-begun", {(0, 1): 1, (1, 0): 1}, id="row_02_before_the_first_batch"),
        pytest.param(
            "task-trained", {**EACH_ONCE, (0, 1): 1}, id="row_02_trained_and_not_finished", marks=pytest.mark.slow
        ),
        pytest.param("update-kept", EACH_ONCE, id="row_03_finished_and_not_offered"),
        pytest.param("update-offered", EACH_ONCE, id="row_03_offered", marks=pytest.mark.slow),
        pytest.param("task-ended", EACH_ONCE, id="row_03_committed", marks=pytest.mark.slow),
    ],
)
def test_a_node_that_is_killed(
    federation: Federation,
    clean: Outcome,
    killed: Callable[[str], None],
    point: str,
    trained: dict[tuple[int, int], int],
) -> None:
    killed(point)
    outcome = federation.run()
    require_the_same(outcome, clean)
    assert tasks(federation, outcome, "paris") == trained
    assert tasks(federation, outcome, "lyon") == EACH_ONCE


def test_row_04_killed_in_the_middle_of_the_upload(
    federation: Federation, clean: Outcome, killed: Callable[[str], None]
) -> None:
    """Only what was under way crosses twice."""
    killed(f"chunk-sent:{UPDATE // CHUNK // 2}")
    outcome = federation.run()
    require_the_same(outcome, clean)
    assert tasks(federation, outcome, "paris") == EACH_ONCE
    paris = federation.proxies["paris"]
    assert paris.sent("up") <= 1.03 * ROUNDS * UPDATE + paris.count("opened") * (CREDIT * (CHUNK + 1024) + 8192)


def test_row_14_a_node_that_is_stopped_is_lost_and_comes_back_as_it_was(federation: Federation, clean: Outcome) -> None:
    node = federation.nodes["paris"]
    stops = []

    def look(what: str, name: str) -> None:
        if what == "round" and not stops:
            stops.append(node.process.pid)
            node.send(signal.SIGSTOP)
        elif (what, name) == ("dropped", "paris"):
            node.send(signal.SIGCONT)

    watch = Watch(look)
    outcome = federation.run(watch)
    require_the_same(outcome, clean)
    assert "paris" in [name for name, _ in watch.dropped_nodes]
    assert tasks(federation, outcome, "paris") == EACH_ONCE
    assert node.process.poll() is None


def test_row_15_a_researcher_that_is_stopped_is_left_and_found_again(federation: Federation, clean: Outcome) -> None:
    """The nodes do not wait for it: they train, knock again and again, and hand over when it is back."""
    for proxy in federation.proxies.values():
        proxy.play()
    with researcher(federation) as process:
        until(process, lambda what: what == "progress")
        process.send_signal(signal.SIGSTOP)
        for proxy in federation.proxies.values():
            proxy.wait("node-left", 2)  # a session, and a try to begin another
        process.send_signal(signal.SIGCONT)
        _, experiment_id, digest, rounds = until(process, lambda what: what == "outcome")
    assert (digest, rounds) == (clean.digest, ROUNDS)
    for node in federation.nodes.values():
        assert set(node.started(experiment_id).values()) == {1}, node.output()
        assert len(node.started(experiment_id)) == ROUNDS
