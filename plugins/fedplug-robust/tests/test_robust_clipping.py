"""Norm clipping: against exact arithmetic, FedAverage where nothing is long, and limits that hold whatever is sent."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params, RoundContext, Update, WeightedMean
from fedplug_robust import NormClipping

VALUES = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)


def params(values, dtype=np.float64):
    half = len(values) // 2
    return Params.from_arrays({"a": np.asarray(values[:half], dtype), "b": np.asarray(values[half:], dtype)})


def aggregated(rule, start, updates):
    return rule.aggregate(start, updates, RoundContext())


def flat(model):
    return np.concatenate([np.asarray(model[name], np.float64).ravel() for name in model])


@pytest.mark.parametrize("weighting", ["samples", "steps", "uniform"])
@given(
    start=VALUES,
    rows=st.lists(st.tuples(VALUES, st.integers(1, 99), st.integers(1, 9)), min_size=1, max_size=5),
    limit=st.floats(0.01, 300),
)
def test_against_exact_differences(weighting, start, rows, limit):
    updates = [Update(f"n{i}", params(values), samples, steps) for i, (values, samples, steps) in enumerate(rows)]
    result = flat(aggregated(NormClipping(limit, weighting), params(start), updates))
    weights = [{"samples": u.sample_count, "steps": u.steps, "uniform": 1}[weighting] for u in updates]
    total = [Fraction(0)] * 4
    for weight, (values, _, _) in zip(weights, rows, strict=True):
        difference = [Fraction(v) - Fraction(s) for v, s in zip(values, start, strict=True)]
        norm = math.sqrt(sum(d * d for d in difference))
        factor = Fraction(min(1.0, limit / norm)) if norm else Fraction(1)
        total = [t + weight * factor * d for t, d in zip(total, difference, strict=True)]
    expected = [float(Fraction(s) + t / sum(weights)) for s, t in zip(start, total, strict=True)]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    assert math.dist(result, start) <= limit * (1 + 1e-12) + 1e-12


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_where_nothing_is_long_it_is_the_plain_mean(rows):
    updates = [Update(f"n{i}", params(values, np.float32), i + 1) for i, values in enumerate(rows)]
    mean = WeightedMean(updates[0].params.spec)
    for update in updates:
        mean.add(update.params, update.sample_count)
    result = aggregated(NormClipping(1e6), params([1.0, 2, 3, 4], np.float32), updates)
    np.testing.assert_allclose(flat(result), flat(mean.result()), rtol=3e-7, atol=1e-12)


def test_the_norm_is_over_all_arrays_together():
    start = Params.from_arrays(
        {"a": np.zeros(2, np.float32), "n": 5, "b": np.zeros((1, 1)), "h": np.zeros(1, np.float16)}
    )
    trained = Params.from_arrays({"a": np.float32([2, 4]), "n": 5, "b": [[5.0]], "h": np.float16([2])})
    result = aggregated(NormClipping(3.5), start, [Update("n", trained, 1)])
    np.testing.assert_allclose(flat(result), [1, 2, 5, 2.5, 1])  # |d| is 7


def test_counters_do_not_drown_the_parameters_and_have_a_limit_of_their_own():
    def model(w, n, flag):
        return Params.from_arrays({"w": np.float32([w]), "n": n, "flag": np.array([flag])})

    start, honest = model(0, 100, False), model(0.5, 102, False)
    result = aggregated(NormClipping(4), start, [Update("a", honest, 1), Update("b", model(0.5, 103, True), 2)])
    assert (result["w"][0], result["n"], result["flag"][0]) == (0.5, 103, True)
    busy = Update("a", model(0.5, 1100, False), 1)  # a thousand steps are no reason to shorten its parameters
    result = aggregated(NormClipping(4), start, [busy])
    assert (result["w"][0], result["n"]) == (0.5, 104)
    liar = Update("b", model(0.5, 2**62, True), 2**52)
    result = aggregated(NormClipping(4), start, [Update("a", honest, 1), liar])
    assert result["n"] == 104
    assert aggregated(NormClipping(2, "uniform"), start, [Update("a", honest, 1), liar])["n"] == 102


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_huge_updates_become_short(dtype):
    huge = {np.float16: 65504, np.float64: 1.7e308}.get(dtype, 3e38)
    start = params([1.0, -1, 1, -1], dtype)
    for values in ([huge] * 4, [huge, -huge, -huge, 0], [huge, 0, 0, 1]):
        rule = NormClipping(0.25)
        result = flat(aggregated(rule, start, [Update("n", params(values, dtype), 7)]))
        direction = np.array(values) / huge / np.linalg.norm(np.array(values) / huge)
        # of bfloat16, numbers near 1 are 2**-7 apart
        np.testing.assert_allclose(
            result, [1, -1, 1, -1] + 0.25 * direction, atol=4e-3 if dtype != np.float64 else 1e-15
        )
    far = params([huge, -huge, huge, -huge], dtype)
    back = flat(aggregated(NormClipping(1.0), far, [Update("n", params([-huge, huge, 0, 0], dtype), 1)]))
    np.testing.assert_allclose(back, flat(far), rtol=1e-2)


def test_updates_are_folded_one_at_a_time_and_not_kept():
    start = params([0.0] * 4)
    updates = [Update(f"n{i}", params([i + 1.0] * 4), i + 1) for i in range(5)]
    rule = NormClipping(3.0)
    state = rule.begin(start, RoundContext())
    for update in updates:
        rule.accumulate(state, update)
    assert rule.finalize(state) == aggregated(rule, start, updates)
    assert sum(total.size for total in state.totals) == 4


def test_a_change_moves_the_result_by_no_more_than_its_share():
    rng = np.random.default_rng(0)
    start = params(np.zeros(4))
    for _ in range(200):
        updates = [Update(f"n{i}", params(rng.normal(0, 2, 4)), int(rng.integers(1, 50))) for i in range(4)]
        rule = NormClipping(1.5)
        before = flat(aggregated(rule, start, updates))
        place = int(rng.integers(4))
        moved = params(flat(updates[place].params) + rng.normal(0, rng.choice([0.1, 10]), 4))
        distance = math.dist(flat(moved), flat(updates[place].params))
        changed = [*updates[:place], Update("x", moved, updates[place].sample_count), *updates[place + 1 :]]
        assert (
            math.dist(flat(aggregated(rule, start, changed)), before) <= rule.largest_share(updates) * distance + 1e-12
        )
