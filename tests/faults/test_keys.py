"""Keys that are not known yet, denied or copied, in whole runs of real processes: rows 1, 34 and 35."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fault_kit import ROUNDS, Federation, Outcome, Watch, federation_below

from fedplug import QuorumStrategy
from fedplug.core.transport import TransportOptions


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in other threads or processes."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Locked:
    """A federation with keys whose list of allowed nodes can be changed."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.denied: set[str] = set()
        self.refused = 0
        known = federation.options.enrolled
        assert known is not None

        def enrolled(key: str) -> str:
            if (name := known(key)) not in self.denied:
                return name
            self.refused += 1
            return ""

        federation.options = replace(federation.options, enrolled=enrolled)
        self.paris = federation.nodes["paris"]

    def lines(self, words: str) -> int:
        """How many lines of the log of the node in Paris have some words."""
        return sum(words in line for line in self.paris.output().splitlines())

    def changes(self) -> list[str]:
        """What that log says of the connection, line by line."""
        return re.findall("No researcher at|do not work together|Connected to", self.paris.output())


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes"), keys=True) as federation:
        yield federation


@pytest.fixture
def locked(federation: Federation) -> Iterator[Locked]:
    before: TransportOptions = federation.options
    yield Locked(federation)
    federation.options = before


@pytest.fixture(scope="module")
def clean(federation: Federation) -> Outcome:
    """A run in which nobody is denied."""
    return federation.run()


def test_row_01_a_node_waits_for_the_researcher_and_then_to_be_allowed(locked: Locked, clean: Outcome) -> None:
    """It says once that nobody is there, once that it is refused, and once that it is connected."""
    until(lambda: locked.changes()[-1:] == ["No researcher at"])
    before = len(locked.changes())
    locked.denied.add("paris")

    def allow() -> None:
        until(lambda: locked.refused >= 3 and locked.changes()[-1] == "do not work together")
        locked.denied.clear()

    later = threading.Thread(target=allow)
    later.start()
    outcome = locked.federation.run()
    later.join()
    assert (outcome.digest, outcome.rounds) == (clean.digest, ROUNDS)
    assert outcome.traffic["turned_away_unknown-key"] >= 3
    assert f"fedplug researcher allow paris {locked.paris.keys[0].public}" in locked.paris.output()
    until(lambda: locked.changes()[-1] == "No researcher at")
    assert locked.changes()[before:] == ["do not work together", "Connected to", "No researcher at"]


def test_row_34_an_update_of_a_denied_node_is_left_aside(locked: Locked) -> None:
    """As the strategy says: this one can do without."""
    one = {"round_limit": 1, "node_selection_strategy": QuorumStrategy(1, deadline=300)}
    alone = locked.federation.run(nodes=["lyon"], min_nodes=1, **one)

    def look(what: str, name: str) -> None:
        if what == "round":  # early enough for its update to come too late
            locked.denied.add("paris")

    watch = Watch(look)
    outcome = locked.federation.run(watch, **one)
    assert outcome.digest == alone.digest
    assert watch.replies == {(0, "lyon"): 1}
    assert any(name == "paris" and "its key is not enrolled any more" in reason for name, reason in watch.dropped_nodes)


def test_row_34_an_update_of_a_node_that_is_allowed_again_is_taken(locked: Locked, clean: Outcome) -> None:
    refusals = locked.lines("do not work together")
    changes = []

    def look(what: str, name: str) -> None:
        if (what, name) == ("progress", "paris") and not changes:
            changes.append("denied")
            locked.denied.add("paris")
            until(lambda: locked.lines("do not work together") > refusals)
            locked.denied.clear()

    outcome = locked.federation.run(Watch(look))
    assert (outcome.digest, outcome.rounds) == (clean.digest, ROUNDS)
    assert changes == ["denied"]
    started = locked.paris.started(outcome.experiment_id)
    assert started == {f"{outcome.experiment_id}/{number}/paris/0": 1 for number in range(ROUNDS)}


def test_row_35_of_two_copies_of_a_node_the_younger_takes_part(
    locked: Locked, clean: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    """The older one and the researcher are told; the bits are those of one node."""
    caplog.set_level(logging.WARNING, "fedplug.experiment")
    paris = locked.paris
    paris.end()
    assert paris.wait() == 0
    copy = type(paris)(paris.place.with_name("copy"))
    shutil.copytree(paris.place, copy.place)
    copy.keys = paris.keys
    paris.start()
    started = []

    def look(what: str, name: str) -> None:
        if (what, name) == ("progress", "paris") and not started:
            started.append(copy.start(paris.url))
            until(lambda: any("Two copies of the node paris" in record.getMessage() for record in caplog.records))

    try:
        outcome = locked.federation.run(Watch(look))
    finally:
        copy.end()
        assert copy.wait() == 0, copy.output()
    assert (outcome.digest, outcome.rounds) == (clean.digest, ROUNDS)
    assert outcome.watch.replies == {(number, name): 1 for number in range(ROUNDS) for name in ("lyon", "paris")}
    assert locked.lines("A younger copy of this node") == 1
    alarms = [record for record in caplog.records if "Two copies" in record.getMessage()]
    assert len(alarms) == 1
