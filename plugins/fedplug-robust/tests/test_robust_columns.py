"""What is done value by value: selection networks, the mean of the middle, weighted medians; the order of updates."""

from __future__ import annotations

import itertools
import statistics
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, Update
from fedplug_robust import CoordinateMedian, TrimmedMean
from fedplug_robust.columns import NETWORK_ROWS, inner_mean_of, moved_inside, to_whole, weighted_median
from fedplug_robust.networks import extraction, merge_exchange, program
from fedplug_robust.order import by_values

FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}


def updates_of(columns, dtype=np.float64):
    """One update for each column of a two-dimensional list: its values are the column."""
    return [Update(f"n{i:03}", Params.from_arrays({"w": np.asarray(c, dtype)}), 1) for i, c in enumerate(columns)]


def aggregated(rule, updates):
    return rule.aggregate(updates[0].params, updates, RoundContext())["w"]


# networks -----------------------------------------------------------------------------------------------------------


def run(plan, rows):
    registers = [*rows, *(np.empty_like(rows[0]) for _ in range(plan.scratch))]
    for operation, a, b, out in plan.steps:
        (np.minimum if operation == "min" else np.maximum)(registers[a], registers[b], out=registers[out])
    return np.sort(np.stack([registers[place] for place in plan.inner]), axis=0)


