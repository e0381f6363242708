"""Wall clocks that jump by an hour or a day in the middle of a round, at a node, at the researcher, at both: row 39.

Nothing waits by a wall clock, so nothing happens but that the logs show other times.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_kit import Federation, Watch, federation_below

HOUR, DAY = 3600.0, 86_400.0
JUMPS = ((DAY, 0.0), (-DAY, DAY), (HOUR, -DAY), (-HOUR, HOUR), (0.0, -HOUR), (DAY, DAY))
"""Of Paris and of the researcher, one pair a round."""

SMALL = 20_000


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes")) as federation:
        yield federation


@pytest.fixture
def jump(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return ``jump(node, researcher)``: from now on their clocks are ahead by so many seconds."""
    ahead = 0.0
    true_time, true_time_ns = time.time, time.time_ns
    clock = federation.nodes["paris"].place / "clock"

    def jumped(node: float, researcher: float) -> None:
        nonlocal ahead
        ahead = researcher
        part = clock.with_suffix(".part")
        part.write_text(f"{node}")
        part.rename(clock)

    monkeypatch.setattr(time, "time", lambda: true_time() + ahead)
    monkeypatch.setattr(time, "time_ns", lambda: true_time_ns() + int(ahead * 1e9))
    yield jumped
    clock.unlink(missing_ok=True)


def logged_days(place: Path) -> set[str]:
    lines = (place / "logs" / "node.log").read_text().splitlines()
    return {line[:10] for line in lines if line[:2] == "20"}


def test_row_39_clocks_jump_in_the_middle_of_each_round(federation: Federation, jump) -> None:
    more = {"model_args": {"size": SMALL}, "round_limit": len(JUMPS)}
    clean = federation.run(**more)
    rounds = iter(JUMPS)

    def look(what: str, name: str) -> None:
        if (what, name) == ("replied", "lyon"):
            jump(*next(rounds))

    outcome = federation.run(Watch(look), **more)
    assert next(rounds, None) is None
    assert outcome.digest == clean.digest
    for node in federation.nodes.values():
        assert list(node.started(outcome.experiment_id).values()) == [1] * len(JUMPS)
    assert len(logged_days(federation.nodes["paris"].place)) >= 3, "the log shows the jumps"


def test_row_39_a_node_is_started_again_a_day_before_its_last_start(federation: Federation, jump) -> None:
    """It is known for the same node all the same, and its tasks for those that they are."""
    more = {"model_args": {"size": SMALL}, "round_limit": 3}
    clean = federation.run(**more)
    paris = federation.nodes["paris"]
    offset = 0.0

    def look(what: str, name: str) -> None:
        nonlocal offset
        if (what, name) == ("ended", "") and offset > -2 * DAY:
            paris.send(signal.SIGKILL)
            paris.wait()
            offset -= DAY
            jump(offset, 0.0)
            paris.start()

    outcome = federation.run(Watch(look), **more)
    assert outcome.digest == clean.digest
    assert offset == -2 * DAY
    for node in federation.nodes.values():
        assert list(node.started(outcome.experiment_id).values()) == [1] * 3
