from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.model import Load, Machine, cost_model
from benchmarks.scaling.tree import best_fan_out, fan_outs, level_seconds, level_time, plan

seconds = st.floats(min_value=1e-6, max_value=10)


@given(seconds, st.floats(min_value=0, max_value=1e3))
def test_the_best_fan_out_solves_its_equation(child, level):
    best = best_fan_out(child, level)
    assert best * (math.log(best) - 1) == pytest.approx(level / child, rel=1e-9, abs=1e-9)


@given(seconds, st.floats(min_value=0, max_value=1e3), st.floats(min_value=1.1, max_value=1e4))
def test_no_fan_out_is_better_than_the_best(child, level, other):
    def taken(fan_out):
        return math.log(1e6) / math.log(fan_out) * (fan_out * child + level)

    assert taken(best_fan_out(child, level)) <= taken(other) * (1 + 1e-9)


def test_a_level_that_costs_nothing_is_best_with_e_children():
    assert best_fan_out(1.0, 0.0) == pytest.approx(math.e)


@given(st.lists(st.tuples(seconds, st.floats(min_value=1, max_value=100)), min_size=1, max_size=4), seconds)
def test_equally_long_levels_are_the_fastest(levels, level):
    times, widths = zip(*levels, strict=True)
    leaves = math.prod(widths)
    other = sum(t * f + level for t, f in levels)
    assert level_time(leaves, len(levels), times, level) <= other * (1 + 1e-9)


@given(st.integers(min_value=1, max_value=10_000), st.integers(min_value=1, max_value=5), seconds, seconds)
def test_whole_fan_outs_reach_every_leaf(leaves, depth, leaf, inner):
    widths = fan_outs(leaves, depth, (leaf, inner))
    assert len(widths) == depth
    assert min(widths) >= 1
    assert math.prod(widths) >= leaves


@given(
    st.floats(min_value=1, max_value=1e6),
    st.floats(min_value=0.0, max_value=1.0),
    st.sampled_from([1e3, 1e6, 1e8]),
    st.sampled_from([2.0, 10.0, 60.0]),
)
def test_a_plan_holds_what_it_is_for(connected, share, model, heartbeat):
    costs, machine, limit = cost_model(), Machine(), 60.0
    load = Load(connected, max(1.0, connected * share * 0.01), model, heartbeat)
    found = plan(costs, load, machine, limit)
    assert found.widths[-1] == 1
    assert all(below > above for below, above in pairwise(found.widths))
    assert load.connected / found.widths[0] <= costs.most_connected(machine, heartbeat)[0]
    assert found.seconds <= limit * (1 + 1e-9)
    if len(found.widths) > 1:
        # one alone would have been too slow, or have had too many connections
        alone = level_seconds(costs, model, machine) + load.sampled * costs.child_seconds(model, machine)
        assert alone > limit or load.connected > costs.most_connected(machine, heartbeat)[0]


def test_a_time_that_no_tree_keeps_is_refused():
    with pytest.raises(ValueError, match="No tree brings"):
        plan(cost_model(), Load(1000, 1000, 1e8), Machine(), 0.1)


@pytest.mark.parametrize(("child", "level"), [(0.0, 1.0), (1.0, -1.0)])
def test_times_that_cannot_be_are_refused(child, level):
    with pytest.raises(ValueError, match="takes more than 0 seconds"):
        best_fan_out(child, level)