@pytest.mark.parametrize("rows", range(1, 12))
def test_networks_are_right_for_all_inputs(rows):
    """By the 0-1 principle: what is right for all zeros and ones is right for all numbers."""
    values = np.array(list(itertools.product([0, 1], repeat=rows))).T
    before = values.copy()
    for cut in range((rows - 1) // 2 + 1):
        middle = run(program(rows, cut), list(values))
        np.testing.assert_array_equal(middle, np.sort(values, axis=0)[cut : rows - cut])
    np.testing.assert_array_equal(values, before)  # they are read-only


@pytest.mark.parametrize("rows", [13, 16, 17, 24, 25, 33, 64])
def test_large_networks_are_right_for_many_inputs(rows):
    values = np.random.default_rng(rows).integers(0, 9, (rows, 2000))
    for cut in {0, 1, 2, rows // 4, (rows - 1) // 2}:
        middle = run(program(rows, cut), list(values))
        np.testing.assert_array_equal(middle, np.sort(values, axis=0)[cut : rows - cut])


def test_a_network_without_one_comparator_is_wrong():
    """So the tests above can fail."""
    plan = program(7, 3)
    values = np.array(list(itertools.product([0, 1], repeat=7))).T
    for left_out in range(len(plan.steps)):
        steps = plan.steps[:left_out] + plan.steps[left_out + 1 :]
        shorter = type(plan)(steps, plan.scratch, plan.inner)
        registers = [*values, *(np.zeros_like(values[0]) for _ in range(plan.scratch))]
        for operation, a, b, out in shorter.steps:
            (np.minimum if operation == "min" else np.maximum)(registers[a], registers[b], out=registers[out])
        assert (registers[plan.inner[0]] != np.sort(values, axis=0)[3]).any()


def test_only_what_is_needed_is_compared():
    assert len(program(3, 1).steps) == 4  # the median of three
    assert len(program(16, 0).steps) == 0
    assert len(program(16, 7).steps) < 2 * len(merge_exchange(16))
    assert len(program(16, 1).steps) == 2 * len(extraction(16, 1)) - 2


# the mean of the middle -----------------------------------------------------------------------------------------------


def exact_middle(values, cut):
    middle = sorted(Fraction(float(value)) for value in values)[cut : len(values) - cut]
    return sum(middle) / len(middle)


def within_rounding(result, exact, dtype, count, largest):
    """To the nearest of its dtype, of a sum in float64 that has some rounding errors of its own."""
    slack = count * Fraction(float(np.finfo(np.float64).eps)) * Fraction(largest)
    ulp = Fraction(float(np.spacing(np.asarray(abs(result), np.float64).astype(dtype)).astype(np.float64)))
    return abs(Fraction(float(result)) - exact) <= ulp / 2 + slack


@pytest.mark.parametrize("dtype", FLOATS)
@given(rows=st.lists(st.lists(st.floats(-1e4, 1e4, width=16), min_size=3, max_size=3), min_size=1, max_size=9))
def test_median_is_that_of_the_standard_library(dtype, rows):
    updates = updates_of(rows, FLOATS[dtype])
    result = aggregated(CoordinateMedian(), updates)
    for column in range(3):
        values = [Fraction(float(update.params["w"][column])) for update in updates]
        exact = statistics.median(values)
        assert result[column] == np.asarray(float(exact)).astype(FLOATS[dtype])


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.49, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_trimmed_mean_against_fractions(trim, dtype, data):
    rule = TrimmedMean(trim)
    count = data.draw(st.integers(rule.tags.minimum_updates, 12))
    value = st.floats(-1e6, 1e6, width=32)
    rows = data.draw(st.lists(st.lists(value, min_size=2, max_size=2), min_size=count, max_size=count))
    result = aggregated(rule, updates_of(rows, FLOATS[dtype]))
    cut = trim if isinstance(trim, int) else int(Fraction(str(trim)) * count)
    for column in range(2):
        values = [np.asarray(row[column], FLOATS[dtype]) for row in rows]
        largest = max(abs(float(each)) for each in values)
        assert within_rounding(result[column], exact_middle(values, cut), FLOATS[dtype], count, largest)


@given(st.lists(st.lists(st.integers(-5, 5), min_size=4, max_size=4), min_size=1, max_size=8), st.integers(0, 3))
def test_whole_numbers_are_rounded_half_to_even(rows, trim):
    trim = min(trim, (len(rows) - 1) // 2)
    result = aggregated(TrimmedMean(trim), updates_of(rows, np.int64))
    for column in range(4):
        exact = exact_middle([row[column] for row in rows], trim)
        assert result[column] == round(exact)  # of a Fraction: half to even


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_whole_numbers_of_any_size_do_not_wrap_around(dtype):
    info = np.iinfo(dtype)
    for values in ([info.max] * 4, [info.min] * 4, [info.max, info.max - 1] * 2, [info.min, info.max] * 2):
        for rule in (CoordinateMedian(), TrimmedMean(0), TrimmedMean(1)):
            result = aggregated(rule, updates_of([[value] for value in values], dtype))
            assert min(values) <= int(result[0]) <= max(values)
    exact = aggregated(CoordinateMedian(), updates_of([[info.max], [info.max - 1], [info.min]], dtype))
    assert exact[0] == info.max - 1  # not rounded to a float64 on the way


def test_truth_values_follow_the_majority_and_a_tie_is_false():
    columns = [[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]]
    result = aggregated(CoordinateMedian(), updates_of(columns, np.bool_))
    assert result.dtype == np.bool_
    np.testing.assert_array_equal(result, [True, False, False, False])
    np.testing.assert_array_equal(
        aggregated(TrimmedMean(1), updates_of(columns[:3], np.bool_)), [True, True, False, False]
    )


@pytest.mark.parametrize(
    ("dtype", "huge"), [("float32", 3e38), ("float64", 1.7e308), ("bfloat16", 3e38), ("float16", 65504)]
)
@pytest.mark.parametrize("rule", [CoordinateMedian(), TrimmedMean(0), TrimmedMean(1), TrimmedMean(0.3)])
def test_huge_values_do_not_overflow(dtype, huge, rule):
    for values in ([huge] * 6, [-huge] * 6, [huge, -huge] * 3, [huge] * 4 + [1.0, 2.0], [1.0, 2.0, huge, huge, huge]):
        updates = updates_of([[value, 1.0] for value in values], FLOATS[dtype])
        result = aggregated(rule, updates).astype(np.float64)
        kept = [float(update.params["w"][0]) for update in updates]
        assert min(kept) <= result[0] <= max(kept)
        assert result[1] == 1


def test_sums_beyond_float64_have_the_mean_that_they_should():
    rows = [[1.7e308, 1.0], [1.6e308, 2.0], [1.2e308, 3.0], [-1e307, 6.0]]
    np.testing.assert_allclose(aggregated(TrimmedMean(0), updates_of(rows)), [1.1e308, 3], rtol=1e-15)
    np.testing.assert_allclose(aggregated(TrimmedMean(1), updates_of(rows)), [1.4e308, 2.5], rtol=1e-15)


def test_float64_means_stay_within_their_values():
    """``(0.1 + 0.1 + 0.1) / 3`` is more than 0.1."""
    assert (0.1 + 0.1 + 0.1) / 3 > 0.1
    assert aggregated(TrimmedMean(0), updates_of([[0.1]] * 3))[0] == 0.1
    tiny = np.finfo(np.float64).smallest_subnormal
    assert aggregated(TrimmedMean(1), updates_of([[tiny]] * 5))[0] == tiny


@pytest.mark.parametrize("count", [NETWORK_ROWS, NETWORK_ROWS + 1, 130, 600])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_many_updates_take_another_way_to_the_same_result(count, dtype):
    rng = np.random.default_rng(count)
    stack = rng.normal(0, 100, (count, 700)).astype(dtype)
    updates = updates_of(stack, dtype)
    wide = np.sort(stack.astype(np.float64), axis=0)
    for rule, cut in ((CoordinateMedian(), (count - 1) // 2), (TrimmedMean(0.2), count // 5), (TrimmedMean(0), 0)):
        expected = wide[cut : count - cut].mean(axis=0)
        expected = np.rint(expected) if dtype == "int32" else expected.astype(dtype)
        np.testing.assert_allclose(aggregated(rule, updates), expected, rtol=2e-3 if dtype == "float16" else 2e-7)


def test_a_model_of_many_arrays_and_dtypes_is_reduced_array_by_array():
    def params(seed):
        rng = np.random.default_rng(seed)
        return Params.from_arrays(
            {
                "a": rng.normal(size=(40, 500)).astype(np.float32),
                "n": np.int64(seed),
                "b": rng.normal(size=7),
                "empty": np.empty((0, 3), np.float32),
                "flag": np.array([seed > 2]),
                "h": rng.normal(size=5).astype(ml_dtypes.bfloat16),
            }
        )

    updates = [Update(f"n{seed}", params(seed), 1) for seed in range(5)]
    result = CoordinateMedian().aggregate(params(9), updates, RoundContext())
    for name in result:
        stack = np.stack([update.params[name] for update in updates])
        np.testing.assert_array_equal(result[name], np.sort(stack, axis=0)[2])
        assert result[name].shape == updates[0].params[name].shape
    assert result["n"] == 2


# to the last bit ------------------------------------------------------------------------------------------------------


@given(
    st.permutations(range(7)), st.sampled_from([CoordinateMedian(), TrimmedMean(0.15), TrimmedMean(0), TrimmedMean(2)])
)
def test_no_bit_depends_on_who_sent_what(order, rule):
    rng = np.random.default_rng(1)
    rows = [
        np.concatenate([rng.normal(0, 10.0 ** rng.integers(-8, 8), 30), [-0.0, 0.0][i % 2 :][:1]]) for i in range(7)
    ]
    expected = aggregated(rule, updates_of(rows))
    assert aggregated(rule, updates_of([rows[place] for place in order])).tobytes() == expected.tobytes()


def test_sums_do_depend_on_their_order():
    """So the test above can fail."""
    rows = [np.array([1.0]), np.array([2.0**-53]), np.array([2.0**-53])]
    forward, backward = np.empty(1), np.empty(1)
    inner_mean_of(rows, 0, forward)
    inner_mean_of(rows[::-1], 0, backward)
    assert forward != backward


# weighted medians -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(1, 4)), min_size=1, max_size=7),
)
def test_a_weighted_median_is_the_median_of_repetitions(pairs):
    values, weights = zip(*pairs, strict=True)
    out = np.empty(1, np.int64)
    weighted_median([np.array([value]) for value in values], np.array(weights, np.float64), out)
    repeated = [value for value, weight in pairs for _ in range(weight)]
    assert out[0] == round(Fraction(statistics.median([Fraction(value) for value in repeated])))


def test_weighted_medians_of_truth_values_and_of_long_vectors():
    out = np.empty(2, np.bool_)
    weighted_median(
        [np.array([True, True]), np.array([False, True]), np.array([False, False])], np.array([3.0, 1, 1]), out
    )
    np.testing.assert_array_equal(out, [True, True])
    stack = np.random.default_rng(0).integers(0, 1000, (5, 30_000))
    many = np.empty(30_000, np.int64)
    weighted_median(list(stack), np.ones(5), many)
    np.testing.assert_array_equal(many, np.sort(stack, axis=0)[2])


def test_values_are_moved_inside_the_middle_of_their_column():
    rows = [np.array(row) for row in ([0, 5], [1, 6], [2, 7], [3, 8], [99, 9])]
    out = np.empty(2, np.int64)
    for place, expected in enumerate(([1, 6], [1, 6], [2, 7], [3, 8], [3, 8])):
        moved_inside(rows[place], rows, 1, out)
        np.testing.assert_array_equal(out, expected)
    moved_inside(rows[4], rows, 0, out)
    np.testing.assert_array_equal(out, [99, 9])


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0.5, 1.5, -0.5, 2.4], "int32", [0, 2, 0, 2]),
        ([1e300, -1e300], "int64", [2**63 - 1024, -(2**63)]),
        ([1e300, -1.0], "uint64", [2**64 - 2048, 0]),
        ([300.0, -3.0], "uint8", [255, 0]),
        ([0.5, 0.6, 1.0, 0.0], "bool", [False, True, True, False]),
    ],
)
def test_whole_numbers_from_floats(values, dtype, expected):
    result = to_whole(np.array(values), np.dtype(dtype))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.array(expected, dtype))


