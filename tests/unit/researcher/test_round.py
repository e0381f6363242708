"""The round: order of folding, what is refused, what the strategy sees. The nodes are scripted, nothing else is."""

from __future__ import annotations

import errno
import gc
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace as replace_state
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_kit import (
    START,
    Mean,
    Patient,
    Quorum,
    ScriptedPool,
    Together,
    canonical,
    make_round,
    make_updates,
    run,
)

from fedplug.core.aggregator import Aggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import DiskFullError, RoundError, TransportError, UsageError
from fedplug.core.mean import WeightedMean
from fedplug.core.messages import TaskFailure, TaskKey
from fedplug.core.params import LARGE, Params, ParamsSpec
from fedplug.core.pool import (
    Allocate,
    PoolEvent,
    TaskFailed,
    Watcher,
)
from fedplug.core.quorum import OverSelection, QuorumStrategy
from fedplug.core.strategy import Decision, RoundState, Strategy
from fedplug.core.update import Update
from fedplug.researcher import line
from fedplug.researcher.spool import Spool


@given(order=st.permutations([f"node-{i}" for i in range(6)]), eager=st.booleans(), tiny=st.booleans())
def test_arrival_order_does_not_change_a_bit(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], eager: bool, tiny: bool
) -> None:
    updates = make_updates(6)
    script = [(what, node) for node in order for what in (("offer", "fetch") if eager else ("offer",))]
    pool = ScriptedPool(updates, script)
    with pytest.MonkeyPatch.context() as patch:
        if eager:
            patch.setattr(line, "EARLY", 0.0)
        result = run(pool, tmp_path_factory.mktemp("spool"), budget=0 if tiny else 1 << 20)
    assert result.params == canonical(updates)
    assert sorted(pool.committed) == [f"exp/node-{i}" for i in range(6)]


def test_order_of_addition_would_matter_for_these_updates() -> None:
    """The test above proves something only if the order of the sum shows in its bits."""
    updates = make_updates(6)
    backwards = WeightedMean(START.spec)
    for index, node in reversed(list(enumerate(sorted(updates)))):
        backwards.add(updates[node], 10 + index)
    assert backwards.result() != canonical(updates)


def test_a_lost_node_that_comes_back_is_folded_in_its_place(tmp_path: Path) -> None:
    updates = make_updates(3)
    script = [
        ("lose", "node-0"), ("offer", "node-1"), ("fetch", "node-1"), ("offer", "node-2"), ("fetch", "node-2"),
        ("join", "node-0"), ("offer", "node-0"), ("fetch", "node-0"),
    ]  # fmt: skip
    result = run(ScriptedPool(updates, script), tmp_path, strategy=Patient())
    assert result.params == canonical(updates)
    assert result.dropped == {}


def test_an_early_update_waits_in_a_file_while_somebody_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "EARLY", 0.0)
    updates = make_updates(3)
    pool = ScriptedPool(updates, [("offer", "node-1"), ("offer", "node-2"), ("fetch", "node-2"), ("offer", "node-0")])
    round_ = make_round(pool, tmp_path, budget=updates["node-0"].nbytes)
    assert round_.run().params == canonical(updates)
    assert pool.in_file == {"node-2"}, "node-1 fits the budget, node-2 does not, node-0 is next in line"
    assert round_.spool.in_memory == 0, "memory that was given out must be given back"
    assert list(tmp_path.iterdir()) == [], "spool files must not be left behind"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_updates_that_come_within_a_moment_of_each_other_need_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    """Each waits at its node for its turn, in whatever order they end."""
    monkeypatch.setattr(line, "EARLY", 3600.0)
    monkeypatch.setattr(line, "PATIENCE", 3600.0)
    updates = make_updates(4)
    pool = ScriptedPool(updates, [("offer", f"node-{i}") for i in order])
    assert run(pool, tmp_path, budget=0).params == canonical(updates)
    assert pool.in_file == set()


