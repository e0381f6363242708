"""Training curves: what is kept when there is more than fits."""

from __future__ import annotations

from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.researcher import training_curves
from fedplug.researcher.training_curves import ALL_POINTS, FEWEST_POINTS, MOST_POINTS, Curve, TrainingCurves


@given(count=st.integers(1, 400), limit=st.integers(2, 40))
def test_a_curve_keeps_every_so_manieth_point_and_the_newest(count, limit):
    curve = Curve()
    for step in range(count):
        curve.add((0, step, float(step)), limit)
    steps = [step for _, step, _ in curve.points]
    expected = sorted({*range(0, count, curve.stride), count - 1})
    assert steps == expected
    assert len(steps) <= limit
    assert curve.stride & (curve.stride - 1) == 0
    assert curve.stride == 1 or len(range(0, count, curve.stride // 2)) + 1 > limit  # no more than needed


@given(first=st.integers(1, 90), second=st.integers(1, 90), limit=st.integers(4, 20))
def test_a_round_that_is_run_again_leaves_the_rounds_before_it(first, second, limit):
    with patch.object(training_curves, "_limit", lambda curves: limit):
        curves = TrainingCurves()
        for number, count in ((0, first), (1, second)):
            curves.begin(number)
            for step in range(count):
                curves.add("n", number, step, {"loss": float(step)})
            if number == 0:
                curves.end({"n": first})
        curves.begin(1)
        kept = curves.points("loss")["n"]
        assert all(number == 0 for number, _, _ in kept)
        for step in range(second):
            curves.add("n", 1, step, {"loss": -1.0})
        again = curves.points("loss")["n"]
        assert len(again) <= limit
        assert [step for _, step, _ in again] == sorted({step for _, step, _ in again})
        assert again[-1] == (1, first + second - 1, -1.0)


def test_all_curves_together_are_bounded():
    curves = TrainingCurves()
    curves.begin(0)
    for step in range(600):
        curves.add("n0", 0, step, {"loss": 1.0})
    assert len(curves.points("loss")["n0"]) <= MOST_POINTS
    nodes = [f"n{i}" for i in range(300)]
    for step in range(600, 800):
        for node in nodes:
            curves.add(node, 0, step, {"loss": 1.0})
    sizes = [len(points) for points in curves.points("loss").values()]
    assert len(sizes) == 300
    assert sum(sizes) <= ALL_POINTS
    assert min(sizes) >= FEWEST_POINTS // 2


def test_a_node_cannot_flood_with_metrics():
    curves = TrainingCurves()
    curves.begin(0)
    curves.add("n", 0, 1, {f"m{i}": 1.0 for i in range(1000)})
    assert sum(bool(curves.points(f"m{i}")) for i in range(1000)) == 8


def test_steps_that_no_node_can_have_done():
    curves = TrainingCurves()
    curves.begin(0)
    curves.add("n", 0, -5, {"loss": 1.0})
    curves.add("n", 0, 2**80, {"loss": 1.0})
    curves.end({"n": 2**63 - 1})
    curves.begin(1)
    curves.add("n", 1, 2**80, {"loss": 2.0})
    assert TrainingCurves.from_plain(curves.to_plain()).points("loss") == curves.points("loss")
    with pytest.raises(msgspec.ValidationError):
        TrainingCurves.from_plain({"curves": {}, "offsets": {"n": -1}})
