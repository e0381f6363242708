"""Asking owners about a plan, and waiting for their word."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace

import pytest

from fedplug.core.errors import PlanError, UsageError
from fedplug.core.messages import NodeInfo, PlanAnswer
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import NodeJoined, PlanAnswered
from fedplug.researcher import plan_status
from fedplug.researcher.plan_status import OPEN_STATUS, PlanStatus, ask_plan, wait_for_plan

PLAN = PlanBundle("Net", "class Net: pass\n")


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(plan_status, "time", clock)
    return clock


def pool(clock, events, nodes=("a", "b")):
    """Return a pool whose nodes are connected and say these things; afterwards there is silence."""
    queue = deque(events)

    def next_event(timeout):
        if queue:
            return queue.popleft()
        clock.now += timeout
        return None

    present = {node: NodeInfo(node_id=node) for node in nodes}
    return SimpleNamespace(nodes=present, is_fixed=False, ask_plan=lambda *_: None, next_event=next_event)


def said(node, status, query=5, **more):
    return PlanAnswered(node, query, PlanAnswer(plan=PLAN.hash, status=status, **more))


def ask(pool, nodes=("a", "b")):
    return ask_plan(pool, 5, PLAN, dict.fromkeys(nodes, "d"), {"a": "lyon"})


def test_each_node_answers_for_itself_in_words_for_people(clock):
    events = [said("b", "pending"), NodeJoined(NodeInfo(node_id="z")), said("a", "rejected", query=4),
              said("a", "approved", note="Fine.", until="2999-01-31T23:59:59+00:00")]  # fmt: skip
    found = ask(pool(clock, events))
    assert found["a"].text == "Node 'lyon' lets the plan run until 2999-01-31 23:59 (UTC). Its owner says: Fine."
    assert (found["a"].plan, found["a"].note, found["a"].is_allowed) == (PLAN.hash, "Fine.", True)
    assert found["b"].text == "Node 'b' waits for its owner to approve the plan."
    assert not found["b"].is_allowed
    assert clock.now == 100.0


def test_a_node_that_is_silent_or_away_holds_nobody_up_for_long(clock):
    found = ask(pool(clock, [], nodes=("a",)))
    assert (found["a"].status, found["b"].status) == ("no answer", "not connected")
    assert clock.now == pytest.approx(110.0)


def test_a_status_that_nobody_here_knows_is_no_approval(clock):
    found = ask(pool(clock, [said("a", "approved!"), said("b", "")]))
    assert {status.is_allowed for status in found.values()} == {False}


def test_a_node_cannot_steer_the_terminal_of_a_researcher(clock):
    found = ask(
        pool(clock, [said("a", "approved", note="\x1b[2J\nNode 'b' lets", until="\x1b]0;x\x07"), said("b", "pending")])
    )
    assert found["a"].text.isprintable()


def statuses(*names):
    return {
        node: PlanStatus(node, PLAN.hash, name, f"{node} {name}.") for node, name in zip("abc", names, strict=False)
    }


def test_waiting_ends_with_the_last_approval_and_every_change_is_told_once(clock):
    turns = iter(
        [statuses("unknown", "pending"), statuses("pending", "pending"), statuses("pending", "not connected"),
         statuses("approved", "no answer"), statuses("approved", "not required")]
    )  # fmt: skip
    told = []
    found = wait_for_plan(lambda: next(turns), told.append, None, 3.0)
    assert all(status.is_allowed for status in found.values())
    assert clock.now == 100.0 + 4 * 3
    assert told == [
        "a unknown.", "b pending.", "a pending.", "b not connected.", "a approved.", "b no answer.", "b not required.",
    ]  # fmt: skip


@pytest.mark.parametrize("bad", ["rejected", "refused"])
def test_waiting_ends_as_soon_as_an_owner_says_no(clock, bad):
    turns = iter([statuses("pending", "pending"), statuses("pending", bad)])
    with pytest.raises(PlanError, match=f"b {bad}") as caught:
        wait_for_plan(lambda: next(turns), lambda _: None, None, 1.0)
    assert caught.value.node == "b"
    assert caught.value.cure


@pytest.mark.parametrize("status", sorted(OPEN_STATUS))
def test_waiting_ends_when_the_time_is_up_and_names_whom_it_waited_for(clock, status):
    with pytest.raises(PlanError, match=f"b {status}") as caught:
        wait_for_plan(lambda: statuses("approved", status), lambda _: None, 7.0, 2.0)
    assert "a approved" not in caught.value.message
    assert clock.now == pytest.approx(107.0)


def test_an_interruption_goes_through_and_the_wait_can_be_taken_up_again(clock):
    turns = itertools.chain([statuses("pending")], itertools.repeat(statuses("approved")))

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_plan(lambda: next(turns), interrupted, None, 1.0)
    assert wait_for_plan(lambda: next(turns), lambda _: None, None, 1.0)["a"].is_allowed


@pytest.mark.parametrize("wrong", [{"timeout": -1}, {"timeout": "5"}, {"interval": None}, {"timeout": float("nan")}])
def test_times_that_are_none_are_refused(wrong):
    from fedplug import Experiment

    with Experiment(progress="quiet") as exp, pytest.raises(UsageError, match="number of seconds"):
        exp.wait_for_approval(**wrong)
