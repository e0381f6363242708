from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Params
from fedplug.core.errors import CodecError, UsageError
from fedplug.core.plain_state import freeze, thaw

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8)
)
KEYS = st.one_of(st.text(max_size=6), st.sampled_from(["$params", "$float", "$dict", "$bytes", "$"]))
PLAIN = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@given(PLAIN)
def test_what_is_frozen_and_written_as_json_thaws_to_the_same(value):
    text = json.dumps(freeze(value, []), allow_nan=False)
    np.testing.assert_equal(thaw(json.loads(text), ()), value)


def test_params_are_taken_out_each_once():
    a, b = Params.from_arrays({"x": [1.0]}), Params.from_arrays({"y": [2, 3]})
    arrays: list[Params] = []
    frozen = freeze({"first": a, "more": [b, a]}, arrays)
    assert arrays == [a, b]
    assert frozen == {"first": {"$params": 0}, "more": [{"$params": 1}, {"$params": 0}]}
    assert thaw(frozen, arrays)["more"][0] is b


def test_tuples_become_lists_and_numpy_scalars_numbers():
    assert freeze({"a": (1, 2), "b": np.float32(0.5), "c": np.int64(3)}, []) == {"a": [1, 2], "b": 0.5, "c": 3}
    assert math.isinf(thaw(freeze(np.float64("inf"), []), ()))


@pytest.mark.parametrize("value", [{1: 2}, object(), {"a": [np.zeros(2)]}, 2**70, {"a": {1, 2}}])
def test_what_cannot_be_saved_is_named(value):
    with pytest.raises(UsageError, match="cannot be saved"):
        freeze(value, [])


def test_the_place_of_what_cannot_be_saved_is_named():
    with pytest.raises(UsageError, match=r"model_args\['a'\]\[1\] holds a set"):
        freeze({"a": [1, {2}]}, [], "model_args")


@pytest.mark.parametrize(
    "value",
    [
        {"$params": 3}, {"$params": "0"}, {"$float": "1"}, {"$bytes": "?"}, {"$dict": 1}, {"$new": 1},
        {"$params": 0, "x": 1},
    ],
)  # fmt: skip
def test_nonsense_is_refused(value):
    with pytest.raises(CodecError, match="means nothing"):
        thaw([value], ())


def test_deep_nonsense_is_refused_without_recursion():
    value: list = []
    for _ in range(500):
        value = [value]
    with pytest.raises(CodecError, match="nested too deep"):
        thaw(value, ())
