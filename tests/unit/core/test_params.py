from __future__ import annotations

import numpy as np
import pytest

from fedplug.core.errors import ParamsError
from fedplug.core.params import ALIGNMENT, Params
from fedplug.core.params_spec import ParamsSpec


def model():
    return Params.from_arrays(
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(0.5), "n": np.int64(7), "m": np.bool_(True)}
    )


def test_it_is_an_ordered_mapping():
    params = model()
    assert list(params) == ["w", "b", "n", "m"]
    assert len(params) == 4
    assert "w" in params
    assert "x" not in params
    np.testing.assert_array_equal(params["w"], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(KeyError):
        params["x"]


def test_arrays_are_copied_in_and_read_only():
    source = np.zeros(3)
    params = Params.from_arrays({"w": source})
    source += 1
    np.testing.assert_array_equal(params["w"], np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        params["w"][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        params.flat[0] = 1


def test_views_share_the_buffer():
    params = model()
    assert np.shares_memory(params["w"], np.frombuffer(params.buffer, np.uint8))
    assert np.shares_memory(params.runs()[0], params["w"])


def test_the_buffer_is_aligned():
    assert np.frombuffer(model().buffer, np.uint8).ctypes.data % ALIGNMENT == 0


def test_layout_has_gaps_only_between_dtypes_and_they_are_zero():
    params = Params.from_arrays({"a": np.int8(-1), "b": np.float64(1.0), "c": np.float32(1.0)})
    assert [tensor.offset for tensor in params.spec.tensors] == [0, 8, 16]
    assert bytes(params.buffer[1:8]) == bytes(7)
    assert params.spec.runs == (("int8", 0, 1), ("float64", 8, 1), ("float32", 16, 1))


def test_flat_needs_one_dtype():
    params = Params.from_arrays({"a": np.ones((2, 2)), "b": np.zeros(3)})
    np.testing.assert_array_equal(params.flat, [1, 1, 1, 1, 0, 0, 0])
    with pytest.raises(ParamsError, match="several dtypes"):
        _ = model().flat


def test_no_arrays_and_empty_arrays():
    nothing = Params.from_arrays({})
    assert (len(nothing), nothing.nbytes, nothing.runs()) == (0, 0, [])
    empty = Params.from_arrays({"a": np.zeros((0, 3)), "b": np.ones(2)})
    assert empty["a"].shape == (0, 3)
    assert (empty + empty)["b"].tolist() == [2, 2]


@pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]", "O"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ParamsError, match="cannot be held"):
        Params.from_arrays({"a": np.zeros(2, dtype)})


def test_bfloat16_without_ml_dtypes_says_what_to_install():
    import importlib.util

    if importlib.util.find_spec("ml_dtypes") is None:
        with pytest.raises(ParamsError, match="pip install ml_dtypes"):
            ParamsSpec.build([("w", (2,), "bfloat16")])
    else:
        assert ParamsSpec.build([("w", (2,), "bfloat16")]).nbytes == 4


@pytest.mark.parametrize("names", [["a", "a"], [""]])
def test_names_must_be_unique_and_not_empty(names):
    with pytest.raises(ParamsError, match="empty or occurs twice"):
        ParamsSpec.build([(name, (1,), "float32") for name in names])


def test_a_buffer_of_another_size_is_refused():
    spec = model().spec
    with pytest.raises(ParamsError, match=f"{spec.nbytes} bytes, the buffer holds {spec.nbytes + 1}"):
        Params(spec, bytes(spec.nbytes + 1))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("w", (2,), "float32")], "'b' is missing"),
        ([("w", (2,), "float32"), ("b", (), "float32"), ("x", (), "float32")], "'x' is not part of the model"),
        ([("w", (3,), "float32"), ("b", (), "float32")], r"'w' has shape \(3,\), expected \(2,\)"),
        ([("w", (2,), "float64"), ("b", (), "float32")], "'w' has dtype float64, expected float32"),
        ([("b", (), "float32"), ("w", (2,), "float32")], "order"),
    ],
)
def test_a_difference_is_named(entries, words):
    spec = ParamsSpec.build([("w", (2,), "float32"), ("b", (), "float32")])
    other = ParamsSpec.build(entries)
    with pytest.raises(ParamsError, match=words):
        Params(other, bytes(other.nbytes)).require(spec)
    assert spec.difference(spec) == ""


