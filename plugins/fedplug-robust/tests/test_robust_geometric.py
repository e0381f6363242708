"""The geometric median against a slow independent version, known points, and the condition of being lowest."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, Update
from fedplug_robust import CoordinateMedian, GeometricMedian


def updates_of(rows, weights=None, dtype=np.float64):
    counts = weights or [1] * len(rows)
    return [
        Update(f"n{i:02}", Params.from_arrays({"w": np.asarray(row, dtype), "n": i}), count)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True))
    ]


def aggregated(rule, updates, start=None):
    return rule.aggregate(start or updates[0].params, updates, RoundContext())


def oracle(rows, weights, smoothing, iterations):
    """Algorithm 2 of the paper, from the mean, in plain Python."""
    size = range(len(rows[0]))
    total = sum(weights)
    point = [math.fsum(w * row[j] for w, row in zip(weights, rows, strict=True)) / total for j in size]
    for _ in range(iterations):
        pulls = [w / max(smoothing, math.dist(point, row)) for w, row in zip(weights, rows, strict=True)]
        point = [math.fsum(p * row[j] for p, row in zip(pulls, rows, strict=True)) / math.fsum(pulls) for j in size]
    return point


def height(point, rows, weights=None):
    return math.fsum(w * math.dist(point, row) for w, row in zip(weights or [1] * len(rows), rows, strict=True))


def smoothed(point, rows, weights, smoothing):
    """The sum that the algorithm lowers: below ``smoothing`` a distance is replaced by a parabola that touches it."""
    lengths = [math.dist(point, row) for row in rows]
    heights = [d if d > smoothing else (d * d / smoothing + smoothing) / 2 for d in lengths]
    return math.fsum(w * h for w, h in zip(weights, heights, strict=True))


@given(st.integers(0, 10**6), st.integers(3, 9), st.integers(2, 6), st.booleans())
def test_against_the_slow_version(seed, count, size, weighted):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, size)).tolist()
    weights = rng.integers(1, 20, count).tolist() if weighted else [1] * count
    rule = GeometricMedian(1e-3, 2000, 1e-14, "samples" if weighted else "uniform")
    result = aggregated(rule, updates_of(rows, weights))["w"].tolist()
    slow = oracle(rows, weights, 1e-3, 2000)
    smooth = [smoothed(point, rows, weights, 1e-3) for point in (result, slow)]
    # where the lowest point is hardly not an update, both still creep towards it
    assert smooth[0] <= smooth[1] * (1 + 1e-6)


def test_in_many_dimensions_a_few_iterations_arrive():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 5000))
    rows[:4] += 3
    expected = oracle(rows.tolist(), [1] * 20, 1e-6, 60)
    np.testing.assert_allclose(aggregated(GeometricMedian(), updates_of(rows))["w"], expected, atol=1e-9)
    few = aggregated(GeometricMedian(iterations=8), updates_of(rows))["w"]
    np.testing.assert_allclose(few, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[7.0, -1.0]], [7, -1]),
        ([[0.0, 0], [4, 2]], [2, 1]),  # all points between are as good; the mean is one of them
        ([[0.0, 0], [1, 0], [0.5, math.sqrt(0.75)]], [0.5, math.sqrt(0.75) / 3]),
        ([[0.0, 0], [1, 1], [9, 9]], [1, 1]),
        ([[0.0, 0], [2, 0], [2, 2], [0, 2]], [1, 1]),
        ([[0.0, 0], [2, 0], [2, 2], [0, 2], [1, 1]], [1, 1]),
        ([[0.0, 0], [0, 0], [0, 0], [5, 5], [7, -3]], [0, 0]),
    ],
    ids=["one", "two", "equilateral", "in a line", "square", "with its center", "three agree"],
)
def test_points_that_are_known(rows, expected):
    result = aggregated(GeometricMedian(1e-9, 3000, 1e-13), updates_of(rows))["w"]
    np.testing.assert_allclose(result, expected, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(3, 8))
def test_no_point_nearby_is_lower(seed, count):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 3)).tolist()
    result = aggregated(GeometricMedian(1e-7, 3000, 1e-14), updates_of(rows))["w"]
    lowest = height(result.tolist(), rows)
    for step in (1e-1, 1e-2, 1e-3):
        for direction in rng.normal(size=(10, 3)):
            assert lowest <= height((result + step * direction).tolist(), rows) * (1 + 1e-6)


def test_weights_are_what_they_are_called():
    rows = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    updates = updates_of(rows, [100, 1, 1])
    heavy = aggregated(GeometricMedian(weighting="samples"), updates)["w"]
    np.testing.assert_allclose(heavy, [0, 0], atol=1e-6)
    equal = aggregated(GeometricMedian(), updates)["w"]
    assert equal.min() > 0.1
    steps = [replace(each, steps=count) for each, count in zip(updates, (1, 100, 1), strict=True)]
    np.testing.assert_allclose(aggregated(GeometricMedian(weighting="steps"), steps)["w"], [1, 0], atol=1e-6)
    absent = updates_of(rows, [1, 0, 0])
    np.testing.assert_array_equal(aggregated(GeometricMedian(weighting="samples"), absent)["w"], [0, 0])


@pytest.mark.parametrize(
    "rule", [GeometricMedian(), GeometricMedian(weighting="samples"), GeometricMedian(iterations=1)]
)
@given(st.permutations(range(6)))
def test_no_bit_depends_on_who_sent_what(rule, order):
    rng = np.random.default_rng(0)
    updates = updates_of(rng.normal(size=(6, 40)), [3, 1, 4, 1, 5, 9], np.float32)
    updates[5] = replace(updates[5], params=updates[2].params)
    expected = aggregated(rule, updates)
    moved = [
        replace(updates[i], params=updates[place].params, sample_count=updates[place].sample_count)
        for i, place in enumerate(order)
    ]
    assert aggregated(rule, moved, updates[0].params) == expected


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 5))
def test_a_weight_is_a_repetition_to_the_last_bit(seed, count, size):
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(size=(count, size)), rng.integers(1, 5, count).tolist()
    start = Params.from_arrays({"w": np.zeros(size)})

    def result(rule, pairs):
        updates = [Update(f"n{i:02}", Params.from_arrays({"w": row}), count) for i, (row, count) in enumerate(pairs)]
        return rule.aggregate(start, updates, RoundContext())

    rule = GeometricMedian(weighting="samples")
    expected = result(rule, zip(rows, weights, strict=True))
    repeated = [(row, 1) for row, weight in zip(rows, weights, strict=True) for _ in range(weight)]
    assert result(rule, repeated) == expected
    assert result(GeometricMedian(), repeated) == expected
    assert result(rule, [(row, 1000 * weight) for row, weight in zip(rows, weights, strict=True)]) == expected


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("iterations", [1, 100])
def test_huge_values_do_not_overflow_and_pull_no_harder_than_others(dtype, iterations):
    huge = {np.float16: 65504, np.float64: 1.7e308}.get(dtype, 3e38)
    rng = np.random.default_rng(0)
    honest = [np.asarray(rng.normal(size=20), dtype) for _ in range(5)]
    for liars in ([huge], [huge, huge], [huge, -huge], [-huge, 1e4], [huge, 0.0]):
        rows = [*honest, *(np.full(20, value, dtype) for value in liars)]
        result = aggregated(GeometricMedian(iterations=iterations), updates_of(rows, dtype=dtype))["w"]
        assert np.abs(result.astype(np.float64)).max() < 6


def test_liars_at_very_different_distances_do_not_blur_each_other():
    """What counts is in which direction they are, so the median hardly changes as they go further away."""
    rng = np.random.default_rng(0)
    rows, directions = rng.normal(size=(7, 12)), rng.normal(size=(4, 12))
    sizes = (
        [1e4] * 4,
        [1e6, 1e9, 1e12, 1e15],
        [1e5, 1e20, 1e20, 1e60],
        [1e8, 1e16, 1e24, 1e32],
        [1e90, 1e300, 1e5, 1e200],
    )
    results = [
        aggregated(GeometricMedian(), updates_of([*rows, *(directions.T * size).T]))["w"]
        for size in (np.array(each) for each in sizes)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[1], atol=1e-5)
    np.testing.assert_allclose(results[0], results[1], atol=1e-2)
    assert np.linalg.norm(results[1]) < 6


@pytest.mark.parametrize("scale", [1e30, 1e200, 1e307])
def test_a_large_model_is_a_small_one_enlarged(scale):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 10))
    small = aggregated(GeometricMedian(smoothing=1e-6), updates_of(rows))["w"]
    large = aggregated(GeometricMedian(smoothing=1e-6 * scale), updates_of(rows * scale))["w"]
    np.testing.assert_allclose(large / scale, small, rtol=1e-9)


def test_from_end_to_end_of_float64():
    top = np.finfo(np.float64).max
    for values in ([top, top, -top], [top, -top], [top, -top, 0.0], [-top, -top, -top, top]):
        result = aggregated(GeometricMedian(), updates_of([[value] for value in values]))["w"][0]
        assert min(values) <= result <= max(values)
    assert aggregated(GeometricMedian(), updates_of([[top]] * 3))["w"][0] == top


def test_one_iteration_is_no_worse_than_the_best_update():
    """The mean is where the liar wants it; so it starts at the best update, and never goes up from there."""
    rng = np.random.default_rng(0)
    rows = [*rng.normal(size=(5, 8)).tolist(), [1e9] * 8, [1e9] * 8]
    result = aggregated(GeometricMedian(iterations=1), updates_of(rows))["w"].tolist()
    assert height(result, rows) <= min(height(row, rows) for row in rows)
    assert math.dist(oracle(rows, [1] * 7, 1e-6, 1), [0] * 8) > 1e7  # the same from the mean


def test_counters_are_the_median_of_the_counters():
    updates = updates_of(np.random.default_rng(0).normal(size=(5, 3)))
    assert aggregated(GeometricMedian(), updates)["n"] == aggregated(CoordinateMedian(), updates)["n"] == 2
    weighted = [replace(each, sample_count=count) for each, count in zip(updates, (9, 1, 1, 1, 1), strict=True)]
    assert aggregated(GeometricMedian(weighting="samples"), weighted)["n"] == 0
    only = [Update(f"n{i}", Params.from_arrays({"n": i, "flag": i > 3}), 1) for i in range(5)]
    result = aggregated(GeometricMedian(), only)
    assert (result["n"], result["flag"]) == (2, False)
