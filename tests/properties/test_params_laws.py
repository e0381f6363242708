"""What must hold for all `Params`: layout, algebra, identity, and reduction in blocks."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.params import Params

DTYPES = ("bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64")
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
LAYOUTS = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=5)


def arrays_of(layout, seed):
    """Random arrays of a layout; integers are small, so that sums stay in range."""
    rng = np.random.default_rng(seed)
    return {f"a{i}": rng.integers(0, 60, shape).astype(dtype) for i, (shape, dtype) in enumerate(layout)}


@st.composite
def params(draw, count=1, layouts=LAYOUTS):
    layout = draw(layouts)
    return [Params.from_arrays(arrays_of(layout, draw(st.integers(0, 2**32 - 1)))) for _ in range(count)]


@given(LAYOUTS, st.integers(0, 2**32 - 1))
def test_arrays_come_out_as_they_went_in(layout, seed):
    arrays = arrays_of(layout, seed)
    held = Params.from_arrays(arrays)
    for name, array in arrays.items():
        assert held[name].dtype == array.dtype
        assert held[name].shape == array.shape
        np.testing.assert_array_equal(held[name], array)


@given(params())
def test_the_layout_is_aligned_dense_and_without_overlap(many):
    spec, end = many[0].spec, 0
    for tensor in spec.tensors:
        itemsize = np.dtype(tensor.dtype).itemsize
        assert tensor.offset % itemsize == 0
        assert 0 <= tensor.offset - end < itemsize
        assert not any(many[0].buffer[end : tensor.offset])
        end = tensor.offset + tensor.size * itemsize
    assert spec.nbytes == end == many[0].nbytes


@given(params())
def test_runs_are_all_values_in_order(many):
    held = many[0]
    runs = held.runs()
    assert [run.dtype.name for run in runs] == [dtype for dtype, _, _ in held.spec.runs]
    together = [value for run in runs for value in run.tolist()]
    assert together == [value for name in held for value in held[name].ravel().tolist()]
    if len(runs) == 1:
        assert held.flat.tolist() == together


@given(params(count=2), st.sampled_from([0, 1, -2, 0.5, 3]))
def test_algebra_is_numpys_array_by_array(many, factor):
    a, b = many
    for name in a:
        x, y = a[name], b[name]
        np.testing.assert_array_equal((a + b)[name], x + y)
        np.testing.assert_array_equal((a - b)[name], x ^ y if x.dtype == bool else x - y)
        if x.dtype.kind == "f":
            np.testing.assert_array_equal((a * factor)[name], x * x.dtype.type(factor))
        elif x.dtype.kind == "i":
            np.testing.assert_array_equal((factor * a)[name], np.rint(x.astype(np.float64) * factor).astype(x.dtype))


@given(params(count=3))
def test_laws_of_the_algebra(many):
    """Small whole numbers: every operation is exact, so the laws hold to the bit."""
    a, b, c = many
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + (b - b) == a
    assert a * 1 == a


@given(params())
def test_pickle_round_trip(many):
    again = pickle.loads(pickle.dumps(many[0]))
    assert again == many[0]
    assert again.spec == many[0].spec
    assert again.fingerprint() == many[0].fingerprint()


@given(params(), st.data())
def test_the_fingerprint_changes_with_any_bit(many, data):
    held = many[0]
    same = Params(held.spec, bytes(held.buffer))
    assert same.fingerprint() == held.fingerprint()
    if held.nbytes:
        bit = data.draw(st.integers(0, 8 * held.nbytes - 1))
        changed = bytearray(held.buffer)
        changed[bit // 8] ^= 1 << bit % 8
        assert Params(held.spec, changed).fingerprint() != held.fingerprint()


@given(LAYOUTS, st.integers(0, 100), st.data())
def test_the_fingerprint_changes_with_names_and_order(layout, seed, data):
    arrays = arrays_of(layout, seed)
    held = Params.from_arrays(arrays)
    renamed = {(f"{name}x" if i == 0 else name): array for i, (name, array) in enumerate(arrays.items())}
    assert Params.from_arrays(renamed).fingerprint() != held.fingerprint()
    order = data.draw(st.permutations(list(arrays)))
    moved = Params.from_arrays({name: arrays[name] for name in order})
    assert (moved.fingerprint() == held.fingerprint()) == (order == list(arrays))


FLOAT_LAYOUTS = st.lists(
    st.tuples(st.tuples(st.integers(1, 1500)), st.sampled_from(["float32", "float64", "int16"])), min_size=1, max_size=3
)


@given(params(count=5, layouts=FLOAT_LAYOUTS), st.integers(1, 5))
def test_stack_reduce_equals_numpy_on_the_whole_stack(many, count):
    many = many[:count]
    result = Params.stack_reduce(many, lambda x: np.median(x, axis=0))
    assert result.spec == many[0].spec
    for name in result:
        whole = np.median(np.stack([each[name] for each in many]), axis=0)
        expected = np.rint(whole) if result[name].dtype.kind == "i" else whole
        np.testing.assert_array_equal(result[name], expected.astype(result[name].dtype))