def test_an_early_update_waits_for_its_own_time_at_its_node_not_for_as_long_as_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 3 has waited long enough when node 1 offers; node 2 has not, and then nobody before it is left."""
    updates = make_updates(4)
    now = [0.0]
    monkeypatch.setattr(line.time, "monotonic", lambda: now[0])

    class Slow(ScriptedPool):
        def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
            now[0] += 0.6 * line.EARLY
            return super().next_event(timeout, watch)

    script = [("offer", "node-3"), ("offer", "node-2"), ("offer", "node-1"), ("offer", "node-0")]
    pool = Slow(updates, script)
    assert run(pool, tmp_path, budget=0).params == canonical(updates)
    assert pool.in_file == {"node-3"}


def test_memory_is_not_exceeded_when_all_reply_at_once(tmp_path: Path) -> None:
    big = {f"node-{i}": Params.from_arrays({"w": np.full(1000, i, np.float64)}) for i in range(8)}
    start = Params.from_arrays({"w": np.zeros(1000)})

    class Counting(ScriptedPool):
        most = 0

        def fetch(
            self, key: TaskKey, allocate: Allocate | None = None, settle: Callable[[], None] | None = None
        ) -> None:
            super().fetch(key, allocate, settle)
            Counting.most = max(Counting.most, len(self.wanted))

    pool = Counting(big, [("offer", node) for node in sorted(big)])
    result = run(pool, tmp_path, start=start, budget=0)
    assert Counting.most == 1, "each update is fetched when its turn has come, not before"
    assert result.params["w"][0] == pytest.approx(sum(i * (10 + i) for i in range(8)) / sum(10 + i for i in range(8)))


def test_slow_transfers_are_not_waited_for_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a slow link the updates behind the first one are fetched side by side, into files."""
    monkeypatch.setattr(line, "PATIENCE", 0.0)
    updates = make_updates(3)
    pool = ScriptedPool(updates, [("offer", f"node-{i}") for i in range(3)])
    assert run(pool, tmp_path, budget=0).params == canonical(updates)
    assert pool.in_file == {"node-1", "node-2"}


def test_the_global_parameters_are_sent_as_one_object(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(4), [("offer", f"node-{i}") for i in range(4)])
    run(pool, tmp_path)
    assert len(pool.sent) == 4
    assert {id(params) for params in pool.sent} == {id(START)}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"w": np.zeros(6, np.float32), "b": np.zeros((2, 2)), "n": np.int64(0)}, "'w' has shape (6,), expected (5,)"),
        ({"w": np.zeros(5, np.float64), "b": np.zeros((2, 2)), "n": np.int64(0)}, "'w' has dtype float64"),
        ({"w": np.zeros(5, np.float32), "n": np.int64(0)}, "'b' is missing"),
        (
            {"w": np.zeros(5, np.float32), "b": np.zeros((2, 2)), "n": np.int64(0), "x": np.zeros(1)},
            "'x' is not part of the model",
        ),
        ({"w": np.full(5, np.nan, np.float32), "b": np.zeros((2, 2)), "n": np.int64(0)}, "not finite (NaN or infin"),
        ({"w": np.zeros(5, np.float32), "b": np.full((2, 2), -np.inf), "n": np.int64(0)}, "in 'b'"),
    ],
)
def test_an_unusable_update_is_refused_by_name_and_the_round_goes_on(
    tmp_path: Path, bad: dict[str, object], words: str
) -> None:
    updates = {**make_updates(3), "node-1": Params.from_arrays(bad)}
    pool = ScriptedPool(updates, [("offer", f"node-{i}") for i in range(3)])
    result = run(pool, tmp_path, strategy=Quorum(2))
    assert list(result.replies) == ["node-0", "node-2"]
    assert words in result.dropped["node-1"]
    assert "exp/node-1" in pool.committed, "the node must be told to forget it"


