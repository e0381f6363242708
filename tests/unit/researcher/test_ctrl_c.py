"""Ctrl-C at every moment of a round: it counts as a whole or not at all, and what follows is as if undisturbed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from line_experiments import ARGS, Momentum, experiment, federation
from moments import Moment, moments

from fedplug import Decision, Experiment, RoundContext, Strategy
from fedplug.core.ctrl_c import ctrl_c_waits
from fedplug.core.errors import RoundError

PRIVATE = {**ARGS, "dp_args": {"type": "central", "sigma": 1.0, "clip": 1.0}}


@pytest.fixture(autouse=True)
def _heard(fedplug_dir: Path) -> Iterator[None]:
    """Ctrl-C is what it is in a script; a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class Turns(Strategy):
    """Leaves out one node after the other, and gives one round up the first time."""

    def __init__(self, gives_up: int = -1) -> None:
        self.gives_up = gives_up
        self.gave_up = False
        self.asked: list[tuple[str, ...]] = []

    def select(self, ctx: RoundContext, nodes: Any) -> list[str]:
        self.asked.append(tuple(node for index, node in enumerate(nodes) if index != len(self.asked) % len(nodes)))
        return list(self.asked[-1])

    def judge(self, ctx: RoundContext, state: Any) -> Decision:
        if state.missing:
            return Decision("wait")
        if ctx.round == self.gives_up and not self.gave_up:
            self.gave_up = True
            return Decision("abort", "told to")
        return Decision("enough")

    def state_dict(self) -> dict[str, Any]:
        return {"asked": [list(nodes) for nodes in self.asked]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = [tuple(nodes) for nodes in state["asked"]]


Facts = tuple[Any, ...]


def facts(exp: Experiment) -> Facts:
    """Return what changes from round to round, but for times."""
    records = [each for each in exp.history.records() if each["phase"] not in ("timing", "traffic")]
    strategy, optimizer = exp.strategy(), exp.agg_optimizer()
    assert isinstance(strategy, Turns)
    assert isinstance(optimizer, Momentum)
    learnt = optimizer.velocity, tuple(strategy.asked)
    model = exp.params(), exp.training_plan().get_params()
    return exp.round_current(), *model, *learnt, records, exp.history.steps(), exp.privacy()


def made(gives_up: int = -1, **settings: Any) -> Experiment:
    given = {"agg_optimizer": Momentum(), "node_selection_strategy": Turns(gives_up), "save_breakpoints": False}
    return experiment(**{**given, "transport": federation("a", "b", "c"), **settings})


def undisturbed(**settings: Any) -> list[Facts]:
    """Return the facts after each of three rounds, and before the first."""
    with made(**settings) as exp:
        found = [facts(exp)]
        for _ in range(3):
            exp.run(1)
            found.append(facts(exp))
    return found


def run_with(exp: Experiment, moment: Moment) -> None:
    """Run a round, with Ctrl-C at that moment of it."""
    try:
        with moment:
            exp.run(1)
    except KeyboardInterrupt:
        assert moment.came


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "researcher/round_loop.py"),
        ({}, "researcher/trial.py"),
        ({}, "researcher/round.py:run"),
        ({}, "researcher/round.py:_finish"),
        ({}, "researcher/history.py:add_round"),
        ({"training_args": PRIVATE}, "core/privacy_ledger.py:note"),
        pytest.param({"save_breakpoints": True}, "researcher/round_loop.py", marks=pytest.mark.slow),
        ({"save_breakpoints": True}, "researcher/resume.py:breakpoint"),
        pytest.param({"save_breakpoints": True}, "researcher/round_journal.py", marks=pytest.mark.slow),
    ],
)
def test_a_round_counts_as_a_whole_or_not_at_all(settings: dict[str, Any], where: str) -> None:
    expected = undisturbed(**settings)
    came = 0
    for moment in moments(where, ctrl_c, calls_only=True):
        with made(**settings) as exp:
            exp.run(1)
            run_with(exp, moment)
            now = exp.round_current()
            assert facts(exp) == expected[now]
            assert now == 2 or moment.came
            exp.run(3 - now)
            assert facts(exp) == expected[3]
        came += moment.came
    assert came > 3


@pytest.mark.parametrize("where", ["researcher/trial.py", "researcher/round_loop.py:_give_up"])
def test_a_round_that_fails_is_taken_back_whenever_ctrl_c_comes(where: str) -> None:
    expected = undisturbed(training_args=PRIVATE)
    came = 0
    for moment in moments(where, ctrl_c, calls_only=True):
        with made(gives_up=1, training_args=PRIVATE) as exp:
            exp.run(1)
            with contextlib.suppress(RoundError):
                run_with(exp, moment)
            assert facts(exp) == expected[1]
            while exp.round_current() == 1:
                with contextlib.suppress(RoundError):  # if Ctrl-C came first
                    exp.run(1)
            assert facts(exp) == expected[2]
        came += moment.came
    assert came > 3


def test_what_a_test_finds_is_noted_as_a_whole_or_not_at_all() -> None:
    settings: dict[str, Any] = {"training_args": {**ARGS, "test_ratio": 0.25, "test_on_global_updates": True}}
    with made(**settings) as exp:
        exp.run(1)
        before = facts(exp)
        exp.evaluate()
        after = facts(exp)
    came = 0
    for moment in moments("researcher/history.py:add_round", ctrl_c, calls_only=True):
        with made(**settings) as exp:
            exp.run(1)
            with contextlib.suppress(KeyboardInterrupt), moment:
                exp.evaluate()
            assert facts(exp) in (before, after)
            exp.evaluate()
            assert facts(exp) == after
        came += moment.came
    assert came > 3


def test_ctrl_c_that_had_to_wait_is_heard_by_who_hears_it() -> None:
    heard: list[int] = []
    handler: Callable[..., None] = lambda number, frame: heard.append(number)  # noqa: E731
    signal.signal(signal.SIGINT, handler)
    with ctrl_c_waits():
        ctrl_c()
        ctrl_c()
        assert not heard
    assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler
    with contextlib.suppress(ZeroDivisionError), ctrl_c_waits():
        ctrl_c()
        heard.append(1 // 0)
    assert heard == [signal.SIGINT] * 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_where_ctrl_c_does_not_come_nothing_waits() -> None:
    """In a thread of its own an experiment has no signals to set; and what is ignored stays so."""
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def work() -> None:
        with ctrl_c_waits():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work()
    assert seen == [before, signal.SIG_IGN]