def test_arithmetic_keeps_dtypes():
    params = model()
    for result in (params + params, params - params, params * 2, 0.5 * params):
        assert result.spec == params.spec
    assert (params * 0.5)["n"] == 4  # 3.5 is rounded to even
    assert (params + params)["n"] == 14
    assert not (params - params)["w"].any()
    with pytest.raises(ParamsError, match="is missing"):
        params + Params.from_arrays({"w": params["w"]})


def test_map_refuses_values_that_would_lose_their_kind():
    with pytest.raises(TypeError):
        Params.from_arrays({"w": np.float32(1)}).map(lambda a: a * 1j)


def test_equality_is_to_the_bit():
    params = model()
    assert params == model()
    assert hash(params) == hash(model())
    assert params != params * 2
    assert Params.from_arrays({"w": 0.0}) != Params.from_arrays({"w": -0.0})
    assert params != "params"


def test_allclose():
    params = Params.from_arrays({"w": np.float64(1.0)})
    near = Params.from_arrays({"w": np.float64(1.001)})
    assert params.allclose(near, atol=0.01)
    assert params.allclose(near, rtol=0.01)
    assert not params.allclose(near)
    assert not params.allclose(Params.from_arrays({"v": np.float64(1.0)}), atol=9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_first_array_that_is_not_finite_is_named(bad, dtype):
    arrays = {"a": np.ones(70_000, dtype), "n": np.int64(3), "b": np.ones(3, dtype), "c": np.ones(3, dtype)}
    assert Params.from_arrays(arrays).first_non_finite() == ""
    arrays["b"][1] = arrays["c"][0] = bad
    assert Params.from_arrays(arrays).first_non_finite() == "b"
    arrays["a"][-1] = bad
    assert Params.from_arrays(arrays).first_non_finite() == "a"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_finite_values_are_finite(dtype):
    assert Params.from_arrays({"a": np.full(9, np.finfo(dtype).max, dtype)}).first_non_finite() == ""


@pytest.mark.parametrize(("dtype", "large"), [("float32", 2e19), ("float64", 2e154)])
def test_the_first_array_whose_squares_overflow_is_named(dtype, large):
    arrays = {
        "a": np.ones(70_000, dtype),
        "n": np.int64(2**62),
        "b": np.ones(3, dtype),
        "h": np.float16([65504, -65504]),
    }
    assert Params.from_arrays(arrays).first_without_norm() == ""
    arrays["b"][2] = -large
    assert Params.from_arrays(arrays).first_without_norm() == "b"
    assert Params.from_arrays(arrays).first_non_finite() == ""
    arrays["a"][-1] = np.nan
    assert Params.from_arrays(arrays).first_without_norm() == "a"


def test_stack_reduce_works_in_blocks():
    rng = np.random.default_rng(0)
    arrays = [{"w": rng.normal(size=(70, 100)), "n": rng.integers(0, 9, 5)} for _ in range(64)]
    widths = []

    def median(stack):
        widths.append(stack.shape)
        return np.median(stack, axis=0)

    result = Params.stack_reduce([Params.from_arrays(each) for each in arrays], median)
    np.testing.assert_array_equal(result["w"], np.median([each["w"] for each in arrays], axis=0))
    np.testing.assert_array_equal(result["n"], np.rint(np.median([each["n"] for each in arrays], axis=0)))
    assert max(width for _, width in widths) <= 1024
    assert {rows for rows, _ in widths} == {64}


def test_stack_reduce_needs_equal_specs():
    with pytest.raises(ParamsError, match="got no Params"):
        Params.stack_reduce([], np.median)
    with pytest.raises(ParamsError, match="is missing"):
        Params.stack_reduce([model(), Params.from_arrays({"w": 1.0})], np.median)


def test_memory_of_ones_own_can_be_built_in():
    spec = model().spec
    memory = bytearray(b"\xff" * spec.nbytes)
    params = Params.build(spec, lambda name, out: np.copyto(out, model()[name]), memory)
    assert params == model()
    assert bytes(memory) == bytes(model().buffer)


def test_repr_is_short():
    assert repr(model()) == "Params(4 arrays, 9 values, 41 bytes)"


@pytest.mark.parametrize("other", [1, "x", None, {"w": 1}])
def test_only_params_can_be_added_and_only_numbers_multiply(other):
    params = Params.from_arrays({"w": np.ones(2)})
    with pytest.raises(TypeError):
        params + other
    with pytest.raises(TypeError):
        params - other
    with pytest.raises(TypeError):
        params * "x"