@pytest.mark.parametrize("count", [0, -1, 2**53])
def test_an_impossible_sample_count_is_refused_before_anything_is_fetched(tmp_path: Path, count: int) -> None:
    pool = ScriptedPool(make_updates(2), [("offer", "node-0"), ("offer", "node-1")])
    pool.samples["node-1"] = count
    result = run(pool, tmp_path, strategy=Quorum(1))
    assert str(count) in result.dropped.get("node-1", str(count))
    assert "node-1" not in result.replies


def test_a_failure_aborts_the_default_strategy_and_says_who_and_why(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(3), [("offer", "node-2"), ("fail", "node-0")])
    with pytest.raises(RoundError, match=r"node 'node-0' failed: boom") as caught:
        run(pool, tmp_path)
    assert caught.value.cure
    assert sorted(pool.cancelled) == ["node-1", "node-2"], "whoever still works is told to stop"


def test_quorum_is_enough_and_the_others_are_cancelled(tmp_path: Path) -> None:
    updates = make_updates(3)
    pool = ScriptedPool(updates, [("offer", "node-2"), ("fetch", "node-2"), ("fail", "node-1"), ("offer", "node-0")])
    strategy = Quorum(2)
    result = run(pool, tmp_path, strategy=strategy)
    assert list(result.replies) == ["node-0", "node-2"]
    assert result.dropped == {"node-1": "boom"}
    assert strategy.states[-1].missing == []


def test_too_few_for_the_quorum_aborts_with_the_strategys_words(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(2), [("fail", "node-0"), ("fail", "node-1")])
    with pytest.raises(RoundError, match="only 0 of 2 replied"):
        run(pool, tmp_path, strategy=Quorum(2))


def test_a_leftover_of_an_earlier_round_is_told_to_be_forgotten(tmp_path: Path) -> None:
    updates = make_updates(2)
    pool = ScriptedPool(updates, [("stale", "node-0"), ("offer", "node-0"), ("offer", "node-1")])
    assert run(pool, tmp_path).params == canonical(updates)
    assert pool.committed[0] == "earlier/node-0"


def test_a_second_offer_of_the_same_update_counts_once(tmp_path: Path) -> None:
    updates = make_updates(2)
    pool = ScriptedPool(
        updates,
        [("offer", "node-0"), ("offer", "node-0"), ("fetch", "node-0"), ("offer", "node-0"), ("offer", "node-1")],
    )
    assert run(pool, tmp_path).params == canonical(updates)


def test_an_aggregator_that_needs_all_gets_them_in_order_and_from_files(tmp_path: Path) -> None:
    updates = make_updates(4)
    together = Together()
    pool = ScriptedPool(updates, [("offer", f"node-{i}") for i in (3, 1, 0, 2)])
    result = run(pool, tmp_path, aggregator=together, budget=0)
    assert together.order == [f"node-{i}" for i in range(4)]
    expected = Params.stack_reduce([updates[f"node-{i}"] for i in range(4)], lambda x: x.mean(axis=0))
    assert result.params == expected


def test_an_aggregator_that_returns_nonsense_is_named(tmp_path: Path) -> None:
    class Broken(Together):
        def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
            return Params.from_arrays({"w": np.zeros(5, np.float32)})

    pool = ScriptedPool(make_updates(1), [("offer", "node-0")])
    with pytest.raises(RoundError, match="Broken returned parameters that do not fit the model: 'b' is missing"):
        run(pool, tmp_path, aggregator=Broken())
    assert pool.cancelled == ["node-0"]


def test_metrics_are_weighted_by_samples(tmp_path: Path) -> None:
    pool = ScriptedPool(
        {"a": make_updates(1)["node-0"], "bbb": make_updates(1)["node-0"]}, [("offer", "a"), ("offer", "bbb")]
    )
    result = run(pool, tmp_path)
    assert result.metrics == {"loss": pytest.approx((1 * 10 + 3 * 11) / 21)}


