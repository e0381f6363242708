"""The oracles of the kit against Python's statistics, and our means and medians against the oracles."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, WeightedMean
from fedplug.testing import strategies as fst
from fedplug.testing.oracles import (
    exact,
    exact_mean,
    exact_median,
    exact_trimmed_mean,
    mean_bound,
    ulp,
    ulps,
)

FLOATS = st.floats(-8, 8)
MANY = st.lists(FLOATS, min_size=1, max_size=9)


@given(MANY, st.data())
def test_means_and_medians_are_those_of_pythons_statistics(values, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    arrays = [np.array([value]) for value in values]
    fractions = [Fraction(value) for value in values]
    repeated = [each for each, weight in zip(fractions, weights, strict=True) for _ in range(weight)]
    assert exact_mean(arrays, weights)[0] == sum(repeated) / len(repeated)
    assert exact_median(arrays)[0] == statistics.median(fractions)
    cut = data.draw(st.integers(0, (len(values) - 1) // 2))
    inner = sorted(fractions)[cut : len(fractions) - cut]
    assert exact_trimmed_mean(arrays, cut)[0] == sum(inner) / len(inner)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_unit_in_the_last_place_is_numpys_spacing(dtype):
    facts = np.finfo(dtype)
    for value in (1.0, 1.5, 2.0, 0.75, 3.1, facts.tiny, facts.tiny / 2, facts.smallest_subnormal, 0.0, facts.max / 2):
        number = dtype(value)
        assert ulp(float(number), dtype) == Fraction(float(np.spacing(abs(number)))), value
        assert ulp(-float(number), dtype) == ulp(float(number), dtype)
    assert ulp(Fraction(1, 3), np.int64) == 1


@given(st.floats(-1e300, 1e300))
def test_the_unit_of_any_float_is_numpys_spacing(value):
    assert ulp(value, np.float64) == Fraction(float(np.spacing(abs(value))))


@given(st.fractions(-1000, 1000))
def test_a_correctly_rounded_result_is_off_by_at_most_one_half(value):
    wanted = np.array([value], object)
    assert ulps(np.array([float(value)]), wanted) <= 0.5
    # rounded twice, to float64 and to float32
    assert ulps(np.array([float(value)], np.float32), wanted) <= 0.5 + 1e-8


def test_distances_of_what_is_not_finite_or_of_another_shape():
    wanted = exact(np.ones(2))
    assert ulps(np.array([1.0, np.nan]), wanted) == math.inf
    assert ulps(np.array([1.0, 1 + 2**-50]), wanted) == 4
    assert ulps(np.empty(0), exact(np.empty(0))) == 0
    with pytest.raises(ValueError, match="has shape"):
        ulps(np.ones(3), wanted)
    with pytest.raises(ValueError, match="cannot be cut"):
        exact_trimmed_mean([np.ones(1)] * 4, 2)
    assert exact_mean([np.float64(1), np.float64(2)]).shape == ()


def test_a_bound_that_no_number_can_hold_is_infinite():
    assert mean_bound([np.array([4.0, 0.0])], np.float64) == math.inf


@given(fst.rounds(dtypes=["float32", "float16", "float64", "int64"]))
def test_our_mean_is_within_its_bound(case):
    mean = WeightedMean(case.start.spec)
    for update in case.updates:
        mean.add(update.params, update.sample_count)
    result, weights = mean.result(), [update.sample_count for update in case.updates]
    for name in result:
        arrays = [update.params[name] for update in case.updates]
        assert ulps(result[name], exact_mean(arrays, weights)) <= mean_bound(arrays, result[name].dtype, weights)


@given(fst.rounds(dtypes=["float32", "float64"]))
def test_numpys_median_is_rounded_once(case):
    result = Params.stack_reduce([update.params for update in case.updates], lambda x: np.median(x, axis=0))
    for name in result:
        assert ulps(result[name], exact_median([update.params[name] for update in case.updates])) <= 1
