from __future__ import annotations

import numpy as np
import pytest

from fedplug.core.errors import NoUpdatesError, ParamsError, UpdateRejectedError
from fedplug.core.mean import WeightedMean
from fedplug.core.params import BLOCK, Params


def mean(*terms):
    total = WeightedMean(terms[0][0].spec)
    for params, weight in terms:
        total.add(params, weight)
    return total


def p(**arrays):
    return Params.from_arrays(arrays)


def test_a_weighted_mean_by_hand():
    result = mean((p(w=np.float32([0, 4])), 1), (p(w=np.float32([4, 0])), 3)).result()
    assert result["w"].dtype == np.float32
    assert result["w"].tolist() == [3.0, 1.0]


def test_integers_are_rounded_half_to_even():
    terms = [(p(n=np.int64(n), b=np.uint8(n)), 1) for n in (2, 3)]
    assert mean(*terms).result()["n"] == 2
    assert mean(*terms, *terms[1:]).result()["b"] == 3


def test_bools_take_the_majority():
    terms = [(p(m=np.bool_([True, True])), 1), (p(m=np.bool_([True, False])), 2)]
    assert mean(*terms).result()["m"].tolist() == [True, False]


def test_more_than_one_block():
    size = 2 * BLOCK + 17
    a, b = np.arange(size, dtype=np.float32), np.ones(size, np.float32)
    result = mean((p(w=a, v=b), 1), (p(w=b, v=a), 1)).result()
    np.testing.assert_array_equal(result["w"], ((a.astype(float) + b) / 2).astype(np.float32))
    np.testing.assert_array_equal(result["v"], result["w"])


def test_a_weight_of_zero_leaves_every_bit():
    one = p(w=np.float32([0.1, -0.0]))
    with_zero = mean((p(w=np.float32([np.pi, 9])), 0), (one, 7), (p(w=np.float32([5, 5])), 0))
    assert with_zero.result() == mean((one, 7)).result()
    assert (with_zero.terms, with_zero.total_weight) == (1, 7)


def test_inputs_are_not_changed_and_nothing_is_kept():
    term = p(w=np.float64([1.0, 2.0]))
    before = bytes(term.buffer)
    total = mean((term, 3))
    result = total.result()
    total.add(p(w=np.float64([9.0, 9.0])), 1)
    assert bytes(term.buffer) == before
    assert result["w"].tolist() == [1.0, 2.0]
    assert not np.shares_memory(result["w"], term["w"])


def test_intermediate_results_are_possible():
    total = mean((p(w=1.0), 1))
    assert total.result()["w"] == 1.0
    total.add(p(w=3.0), 1)
    assert total.result()["w"] == 2.0


@pytest.mark.parametrize("terms", [[], [(p(w=1.0), 0)]])
def test_nothing_to_average(terms):
    total = WeightedMean(p(w=1.0).spec)
    for params, weight in terms:
        total.add(params, weight)
    with pytest.raises(NoUpdatesError, match="nothing to average"):
        total.result()


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_impossible_weights_are_refused_and_leave_no_trace(weight):
    total = mean((p(w=2.0), 1))
    with pytest.raises(UpdateRejectedError, match="finite and not negative"):
        total.add(p(w=9.0), weight)
    assert total.result()["w"] == 2.0


def test_another_layout_is_refused_and_leaves_no_trace():
    total = mean((p(w=2.0), 1))
    with pytest.raises(ParamsError, match="dtype float32, expected float64"):
        total.add(p(w=np.float32(9.0)), 1)
    assert total.result()["w"] == 2.0