def test_nothing_of_a_round_is_kept(tmp_path: Path) -> None:
    """A finished round holds neither the updates nor their files."""
    import weakref

    updates = make_updates(3)
    pool = ScriptedPool(updates, [("offer", f"node-{i}") for i in range(3)])
    round_ = make_round(pool, tmp_path)
    result = round_.run()
    arrays = [weakref.ref(result.params)]
    del result, round_
    gc.collect()
    assert arrays[0]() is None


def test_a_node_that_was_lost_before_the_round_and_is_back_is_not_lost(tmp_path: Path) -> None:
    """Nobody reads events between two rounds, so what happened then is told in the middle of the next one."""
    updates = make_updates(2)
    pool = ScriptedPool(updates, [("was lost", "node-0"), ("offer", "node-0"), ("offer", "node-1")])
    result = run(pool, tmp_path)
    assert result.params == canonical(updates)
    assert result.dropped == {}


def test_a_node_that_is_back_is_waited_for_again(tmp_path: Path) -> None:
    pool = ScriptedPool(
        make_updates(2), [("lose", "node-0"), ("join", "node-0"), ("offer", "node-0"), ("offer", "node-1")]
    )
    strategy = Recording()
    run(pool, tmp_path, strategy=strategy)
    seen = [state.outcomes.get("node-0") for state in strategy.states]
    assert seen[:3] == [None, "lost", None]


class Recording(Patient):
    def __init__(self) -> None:
        self.states: list[RoundState] = []

    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        self.states.append(state)
        return super().judge(ctx, state)


def test_a_node_that_is_away_at_the_start_gets_its_task_when_it_is_back(tmp_path: Path) -> None:
    updates = make_updates(2)
    pool = ScriptedPool(updates, [("join", "node-0"), ("offer", "node-0"), ("offer", "node-1")])
    pool._away["node-0"] = pool._nodes.pop("node-0")
    assert run(pool, tmp_path, strategy=Patient()).params == canonical(updates)
    assert len(pool.sent) == 2, "the pool keeps the task until the node is there"


def test_a_node_cannot_fail_once_its_update_has_been_taken(tmp_path: Path) -> None:
    updates = make_updates(3)
    pool = ScriptedPool(
        updates,
        [("offer", "node-0"), ("fetch", "node-0"), ("fail", "node-0"), ("offer", "node-1"), ("offer", "node-2")],
    )
    result = run(pool, tmp_path, strategy=Quorum(3))
    assert result.params == canonical(updates)
    assert result.dropped == {}
    assert list(result.replies) == ["node-0", "node-1", "node-2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timing": {"train": -1.0}}, "timing 'train' is -1.0"),
        ({"timing": {"train": float("nan")}}, "timing 'train' is nan"),
        ({"steps": -1}, "step count of -1"),
    ],
)
def test_impossible_figures_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    pool = ScriptedPool(make_updates(1), [("odd", "node-0")])
    pool.changes = changes
    with pytest.raises(RoundError, match=re.escape(words)):
        run(pool, tmp_path)
    assert pool.wanted == {}, "nothing may be fetched"


def test_extra_arrays_without_measure_are_refused_before_they_are_fetched(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(1), [("odd", "node-0")])
    pool.aux = {"junk": ParamsSpec.build([("x", (1 << 28,), "float32")])}
    pool.changes = {"aux": ("junk",)}
    with pytest.raises(RoundError, match=r"1,073,741,824 bytes of extra arrays"):
        run(pool, tmp_path)
    assert pool.wanted == {}


def test_metrics_that_are_not_finite_are_no_reason_to_refuse_an_update(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(1), [("odd", "node-0")])
    pool.changes = {"metrics": {"loss": float("nan"), "acc": float("inf")}}
    assert list(run(pool, tmp_path).replies) == ["node-0"]


