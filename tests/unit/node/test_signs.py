from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.messages import LogLine, Progress, TaskFailure, TaskKey
from fedplug.node.signs import (
    BURST,
    MOST_FAILURE,
    MOST_LINE,
    MOST_LINES,
    MOST_METRICS,
    MOST_TEXT,
    PER_SECOND,
    SignFilter,
    presentable,
)

KEY = TaskKey(experiment_id="e", round=0, node_id="n")
HIDDEN = {"/data/ward-7/rows.csv": "<data set>", "/data/ward-7": "<data>"}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def signs():
    return SignFilter(HIDDEN, Clock())


def line(text):
    return LogLine(level="info", text=text, key=KEY)


def progress(**more):
    return Progress(key=KEY, **more)


def test_lines_end_with_a_remark_and_then_in_silence(signs):
    passed = [found for n in range(MOST_LINES + 50) if (found := signs(line(f"line {n}")))]
    assert len(passed) == MOST_LINES + 1
    assert "the rest is not passed on" in passed[-1].text
    assert signs.dropped == 49


@given(st.lists(st.text(max_size=3 * MOST_LINE), max_size=60))
def test_lines_carry_no_more_than_so_much_text_however_they_are_cut(texts):
    signs = SignFilter(HIDDEN, Clock())
    passed = [found.text for text in texts if (found := signs(line(text))) and found.level == "info"]
    assert sum(map(len, passed)) <= MOST_TEXT
    assert all(len(text) <= MOST_LINE for text in passed)
    assert all(each.isprintable() or each in "\n\t" for text in passed for each in text)


def test_a_flood_of_progress_is_thinned_out_and_later_let_through_again():
    clock = Clock()
    signs = SignFilter({}, clock)
    assert sum(signs(progress(step=n)) is not None for n in range(BURST + 500)) == BURST
    clock.now = 2.0
    assert sum(signs(progress(step=n)) is not None for n in range(500)) == 2 * PER_SECOND


def test_names_of_figures_cannot_change_without_end(signs):
    names = set()
    for n in range(MOST_METRICS + 100):
        names |= set(signs(progress(step=n, metrics={f"row {n}": 1.0})).metrics)
    assert len(names) == MOST_METRICS
    assert signs(progress(step=1, metrics={"row 0": 2.0})).metrics == {"row 0": 2.0}


@pytest.mark.parametrize(
    "sign", [progress(step=-1), progress(samples=2**60), progress(phase="x" * 1000), progress(phase="\x1b[2J")]
)
def test_progress_that_is_none_is_not_passed_on(signs, sign):
    assert signs(sign) is None


def test_names_that_are_none_are_left_out(signs):
    assert signs(progress(step=1, metrics={"": 1.0, "a\x00": 1.0, "b" * 999: 1.0, "loss": 1.0})).metrics == {
        "loss": 1.0
    }


def test_only_what_grows_is_progress(signs):
    assert signs.is_progress(None)  # a batch begins
    assert not signs.is_progress(line("still there"))
    assert signs.is_progress(progress(step=1))
    assert not signs.is_progress(progress(step=1))
    assert not signs.is_progress(progress(step=0))
    assert signs.is_progress(progress(step=1, samples=5))
    assert signs.is_progress(progress(step=1, samples=5, phase="test-local"))
    phases = sum(signs.is_progress(progress(phase=f"phase {n}")) for n in range(10_000))
    assert phases <= MOST_METRICS


def test_paths_of_the_node_are_told_to_nobody(signs):
    text = "no column in /data/ward-7/rows.csv, nor in /data/ward-7/x"
    assert signs(line(text)).text == "no column in <data set>, nor in <data>/x"
    told = presentable(TaskFailure(key=KEY, code="plan-raised", text=text, details=text), HIDDEN)
    assert "ward" not in told.text + told.details


def test_a_failure_is_bounded_whatever_the_process_says():
    told = presentable(TaskFailure(key=KEY, code="x" * 999, text="\x1b" * 10**6, details="y" * 10**6), {})
    assert told.code == "plan-raised"
    assert len(told.text) == MOST_FAILURE
    assert "\x1b" not in told.text
    assert len(told.details) == 8000


def test_the_end_of_the_details_is_what_is_kept():
    assert (
        presentable(TaskFailure(key=KEY, code="policy", text="t", details="y" * 20_000 + "end"), {}).details[-3:]
        == "end"
    )
