"""The weighted mean against an exact oracle, on fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.mean import WeightedMean
from fedplug.core.params import Params

EPS64 = Fraction(1, 2**52)
TINIEST = Fraction(1, 2**1074)
"""Half of the smallest float64 is what a quotient near zero can lose."""

WEIGHTS = st.integers(1, 2**28)
FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
POSITIVE32 = st.floats(0, allow_infinity=False, width=32)
FLOAT64 = st.floats(-1e290, 1e290)
COUNTERS = st.integers(-(2**40), 2**40)


def terms(values, weights=WEIGHTS):
    """One to twelve rows ``(values of three arrays' elements, weight)``."""
    return st.lists(st.tuples(st.lists(values, min_size=3, max_size=3), weights), min_size=1, max_size=12)


def computed(rows, dtype):
    total = WeightedMean(Params.from_arrays({"w": np.zeros(3, dtype)}).spec)
    for values, weight in rows:
        total.add(Params.from_arrays({"w": np.array(values, dtype)}), weight)
    return total.result()["w"].tolist()


def exact(rows, column):
    weights = sum(weight for _, weight in rows)
    return sum(Fraction(values[column]) * weight for values, weight in rows) / weights


def largest(rows, column):
    return max(abs(Fraction(values[column])) for values, _ in rows)


def ulp32(value):
    """Distance of float32 numbers near ``value``."""
    return Fraction(2) ** (max(math.frexp(float(value))[1] - 1, -126) - 23)


@given(terms(FLOAT32))
def test_float32_is_within_one_ulp_and_the_rounding_of_a_float64_sum(rows):
    for column, got in enumerate(computed(rows, np.float32)):
        wanted = exact(rows, column)
        assert abs(Fraction(got) - wanted) <= ulp32(wanted) + len(rows) * EPS64 * largest(rows, column)


@given(terms(POSITIVE32))
def test_float32_is_within_one_ulp_where_nothing_cancels(rows):
    for sign in (1, -1):
        signed = [([sign * value for value in values], weight) for values, weight in rows]
        for column, got in enumerate(computed(signed, np.float32)):
            wanted = exact(signed, column)
            assert abs(Fraction(got) - wanted) <= ulp32(wanted)


@given(terms(FLOAT64))
def test_float64_is_within_n_eps_of_the_largest(rows):
    for column, got in enumerate(computed(rows, np.float64)):
        bound = len(rows) * EPS64 * largest(rows, column) + TINIEST
        assert abs(Fraction(got) - exact(rows, column)) <= bound


@given(terms(COUNTERS, st.integers(1, 2**8)))
def test_integers_are_the_nearest_to_the_exact_mean(rows):
    for column, got in enumerate(computed(rows, np.int64)):
        distance = abs(got - exact(rows, column))
        # the mean itself is rounded to float64 first, which can move it by eps of its size
        assert distance <= Fraction(1, 2) + EPS64 * largest(rows, column)


@given(terms(FLOAT32))
def test_one_term_comes_back_as_it_is(rows):
    values, weight = rows[0]
    assert computed([(values, weight)], np.float32) == values


@given(terms(FLOAT32), st.integers(1, 1000))
def test_equal_terms_give_that_value(rows, weight):
    values = rows[0][0]
    same = [(values, each) for _, each in rows] + [(values, weight)]
    for column, got in enumerate(computed(same, np.float32)):
        assert got == values[column]


@given(terms(FLOAT64), terms(FLOAT64, st.just(0)))
def test_terms_of_weight_zero_leave_every_bit(rows, zeros):
    assert computed([*zeros, *rows, *zeros], np.float64) == computed(rows, np.float64)


@given(st.lists(FLOAT32, min_size=1, max_size=12), st.lists(WEIGHTS, min_size=12, max_size=12))
def test_the_result_lies_among_the_terms(values, weights):
    rows = [([value] * 3, weight) for value, weight in zip(values, weights[: len(values)], strict=True)]
    got = computed(rows, np.float32)[0]
    assert min(values) <= got <= max(values)
