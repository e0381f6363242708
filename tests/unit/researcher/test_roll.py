"""What becomes of the nodes of a round: who was asked, is away, comes back, takes another's place. Time is a number."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_kit import Mean, Patient, ScriptedPool, canonical, make_round, make_updates

from fedplug.core.aggregator import NodePayload
from fedplug.core.context import RoundContext
from fedplug.core.errors import RoundError
from fedplug.core.messages import LogLine, Progress, TaskFailure, TaskKey, TrainRequest
from fedplug.core.monitor import Monitor
from fedplug.core.quorum import QuorumStrategy
from fedplug.core.strategy import Decision, DefaultStrategy
from fedplug.researcher.roll import MOST_ENTRIES, Roll, outcome_of


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def key(node="a", attempt=0):
    return TaskKey(experiment_id="exp", round=0, node_id=node, attempt=attempt)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("interrupted", "interrupted"),
        ("update-lost", "interrupted"),
        ("not-approved", "refused"),
        ("budget", "refused"),
        ("dataset-changed", "refused"),
        ("node-stops", "refused"),
        ("plan-raised", "failed"),
        ("worker-died", "failed"),
    ],
)
def test_what_a_failure_means(code, outcome):
    assert outcome_of(TaskFailure(key=key(), code=code, text="")) == outcome


def test_the_strategy_sees_how_long_everybody_has_been_as_he_is(clock):
    roll = Roll(["a", "b", "c"], clock)
    clock.now += 10
    roll.sign("b")
    roll.close("a", "lost", "silence")
    clock.now += 5
    state = roll.state(others=lambda: ["d", "b"])
    assert state.since == {"a": 5, "b": 5, "c": 15}
    assert (state.elapsed, state.away, state.missing, [*state.others]) == (15, ["a"], ["b", "c"], ["d"])
    assert roll.silent(10) == ["c"]
    assert roll.silent(15.1) == []
    assert roll.back("a")
    assert not roll.back("a")
    assert roll.state().since["a"] == 0
    assert [(each.seconds, each.node_id, each.event) for each in roll.entries] == [(10, "a", "lost"), (15, "a", "back")]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["sign", "replied", "lost", "stalled", "failed", "back", "ask"]), st.sampled_from("abcd")
    ),
    max_size=25,
)


def seen(state):
    return (
        state.selected, dict(state.outcomes), dict(state.reasons), dict(state.since), dict(state.tries), state.added,
        {outcome: state.number(outcome) for outcome in ("replied", "lost", "stalled", "failed")},
    )  # fmt: skip


@given(actions=ACTIONS)
def test_a_state_that_a_strategy_keeps_stays_as_it_was_and_counts_right(actions):
    clock = Clock()
    roll = Roll(["a", "b", "c"], clock)
    kept = []
    for action, node in actions:
        clock.now += 1
        if action == "ask":
            roll.ask(node)
        elif node in roll.selected:
            roll.close(node, action, "why") if action not in ("sign", "back") else getattr(roll, action)(node)
        state = roll.state()
        kept.append((state, seen(state), dict(state.outcomes)))
    for state, before, outcomes in kept:
        assert seen(state) == before
        assert before[-1] == {each: [*outcomes.values()].count(each) for each in before[-1]}


def test_the_roll_copies_a_table_only_where_somebody_looks_at_it(clock):
    roll = Roll(["a", "b", "c"], clock)
    table = id(roll.outcomes)
    roll.state()
    roll.close("a", "replied")
    assert id(roll.outcomes) == table
    view = roll.state().outcomes.items()
    roll.close("b", "replied")
    assert id(roll.outcomes) != table
    assert dict(view) == {"a": "replied"}
    with pytest.raises(TypeError):
        roll.state().outcomes["c"] = "replied"


def test_progress_wakes_a_stalled_node_and_no_other(clock):
    roll = Roll(["a", "b", "c"], clock)
    roll.close("a", "stalled", "no progress")
    roll.close("b", "failed", "boom")
    roll.close("c", "lost", "gone")
    assert roll.sign("a")
    assert not roll.sign("b")
    assert not roll.sign("c"), "it is heard of when it is connected"
    assert not roll.sign("stranger")
    assert roll.outcomes == {"b": "failed", "c": "lost"}


def test_nodes_that_were_asked_later_stand_at_the_end(clock):
    roll = Roll(["c", "d"], clock)
    roll.close("d", "interrupted", "restarted")
    roll.ask("d")
    roll.ask("a")
    state = roll.state(others=lambda: ["a", "b"])
    assert (state.selected, state.added, state.tries, [*state.others]) == (("c", "d", "a"), ("a",), {"d": 2}, ["b"])
    assert state.missing == ["c", "d", "a"]
    assert [each.event for each in roll.entries] == ["interrupted", "asked again", "asked"]


def test_words_of_nodes_cannot_obey_a_terminal_and_the_roll_has_an_end(clock):
    roll = Roll(["a"], clock)
    assert "\x1b" not in roll.close("a", "failed", "\x1b[2Jboom")
    for _ in range(MOST_ENTRIES + 10):
        roll.close("a", "lost", "gone")
    assert len(roll.entries) == MOST_ENTRIES


# whole rounds ----------------------------------------------------------------------------------------------------


class Heard(Monitor):
    def __init__(self):
        self.events = []

    def dropped(self, node_id, reason):
        self.events.append(("dropped", node_id))

    def back(self, node_id):
        self.events.append(("back", node_id))

    def asked(self, node_id, *, again):
        self.events.append(("asked again" if again else "asked", node_id))


def round_of(pool, tmp_path, strategy, spare=()):
    """A round whose nodes are those of the pool but ``spare``, which may be asked besides."""
    work = make_round(pool, tmp_path, Mean(), strategy)
    chosen = tuple(node for node in work.job.ctx.node_ids if node not in spare)

    def plan_node(node: str, ctx: RoundContext, attempt: int) -> tuple[TrainRequest, NodePayload | None]:
        return TrainRequest(key=key(node, attempt), dataset_id="d", plan_class="Plan"), None

    job = replace(
        work.job,
        ctx=replace(work.job.ctx, node_ids=chosen, all_node_ids=work.job.ctx.node_ids),
        requests={node: work.job.requests[node] for node in chosen},
        plan_node=plan_node,
    )
    return type(work)(pool, job, work.spool, work.watch, Heard())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_restarted_node_gets_its_task_again_and_its_place_in_the_sum(tmp_path, place):
    updates = make_updates(3)
    again = sorted(updates)[place]
    others = [node for node in sorted(updates) if node != again]
    script = [("restart", again), *(("offer", node) for node in others), ("offer", again)]
    pool = ScriptedPool(updates, script)
    work = round_of(pool, tmp_path, DefaultStrategy())
    result = work.run()
    assert result.params == canonical(updates)
    assert pool.keys[again].attempt == 1
    assert work.last_attempt == 1
    assert [(each.node_id, each.event) for each in result.roll][:2] == [(again, "interrupted"), (again, "asked again")]
    assert work.monitor.events == [("dropped", again), ("asked again", again)]
    assert not result.dropped


def test_a_restart_after_the_offer_makes_it_offer_anew(tmp_path):
    updates = make_updates(2)
    first, second = sorted(updates)
    # the second waits for its turn in the sum when it is restarted
    pool = ScriptedPool(updates, [("offer", second), ("restart", second), ("offer", second), ("offer", first)])
    result = round_of(pool, tmp_path, DefaultStrategy()).run()
    assert result.params == canonical(updates)


def test_another_node_takes_the_place_of_one_that_fails(tmp_path):
    updates = make_updates(3)
    a, b, spare = sorted(updates)
    pool = ScriptedPool(updates, [("fail", a), ("offer", spare), ("offer", b)])
    strategy = QuorumStrategy(1.0, count=2, replace=True)
    work = round_of(pool, tmp_path, strategy, spare=[spare])
    result = work.run()
    assert sorted(result.replies) == [b, spare]
    assert work.job.ctx.node_ids == (a, b, spare)
    assert list(result.dropped) == [a]
    assert [(each.node_id, each.event) for each in result.roll][:2] == [(a, "failed"), (spare, "asked")]


def test_a_round_under_central_privacy_takes_nobody_in(tmp_path):
    updates = make_updates(3)
    a, _, spare = sorted(updates)
    work = round_of(ScriptedPool(updates, [("fail", a)]), tmp_path, QuorumStrategy(1.0, count=2, replace=True), [spare])
    work.job = replace(work.job, privacy=object())
    with pytest.raises(RoundError, match="2 replies needed, of which at most 1"):
        work.run()


class Asks(Patient):
    def __init__(self, who):
        self.who = who

    def judge(self, ctx, state):
        return Decision("wait", ask=(self.who,))


@pytest.mark.parametrize("who", ["node-0", "nobody"])
def test_a_strategy_can_ask_only_who_can_be_asked(tmp_path, who):
    pool = ScriptedPool(make_updates(2), [])
    with pytest.raises(RoundError, match=f"wants to ask '{who}'"):
        round_of(pool, tmp_path, Asks(who)).run()


class Signs(ScriptedPool):
    """Gives signs of life where the script says so, and lets time pass."""

    def __init__(self, updates, script, clock):
        super().__init__(updates, script)
        self.clock = clock

    def next_event(self, timeout, watch=None):
        what, node = self.script[0] if self.script else ("", "")
        if what not in ("step", "log", "old step", "wait"):
            return super().next_event(timeout, watch)
        self.script.popleft()
        self.clock.now += 6
        if what == "step":
            watch(Progress(key=self.keys[node], step=1), node)
        elif what == "old step":
            watch(Progress(key=key(node, 99), step=1), node)
        elif what == "log":
            watch(LogLine(level="info", text="still here", key=self.keys[node]), node)
        return None


def stalling(tmp_path, monkeypatch, clock, script, strategy):
    pool = Signs(make_updates(2), script, clock)
    work = round_of(pool, tmp_path, strategy)
    work.roll = Roll(work.job.ctx.node_ids, clock)
    monkeypatch.setattr("fedplug.researcher.round.time", SimpleNamespace(monotonic=clock))
    return work


def test_a_node_without_progress_is_stalled_and_may_go_on(tmp_path, monkeypatch, clock):
    script = [("step", "node-0"), ("old step", "node-1"), ("step", "node-0"), ("step", "node-1"), ("offer", "node-1"),
              ("offer", "node-0")]  # fmt: skip
    work = stalling(tmp_path, monkeypatch, clock, script, DefaultStrategy(silence=10, patience=100))
    result = work.run()
    assert [(each.seconds, each.node_id, each.event) for each in result.roll][:2] == [
        (12, "node-1", "stalled"), (24, "node-1", "back"),
    ]  # fmt: skip
    assert result.roll[0].reason == "it has made no progress for 10 s"
    assert len(result.replies) == 2
    assert ("back", "node-1") in work.monitor.events


def test_a_node_that_stays_stalled_ends_the_round(tmp_path, monkeypatch, clock):
    script = [("log", "node-0")] * 9
    work = stalling(tmp_path, monkeypatch, clock, script, DefaultStrategy(silence=10, patience=20))
    with pytest.raises(RoundError, match="'node-1' stalled: it has made no progress for 10 s, and was not back within"):
        work.run()
