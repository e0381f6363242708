from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.idx_file import read_idx

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, CODES[array.dtype.name], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def read(tmp_path, data, axes):
    file = tmp_path / "idx"
    file.write_bytes(data)
    with open(file, "rb") as opened:
        return read_idx(opened, "Data set 'digits': 'idx'", axes)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_arrays_come_back_as_they_were_written(tmp_path, name, pack):
    array = np.random.default_rng(1).integers(0, 100, (5, 4, 3)).astype(name)
    found = read(tmp_path, pack(idx(array)), 3)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(4, 3, 2))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_cut_off_at_any_byte_is_refused(tmp_path, pack):
    data = pack(WHOLE)
    for length in range(len(data)):
        with pytest.raises(DatasetError):
            read(tmp_path, data[:length], 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\1" + WHOLE[2:], "its first four bytes are 00 01 08 03"),
        (WHOLE[:2] + b"\x0a" + WHOLE[3:], "not an IDX file"),
        (WHOLE[:3] + b"\x01" + WHOLE[4:], "has 1 axes, but must have 3"),
        (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "the most that is read is"),
        (WHOLE[:4] + b"\0" * 4 + WHOLE[8:], "holds no samples"),
        (WHOLE[:7] + b"\x05" + WHOLE[8:], "5 x 3 x 2 values of uint8, which makes 46 bytes"),
        (WHOLE + b"\0", "4 x 3 x 2 values of uint8, which makes 40 bytes"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, pack, data, said):
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, pack(data), 3)
    assert said in refused.value.message


@given(lengths=st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), code=st.sampled_from(list(CODES.values())))
def test_only_lengths_that_fit_the_file_are_believed(tmp_path_factory, lengths, code):
    data = struct.pack(">HBB3I", 0, code, 3, *lengths) + WHOLE[16:]
    size = {0x08: 1, 0x09: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}[code]
    folder = tmp_path_factory.getbasetemp()
    if math.prod(lengths) * size == 24:
        assert read(folder, data, 3).shape == tuple(lengths)
    else:
        with pytest.raises(DatasetError):
            read(folder, data, 3)