# the order ------------------------------------------------------------------------------------------------------------

NUMBERS = {
    "float32": [-3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 2.0, 3e38],
    "float16": [-65504.0, -1.0, -0.0, 0.0, 6e-8, 7.0],
    "bfloat16": [-3e38, -1.0, 0.0, 1e-38, 1.0],
    "int8": [-128, -1, 0, 1, 127],
    "int64": [-(2**63), -5, 0, 2**63 - 1],
    "uint16": [0, 1, 255, 256, 65535],
    "bool": [False, True],
}


@pytest.mark.parametrize("dtype", NUMBERS)
def test_updates_are_ordered_by_their_values(dtype):
    kind = FLOATS.get(dtype, dtype)
    updates = [
        Update(f"n{i}", Params.from_arrays({"a": np.asarray([v], kind)}), 1) for i, v in enumerate(NUMBERS[dtype])
    ]
    for order in (updates[::-1], updates[1::2] + updates[::2]):
        assert by_values(order) == updates


@pytest.mark.parametrize("place", [0, 63, 64, 127, 128, 320, 1344, 5440, 100_000, 199_999])
def test_the_first_value_that_differs_is_found_wherever_it_is(place):
    updates = []
    for node, value in (("b", 1.0), ("a", 2.0)):
        w = np.zeros(200_000, np.float32)
        w[-1] = -value  # says the opposite, and comes last
        w[place] = value
        updates.append(Update(node, Params.from_arrays({"w": w}), 1))
    assert [each.node_id for each in by_values(updates[::-1])] == ["b", "a"]


def test_the_first_value_that_differs_decides_however_late_it_comes():
    def update(node, place, value, samples=1):
        w = np.zeros(500_000, np.float32)
        w[place] = value
        return Update(node, Params.from_arrays({"n": 3, "w": w, "v": 1.0}), samples)

    low, middle, high = update("z", 10, -1), update("y", 499_999, 1), update("x", 499_998, 1)
    assert by_values([high, low, middle]) == [low, middle, high]
    same = [update("c", 0, 1, 7), update("a", 0, 1, 9), update("b", 0, 1, 7)]
    assert [each.node_id for each in by_values(same)] == ["b", "c", "a"]
    assert by_values([]) == []
