"""The strategies of the kit draw what they promise."""

from __future__ import annotations

import numpy as np
from hypothesis import find, given
from hypothesis import strategies as st

from fedplug import Params
from fedplug.testing import strategies as fst
from fedplug.testing.cases import BOUND, Case, on_grid


@given(fst.layouts())
def test_layouts_are_small_and_of_known_dtypes(layout):
    assert 1 <= len(layout) <= 3
    assert len({name for name, _, _ in layout}) == len(layout)
    for _, shape, dtype in layout:
        assert len(shape) <= 2
        assert all(0 <= side <= 3 for side in shape)
        assert dtype in fst.DTYPES


@given(fst.params())
def test_params_are_finite_and_bounded(params):
    assert isinstance(params, Params)
    assert params.first_non_finite() == ""
    for array in params.values():
        assert np.all(np.abs(np.asarray(array, np.float64)) <= BOUND)


@given(st.data(), fst.layouts(dtypes=["float16", "int32"]), st.sampled_from([0.5, 3.0]))
def test_params_have_the_layout_and_the_bound_that_are_asked_for(data, layout, bound):
    params = data.draw(fst.params(layout, bound=bound))
    assert [(name, array.shape, array.dtype.name) for name, array in params.items()] == layout
    again = data.draw(fst.params(params.spec, bound=bound))
    assert again.spec == params.spec
    assert all(np.all(np.abs(np.asarray(array, np.float64)) <= bound) for array in again.values())


@given(st.data(), fst.layouts(), st.integers(1, 4) | st.none())
def test_updates_share_a_layout_and_are_in_sorted_node_order(data, layout, number):
    updates = data.draw(fst.updates(layout, number, max_count=5, weights=(3, 7)))
    assert number is None or len(updates) == number
    assert 1 <= len(updates) <= 5
    assert [u.node_id for u in updates] == sorted(u.node_id for u in updates)
    assert len({u.params.spec.table for u in updates}) == 1
    assert all(3 <= u.sample_count <= 7 and u.steps >= 1 and "loss" in u.metrics for u in updates)


@given(fst.rounds())
def test_rounds_are_whole(case):
    assert isinstance(case, Case)
    assert case.ctx.node_ids == tuple(update.node_id for update in case.updates)
    assert all(update.params.spec == case.start.spec for update in case.updates)


@given(fst.cases(3, rounds=2))
def test_cases_have_enough_updates_and_rounds(case):
    assert [len(updates) >= 3 for updates in case.rounds] == [True, True]
    assert any(array.dtype.kind == "f" for array in case.start.values())
    assert case.largest(next(iter(case.start))) <= BOUND


@given(fst.cases(), st.sampled_from([0.25, 3.0, 4.0]), st.integers(-8, 8))
def test_on_the_grid_scaling_and_shifting_are_exact(case, factor, shift):
    for update in on_grid(case).updates:
        for array in update.params.values():
            wide = np.asarray(array, np.float64)
            assert np.array_equal((wide * factor).astype(array.dtype).astype(np.float64), wide * factor)
            assert np.array_equal((wide + shift).astype(array.dtype).astype(np.float64), wide + shift)


def test_what_is_drawn_shrinks_to_little():
    params = find(fst.params(dtypes=["float64"]), lambda p: any(np.any(a > 1) for a in p.values()))
    (array,) = params.values()
    assert array.shape == ()
    assert array == 2
