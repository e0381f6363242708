"""Krum and Multi-Krum against a slow independent version, with ties, counters and huge values."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, Update
from fedplug_robust import Krum, MultiKrum


def update(node, values, dtype=np.float64, n=0):
    return Update(node, Params.from_arrays({"w": np.asarray(values, dtype), "n": n}), 1)


def updates_of(rows, dtype=np.float64):
    return [update(f"n{i:02}", row, dtype, i) for i, row in enumerate(rows)]


def oracle(rows, hostile):
    """The places of the updates, best first, as the paper defines scores, in exact arithmetic."""
    exact = [[Fraction(float(value)) for value in row] for row in rows]

    def key(place):
        others = sorted(
            sum((a - b) ** 2 for a, b in zip(exact[place], exact[other], strict=True))
            for other in range(len(rows))
            if other != place
        )
        return sum(others[: len(rows) - hostile - 2]), sum(others), exact[place]

    return sorted(range(len(rows)), key=key)


def aggregated(rule, updates, start=None):
    return rule.aggregate(start or updates[0].params, updates, RoundContext())


@st.composite
def rounds(draw, values):
    hostile = draw(st.integers(0, 3))
    count = draw(st.integers(2 * hostile + 3, 2 * hostile + 6))
    size = draw(st.integers(1, 3))
    row = st.lists(values, min_size=size, max_size=size)
    return hostile, draw(st.lists(row, min_size=count, max_size=count))


@given(rounds(st.integers(-3, 3)), st.sampled_from([np.float16, np.float32, np.float64]))
def test_krum_among_small_numbers_that_tie(case, dtype):
    hostile, rows = case
    result = aggregated(Krum(hostile), updates_of(np.array(rows, dtype), dtype))["w"]
    np.testing.assert_array_equal(result, np.array(rows[oracle(rows, hostile)[0]], dtype))


@given(rounds(st.floats(-1e3, 1e3, width=32)))
def test_krum_among_any_numbers(case):
    """Where rounding decides, the chosen score is the lowest within rounding."""
    hostile, rows = case
    result = aggregated(Krum(hostile), updates_of(rows))["w"]

    def score(row):
        squares = sorted(
            sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(row, other, strict=True)) for other in rows
        )
        return sum(squares[1 : len(rows) - hostile - 1])

    assert result.tolist() in rows
    assert score(result.tolist()) <= min(map(score, rows)) * (1 + Fraction(1, 10**7))


@given(rounds(st.integers(-3, 3)), st.data())
def test_multi_krum(case, data):
    hostile, rows = case
    keep = data.draw(st.sampled_from([None, *range(1, len(rows) - hostile + 1)]))
    result = aggregated(MultiKrum(hostile, keep), updates_of(rows))
    chosen = oracle(rows, hostile)[: len(rows) - hostile - 2 if keep is None else keep]
    for column in range(len(rows[0])):
        exact = Fraction(sum(rows[place][column] for place in chosen), len(chosen))
        assert result["w"][column] == pytest.approx(float(exact), rel=1e-15, abs=0)


def test_multi_krum_of_one_is_krum():
    rng = np.random.default_rng(0)
    updates = updates_of(rng.normal(size=(9, 30)))
    assert aggregated(MultiKrum(2, keep=1), updates) == aggregated(Krum(2), updates)


@pytest.mark.parametrize("rule", [Krum(1), MultiKrum(1), MultiKrum(1, 4), Krum(0)])
@given(st.permutations(range(7)), st.booleans())
def test_no_bit_depends_on_who_sent_what(rule, order, ties):
    rng = np.random.default_rng(3)
    rows = rng.integers(-2, 3, (7, 5)) if ties else rng.normal(size=(7, 5))
    updates = [update(f"n{i}", row, np.float32, i) for i, row in enumerate(rows)]
    expected = aggregated(rule, updates)
    moved = [replace(updates[i], params=updates[place].params) for i, place in enumerate(order)]
    assert aggregated(rule, moved, updates[0].params) == expected


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("rule", [Krum(2), MultiKrum(2), MultiKrum(2, 1)])
def test_huge_values_never_win_and_never_overflow(rule, dtype):
    huge = {np.float16: 65504, np.float64: 1.7e308}.get(dtype, 3e38)
    rng = np.random.default_rng(0)
    honest = [np.asarray(rng.normal(size=20), dtype) for _ in range(5)]
    for first, second in ((huge, huge), (huge, -huge), (-huge, 1e4), (huge, 0.0)):
        rows = [*honest, np.full(20, first, dtype), np.full(20, second, dtype)]
        result = aggregated(rule, updates_of(rows, dtype))["w"].astype(np.float64)
        assert np.abs(result).max() < 5


@pytest.mark.parametrize("scale", [1e200, 1e300, 1e307])
def test_among_huge_values_the_best_is_still_found(scale):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 10))
    expected = oracle(rows, 2)
    result = aggregated(Krum(2), updates_of(rows * scale))["w"]
    np.testing.assert_array_equal(result, rows[expected[0]] * scale)
    several = aggregated(MultiKrum(2, 3), updates_of(rows * scale))["w"]
    np.testing.assert_allclose(several, rows[expected[:3]].mean(axis=0) * scale, rtol=1e-12)


def test_the_start_makes_no_difference():
    rng = np.random.default_rng(0)
    updates = updates_of(rng.normal(size=(9, 10)))
    expected = aggregated(Krum(2), updates)
    for value in (0.0, 1e6, -1e30, 1e300):
        start = update("s", np.full(10, value)).params
        assert aggregated(Krum(2), updates, start) == expected


def test_counters_come_from_the_chosen_update_or_from_its_honest_neighbours():
    near = [[0.0, 0], [0.1, 0], [0.0, 0.1], [0.1, 0.1], [0.05, 0.05], [9.0, 9.0]]
    updates = updates_of(near)  # the counters are 0, 1, 2, 3, 4, 5; the fifth is the best
    assert aggregated(Krum(1), updates)["n"] == 4
    liar = [*updates[:4], update("n4", near[4], n=10**12), updates[5]]
    assert aggregated(Krum(1), liar)["n"] == 5
    assert aggregated(Krum(0), liar)["n"] == 10**12
    for keep in (1, 2, 3):
        chosen = oracle(near, 1)[:keep]
        assert aggregated(MultiKrum(1, keep), updates)["n"] == min(max(round(sum(chosen) / keep), 1), 4)
    assert aggregated(MultiKrum(1), liar)["n"] <= 5


def test_the_result_is_a_copy():
    updates = updates_of(np.zeros((3, 4)))
    result = aggregated(Krum(0), updates)
    assert all(not np.shares_memory(result["w"], each.params["w"]) for each in updates)


def test_equivariance_up_to_ties():
    """Scores of three updates with nobody hostile always tie: the two that are nearest to each other have the same."""
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    for factor in (1.0, -1.0, 3.0, -0.25):
        result = aggregated(Krum(0), updates_of(rows * factor))["w"]
        np.testing.assert_array_equal(result, rows[1] * factor)  # of the two, the one nearer to the third
        np.testing.assert_array_equal(aggregated(Krum(0), updates_of(rows + factor))["w"], rows[1] + factor)
