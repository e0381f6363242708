"""Distances against exact arithmetic: of all sizes, near and far from the start, alone and of weighted means."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedplug_robust.distances as module
from fedplug import Params
from fedplug.core.errors import ParamsError
from fedplug_robust.distances import UNIT, Frame, Power, length, measured, pairwise


def params(values, dtype=np.float64):
    return Params.from_arrays({"w": np.asarray(values, dtype)})


def exact_square(a, b):
    return sum(
        (Fraction(float(x)) - Fraction(float(y))) ** 2
        for name in a
        for x, y in zip(a[name].flat, b[name].flat, strict=True)
    )


def root(square):
    """The square root of a Fraction in units of 2**UNIT, as a float."""
    with localcontext() as context:
        context.prec = 40
        context.Emax, context.Emin = 10**6, -(10**6)
        exact = (Decimal(square.numerator) / Decimal(square.denominator)).sqrt() / Decimal(2) ** UNIT
        return float(exact)


def check(start, many, tolerance=1e-8):
    found = pairwise(start, many)
    for i, a in enumerate(many):
        for j, b in enumerate(many):
            square = exact_square(a, b)
            assert found.lengths[i, j] == pytest.approx(root(square), rel=tolerance, abs=0)
            assert found.lengths[i, j] == found.lengths[j, i]
            if square < Fraction(10) ** 300:
                assert found.squares[i, j] == pytest.approx(float(square), rel=2 * tolerance, abs=0)
            else:
                assert found.squares[i, j] >= 1e299
            if square == 0:
                assert found.squares[i, j] == found.lengths[i, j] == 0
    return found


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), min_size=2, max_size=6))
def test_distances_are_exact_but_for_rounding(rows):
    start, *many = [params(np.array(row) * 2.0**-20) for row in [*rows, rows[0]]]
    check(start, many)


@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=3, max_size=3), min_size=2, max_size=6))
def test_squares_of_whole_distances_are_exact(rows):
    """So that equal scores are equal."""
    start, *many = [params(row, np.float32) for row in [*rows, rows[0]]]
    found = pairwise(start, many)
    assert found.squares.tolist() == [[float(exact_square(a, b)) for b in many] for a in many]


HUGE = [1e154, -1e200, 1e300, 1.7e308, -1.7e308]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -3.0, 1e-30, 1e30, *HUGE]), min_size=3, max_size=3), min_size=2, max_size=6
    )
)
def test_no_distance_is_too_large(rows):
    start, *many = [params(row) for row in [*rows, rows[0]]]
    check(start, many, 1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e-100, 1e100, 1e290])
@pytest.mark.parametrize("away", [0.0, 1.0, 1e4, 1e9])
def test_close_together_and_far_from_the_start(scale, away):
    rng = np.random.default_rng(0)
    center = rng.normal(size=50)
    many = [params((away * center + rng.normal(size=50)) * scale) for _ in range(5)]
    many += [many[1], params((away * center + 1e-3) * scale)]
    found = check(params(np.zeros(50)), many)
    assert found.products is None  # two are equal, so that they were measured by themselves


def test_who_is_far_away_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    many = [params(rng.normal(size=40)) for _ in range(4)]
    check(params(np.zeros(40)), [*many, params(np.full(40, 1e30)), params(np.full(40, -1e290))], 1e-13)


def test_pairs_are_only_measured_by_themselves_where_it_is_needed(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "length", lambda *args: asked.append(args) or length(*args))
    rng = np.random.default_rng(0)
    many = [params(rng.normal(size=40)) for _ in range(4)]
    assert pairwise(params(np.zeros(40)), many).products is not None
    assert not asked
    assert pairwise(params(np.zeros(40)), [*many, many[2]]).products is None
    assert len(asked) == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_narrow_numbers_are_measured_in_float64(dtype):
    rng = np.random.default_rng(0)
    many = [params(rng.normal(0, 1e4, 300), dtype) for _ in range(4)]
    many.append(params(np.full(300, np.finfo(np.float16).max if dtype == np.float16 else 3e38), dtype))
    check(many[0], many, 1e-12)


def test_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    many = [
        Params.from_arrays({"a": rng.normal(size=30_000).astype(np.float32), "n": i, "b": rng.normal(size=4000)})
        for i in range(5)
    ]
    whole = pairwise(many[0], many)
    monkeypatch.setattr(module, "_BLOCK_VALUES", 1)  # a thousand at a time
    monkeypatch.setattr(module, "_PAIR_BLOCK", 700)
    monkeypatch.setattr(module, "_DOT_BLOCK", 90)
    np.testing.assert_allclose(pairwise(many[0], many).squares, whole.squares, rtol=1e-12)
    one = length(many[0], many[3], measured(many[0].spec))
    assert one.value() == pytest.approx(whole.squares[0, 3], rel=1e-12)


def test_counters_have_no_part_unless_there_is_nothing_else():
    def model(w, n, flag=False):
        return Params.from_arrays({"w": np.float32(w), "n": n, "flag": flag})

    assert pairwise(model(0, 0), [model(1, 0), model(4, 900, True)]).squares[0, 1] == 9
    counters = [Params.from_arrays({"n": n, "flag": flag}) for n, flag in ((1, False), (4, True))]
    assert pairwise(counters[0], counters).squares[0, 1] == 10


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ParamsError, match="not finite"):
        pairwise(params([0.0, 0]), [params([0.0, 1]), params([value, 0]), params([1.0, 1])])


@given(st.lists(st.tuples(st.floats(0, 1e10), st.integers(-500, 500)), min_size=1, max_size=5))
def test_powers_are_added_up_across_all_sizes(pairs):
    total, exact = Power(0.0, 0), Fraction(0)
    for mantissa, exponent in pairs:
        total += Power(mantissa, exponent)
        exact += Fraction(mantissa) * Fraction(4) ** exponent
    if exact > Fraction(10) ** -290:
        assert total.root(UNIT) == pytest.approx(root(exact), rel=1e-12, abs=1e-300)


# weighted means -------------------------------------------------------------------------------------------------------


def frames(start, many, center):
    """The frame by both of its ways."""
    distances = pairwise(start, many)
    slow = module.Distances(distances.squares, distances.lengths, None)
    return [Frame.at(center, start, many, distances), Frame.at(center, start, many, slow)]


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e300])
@pytest.mark.parametrize("liar", [1.0, 1e6, 1e30, 1e300])
def test_distances_of_weighted_means(scale, liar):
    if scale * liar > 1e307:
        liar = 1e307 / scale
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 20)) * scale
    rows[5] = liar * scale * rng.choice([-1, 1], 20)
    many = [params(row) for row in rows]
    shares = rng.dirichlet(np.ones(6))
    shares[5] = 0.1 / max(liar, 1)
    shares /= shares.sum()
    exact_rows = [[Fraction(float(x)) for x in row] for row in rows]
    mean = [sum(Fraction(float(s)) * row[j] for s, row in zip(shares, exact_rows, strict=True)) for j in range(20)]
    wanted = [root(sum((m - x) ** 2 for m, x in zip(mean, row, strict=True))) for row in exact_rows]
    for frame in frames(params(np.zeros(20)), many, 2):
        np.testing.assert_allclose(frame.place(shares).lengths, wanted, rtol=1e-9)
        out = np.empty(20)
        frame.combine(0, shares, out)
        np.testing.assert_allclose(out, [float(m) for m in mean], rtol=1e-9, atol=1e-12 * scale)


def test_the_mean_of_equal_models_is_they_to_the_bit():
    values = np.random.default_rng(0).normal(size=50) / 3
    many = [params(values)] * 5
    for frame in frames(params(np.zeros(50)), many, 0):
        out = np.empty(50)
        frame.combine(0, np.full(5, 0.2), out)
        np.testing.assert_array_equal(out, values)
        assert not frame.place(np.full(5, 0.2)).lengths.any()