def test_what_a_node_says_cannot_take_over_the_terminal(tmp_path: Path) -> None:
    class Rude(ScriptedPool):
        def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
            return TaskFailed(TaskFailure(key=self.keys["node-0"], code="x", text="boom\x1b[2J\r\nsecond line"))

    with pytest.raises(RoundError) as caught:
        run(Rude(make_updates(1), []), tmp_path)
    assert "\x1b" not in str(caught.value)
    assert "\r" not in str(caught.value)
    assert "boom" in str(caught.value)
    assert "\nsecond line" in str(caught.value)


class RaisesInJudge(Patient):
    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        raise ZeroDivisionError("no nodes to divide by")


class AnswersNothing(Patient):
    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        return None  # type: ignore[return-value]


class AnswersOddly(Patient):
    def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
        return Decision("maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (RaisesInJudge(), "Strategy RaisesInJudge failed in judge: ZeroDivisionError: no nodes to divide by"),
        (AnswersNothing(), "Strategy AnswersNothing answered None"),
        (AnswersOddly(), "Strategy AnswersOddly answered 'maybe'"),
    ],
)
def test_a_strategy_that_does_wrong_is_named(tmp_path: Path, strategy: Strategy, words: str) -> None:
    pool = ScriptedPool(make_updates(1), [("offer", "node-0")])
    with pytest.raises(RoundError, match=re.escape(words)):
        run(pool, tmp_path, strategy=strategy)
    assert pool.cancelled == ["node-0"]


class RaisesInAggregate(Together):
    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        raise KeyError("momentum")


class RaisesInAccumulate(Mean):
    def accumulate(self, state: WeightedMean, update: Update) -> None:
        raise ValueError("not like this")


class ReturnsAnArray(Together):
    def aggregate(self, start: Params, updates: Sequence[Update], ctx: RoundContext) -> Params:
        return np.zeros(3)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("aggregator", "words"),
    [
        (RaisesInAggregate(), "Aggregator RaisesInAggregate failed in aggregate: KeyError: 'momentum'"),
        (RaisesInAccumulate(), "Aggregator RaisesInAccumulate failed in accumulate: ValueError: not like this"),
        (ReturnsAnArray(), "Aggregator ReturnsAnArray returned ndarray"),
    ],
)
def test_an_aggregator_that_does_wrong_is_named(tmp_path: Path, aggregator: Aggregator, words: str) -> None:
    pool = ScriptedPool(make_updates(1), [("offer", "node-0")])
    with pytest.raises(RoundError, match=re.escape(words)):
        run(pool, tmp_path, aggregator=aggregator)
    assert pool.cancelled == ["node-0"]


def test_what_ended_a_round_is_not_hidden_by_a_connection_that_is_gone(tmp_path: Path) -> None:
    class Broken(ScriptedPool):
        def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
            raise TransportError("the network card melted")

        def cancel(self, key: TaskKey, reason: str) -> None:
            raise UsageError("this connection was closed")

    with pytest.raises(TransportError, match="melted"):
        run(Broken(make_updates(2), []), tmp_path)


