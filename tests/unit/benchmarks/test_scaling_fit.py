from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.fit import fit

FEATURES = {"once": lambda _: 1.0, "each": lambda p: p[0], "square": lambda p: p[1]}
POINTS = [(n, m) for n in (1.0, 10.0, 100.0) for m in (1.0, 50.0)]
costs = st.floats(min_value=1e-6, max_value=1e3)


@given(st.tuples(costs, costs, costs))
def test_planted_costs_are_found_again(planted):
    found = fit(
        POINTS, [sum(c * f(p) for c, f in zip(planted, FEATURES.values(), strict=True)) for p in POINTS], FEATURES
    )
    # what is a millionth of everything else is lost in rounding; the prediction is not
    assert found.worst_error < 1e-6
    assert all(cost >= 0 for cost in found.coefficients.values())


def test_costs_and_errors_of_points_that_do_not_agree():
    found = fit([1.0, 1.0], [1.0, 2.0], {"it": lambda _: 1.0})
    # relative errors c - 1 and c / 2 - 1: the sum of their squares is smallest at c = 6 / 5
    assert found["it"] == pytest.approx(1.2)
    assert found.errors == pytest.approx((0.2, -0.4))
    assert found.typical_error == pytest.approx((0.1) ** 0.5)
    assert found.worst_error == pytest.approx(0.4)


def test_a_cost_that_would_be_negative_is_nothing():
    found = fit(
        [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], [1.0, 1.5, 0.9], {"each": lambda p: -p[0], "once": lambda p: p[1]}
    )
    assert found["each"] >= 0
    falling = fit([1.0, 2.0, 4.0], [4.0, 2.0, 1.0], {"once": lambda _: 1.0, "each": lambda p: p})
    assert falling["each"] == 0
    assert falling["once"] > 0


@pytest.mark.parametrize(
    ("points", "values", "features", "words"),
    [
        ([1.0], [1.0], {"a": lambda p: p, "b": lambda _: 1.0}, "measure more"),
        ([1.0, 2.0], [1.0, 0.0], {"a": lambda p: p}, "above zero"),
        ([1.0, 2.0], [1.0, 2.0], {"a": lambda p: p, "b": lambda _: 0.0}, "anything about b"),
    ],
    ids=["too few points", "no time", "nothing told"],
)
def test_what_cannot_be_fitted_is_refused(points, values, features, words):
    with pytest.raises(ValueError, match=words):
        fit(points, values, features)
