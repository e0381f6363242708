from __future__ import annotations

import gzip
import io
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.nifti import check_volume, read_volume

WHAT = "Data set 'scans': 'a.nii'"
VOXELS = np.random.default_rng(3).integers(-500, 500, (4, 3, 2)).astype(np.int16)


def packed(voxels=VOXELS, kind=nibabel.Nifti1Image, **fields):
    """A volume as nibabel writes it, with fields of its header overwritten afterwards."""
    image = kind(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    raw = bytearray(image.to_bytes())
    header = type(image.header)(bytes(raw[: image.header.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[: image.header.sizeof_hdr] = header.binaryblock
    return bytes(raw)


@pytest.fixture
def put(tmp_path):
    def write(data, name="a.nii"):
        file = tmp_path / name
        file.write_bytes(data)
        return open(file, "rb")

    opened = []
    yield lambda *args: opened.append(write(*args)) or opened[-1]
    for file in opened:
        file.close()


def refusal(file):
    with pytest.raises(DatasetError) as checked:
        check_volume(file, WHAT)
    file.seek(0)
    with pytest.raises(DatasetError) as read:
        read_volume(file, WHAT)
    assert str(checked.value) == str(read.value)  # what is refused when it is added is refused when it is used
    assert str(checked.value).startswith(WHAT)
    return str(checked.value)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, ">i2"])
def test_voxels_are_those_that_nibabel_reads(put, kind, pack, dtype):
    voxels = VOXELS.astype(dtype)
    volume, values = read_volume(put(pack(packed(voxels, kind))), WHAT)
    assert volume.shape == values.shape == (4, 3, 2)
    assert volume.zooms == (2.0, 2.0, 3.0)
    assert volume.orientation == "RAS"
    np.testing.assert_array_equal(values, voxels.astype(volume.value_type))
    assert values.dtype.name == volume.value_type


def test_stored_values_are_scaled_as_nibabel_scales_them(put):
    raw = packed(scl_slope=0.5, scl_inter=-3.0)
    volume, values = read_volume(put(raw), WHAT)
    expected = nibabel.Nifti1Image.from_bytes(raw).get_fdata(dtype=np.float32)
    assert volume.value_type == "float32"
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_big_endian_files_are_read(put):
    image = nibabel.Nifti1Image(VOXELS, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(">i2")
    _, values = read_volume(put(image.to_bytes()), WHAT)
    np.testing.assert_array_equal(values, VOXELS)


def test_a_fourth_axis_of_one_is_no_axis(put):
    volume, values = read_volume(put(packed(VOXELS[..., None])), WHAT)
    assert volume.shape == values.shape == (4, 3, 2)


LIES = {
    "negative": ({"dim": [3, 4, -3, 2, 1, 1, 1, 1]}, "measures 4 x -3 x 2 voxels"),
    "zero": ({"dim": [3, 4, 0, 2, 1, 1, 1, 1]}, "measures 4 x 0 x 2 voxels"),
    "no axes": ({"dim": [0, 4, 3, 2, 1, 1, 1, 1]}, "it has 0 axes"),
    "too many axes": ({"dim": [8, 4, 3, 2, 1, 1, 1, 1]}, "it has 8 axes"),
    "more voxels": (
        {"dim": [3, 4, 3, 3, 1, 1, 1, 1]},
        "4 x 3 x 3 voxels of int16 from byte 352, which makes 424 bytes",
    ),
    "fewer voxels": ({"dim": [3, 4, 3, 1, 1, 1, 1, 1]}, "4 x 3 x 1 voxels"),
    "huge": ({"dim": [7, *[32767] * 7]}, "the most that is read is 2,147,483,648"),
    "unknown type": ({"datatype": 777}, "data type 777, which does not exist"),
    "no type": ({"datatype": 0}, "data type 0"),
    "complex": ({"datatype": 32, "bitpix": 64}, "data type 32, which plans cannot use"),
    "colours": ({"datatype": 128, "bitpix": 24}, "data type 128, which plans cannot use"),
    "wider type": ({"datatype": 16, "bitpix": 32}, "float32"),
    "contradiction": ({"datatype": 16}, "float32 voxels of 16 bits"),
    "offset inside": ({"vox_offset": 12}, "voxels begin at byte 12"),
    "offset negative": ({"vox_offset": -352}, "voxels begin at byte -352"),
    "offset huge": ({"vox_offset": 3e38}, "voxels begin at byte 3e+38"),
    "offset no number": ({"vox_offset": np.nan}, "voxels begin at byte nan"),
    "offset behind": ({"vox_offset": 400}, "which makes 448 bytes"),
    "half of a pair": ({"magic": b"ni1"}, "one half of a pair"),
    "wrong mark": ({"magic": b"nix"}, "the mark in its header is wrong"),
    "intercept": ({"scl_slope": 2, "scl_inter": np.inf}, "adds inf"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_lies_is_refused_with_the_lie(put, lie, pack):
    fields, said = LIES[lie]
    assert said in refusal(put(pack(packed(**fields))))


def test_axes_of_64_bits_overflow_nothing(put):
    raw = packed(kind=nibabel.Nifti2Image, dim=[7, *[2**62] * 7])
    assert "the most that is read" in refusal(put(raw))
    assert "the most that is read" in refusal(put(gzip.compress(raw)))


def test_a_small_packed_file_that_promises_what_it_cannot_hold_is_refused_before_it_is_unpacked(put):
    raw = packed(dim=[3, 1000, 1000, 100, 1, 1, 1, 1])
    assert "at most" in refusal(put(gzip.compress(raw)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_cut_off_at_any_byte_is_refused(put, pack):
    whole = pack(packed())
    for length in range(len(whole)):
        refusal(put(whole[:length], f"{length}.nii"))


def test_a_gzip_bomb_is_refused_in_little_memory(put):
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:
        file.write(packed())
        for _ in range(200):
            file.write(bytes(2**20))
    opened = put(bomb.getvalue())
    tracemalloc.start()
    try:
        said = refusal(opened)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert "the file holds more than 400" in said


def test_promised_voxels_that_a_packed_file_does_not_have_cost_no_memory(put):
    raw = packed(dim=[3, 400, 400, 300, 1, 1, 1, 1]) + bytes(10**6)
    data = gzip.compress(raw) + gzip.compress(np.random.default_rng(0).bytes(200_000))
    opened = put(data)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="which makes 96,000,352 bytes; the file holds 1,200,400"):
            check_volume(opened, WHAT)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_damaged_bytes_of_a_packed_file_are_found(put):
    data = bytearray(gzip.compress(packed()))
    data[-6] ^= 1  # in the checksum
    assert "cannot be unpacked as gzip" in refusal(put(bytes(data)))


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"P", b"\x89PNG\r\n\x1a\n" + bytes(400), bytes(1000)])
def test_other_files_are_no_volumes(put, data):
    refusal(put(data))


@given(
    flips=st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
    pack=st.sampled_from([bytes, gzip.compress]),
)
def test_whatever_the_header_says_it_is_read_or_refused_alike(tmp_path_factory, flips, pack):
    raw = bytearray(packed())
    for place, new in flips:
        raw[place : place + len(new)] = new
    file = tmp_path_factory.getbasetemp() / "flipped.nii"
    file.write_bytes(pack(bytes(raw[:400])))
    with open(file, "rb") as opened:
        try:
            volume = check_volume(opened, WHAT)
        except DatasetError as error:
            opened.seek(0)
            with pytest.raises(DatasetError) as again:
                read_volume(opened, WHAT)
            assert str(again.value) == str(error)  # noqa: PT017 - one refusal is compared with the other
        else:
            opened.seek(0)
            again, values = read_volume(opened, WHAT)
            assert struct.pack("<d", again.zooms[0] if again.zooms else 0) == struct.pack("<d", volume.zooms[0])
            assert values.shape == volume.shape
            assert values.nbytes <= 8 * 48  # never more than the file has, but for scaling