def test_a_failed_round_holds_no_update(tmp_path: Path) -> None:
    """The error keeps the round alive, in a notebook for hours; what it has gathered must not stay with it."""
    pool = ScriptedPool(make_updates(2), [("offer", "node-1"), ("fetch", "node-1"), ("fail", "node-0")])
    round_ = make_round(pool, tmp_path, aggregator=Together())
    with pytest.raises(RoundError):
        round_.run()
    assert all(task.update is None for task in round_._line)
    assert round_.spool.in_memory == 0


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with holes would be made without complaint, and a write into its mapping would kill the process."""

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    room = Spool(tmp_path, 0).room(100, in_file=True)
    with pytest.raises(DiskFullError, match="disk is full: there is no room for an update"):
        room.allocate(100)


def test_of_more_updates_than_are_needed_the_first_count(tmp_path: Path) -> None:
    """What is offered, or even under way, when the round is complete is neither folded nor kept."""
    updates = make_updates(4)
    script = [("offer", f"node-{i}") for i in range(4)] + [("fetch", "node-3"), ("fetch", "node-1")]
    pool = ScriptedPool(updates, script)
    result = run(pool, tmp_path, strategy=OverSelection(2, extra=1.0))
    assert list(result.replies) == ["node-1", "node-3"]
    mean = WeightedMean(START.spec)
    for index in (1, 3):
        mean.add(updates[f"node-{index}"], 10 + index)
    assert result.params == mean.result()
    why = "2 replies had come before its own, and no more were needed"
    assert result.dropped == {"node-0": why, "node-2": why}
    assert sorted(pool.cancelled) == ["node-0", "node-2"]
    assert sorted(pool.committed) == ["exp/node-1", "exp/node-3"]


def test_the_deadline_ends_a_round_and_the_result_says_who_was_late(tmp_path: Path) -> None:
    class Silent(ScriptedPool):
        def next_event(self, timeout: float | None, watch: Watcher | None = None) -> PoolEvent | None:
            return super().next_event(timeout, watch) if self.script or self.wanted else None

    class Late(QuorumStrategy):
        def judge(self, ctx: RoundContext, state: RoundState) -> Decision:
            return super().judge(ctx, replace_state(state, elapsed=60.0 if len(state.replied) == 2 else 59.0))

    pool = Silent(make_updates(3), [("offer", "node-0"), ("offer", "node-2")])
    result = run(pool, tmp_path, strategy=Late(2, deadline=60))
    assert result.dropped == {"node-1": "it had not replied by the deadline of 60 s"}
    assert pool.cancelled == ["node-1"]


def test_a_quorum_out_of_reach_ends_the_round_with_all_reasons(tmp_path: Path) -> None:
    pool = ScriptedPool(make_updates(3), [("fail", "node-0"), ("lose", "node-2")])
    with pytest.raises(
        RoundError, match=r"'node-0' failed \(boom\); 'node-2' lost \(silence for 6 s\); 'node-1' still"
    ):
        run(pool, tmp_path, strategy=QuorumStrategy(2))


def test_the_clock_of_a_round_runs(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="0 replies of the 1 needed had come by the deadline of 1e-06 s"):
        run(ScriptedPool(make_updates(2), []), tmp_path, strategy=QuorumStrategy(1, deadline=1e-6))


LARGE_START = Params.from_arrays({"w": np.zeros(LARGE // 4, np.float32)})


def _address(params: Params) -> int:
    return int(params["w"].__array_interface__["data"][0])


def test_large_updates_take_turns_in_the_same_memory_which_is_gone_before_the_result(tmp_path: Path) -> None:
    places: list[int] = []
    kept: list[object] = []

    class Looks(Mean):
        def accumulate(self, state: WeightedMean, update: Update) -> None:
            places.append(_address(update.params))
            super().accumulate(state, update)

        def finalize(self, state: WeightedMean) -> Params:
            kept.append(round_.spool.stock.take(LARGE))
            return super().finalize(state)

    updates = {f"node-{i}": Params.from_arrays({"w": np.full(LARGE // 4, i, np.float32)}) for i in range(3)}
    pool = ScriptedPool(updates, [("offer", node) for node in updates])
    round_ = make_round(pool, tmp_path, aggregator=Looks(), budget=0, start=LARGE_START)
    result = round_.run()
    assert len(places) == 3
    assert len(set(places)) == 1
    assert kept == [None]
    mean = WeightedMean(LARGE_START.spec)
    for index, params in enumerate(updates.values()):
        mean.add(params, 10 + index)
    assert result.params == mean.result()


def test_a_failed_round_keeps_no_memory_for_updates(tmp_path: Path) -> None:
    updates = {f"node-{i}": LARGE_START for i in range(2)}
    pool = ScriptedPool(updates, [("offer", "node-0"), ("fetch", "node-0"), ("fail", "node-1")])
    round_ = make_round(pool, tmp_path, budget=0, start=LARGE_START)
    with pytest.raises(RoundError):
        round_.run()
    assert round_.spool.stock.take(LARGE) is None
