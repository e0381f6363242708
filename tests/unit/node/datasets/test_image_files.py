from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.image_files import MAX_PIXELS, check_image, read_image

WHAT = "Data set 'cells': 'a/1.png'"
GREY = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def encoded(pixels, kind="png", **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height):
    """The header of a PNG that promises so many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_pixels_come_back_as_they_were_saved(kind, pixels):
    data = encoded(pixels, kind)
    assert check_image(io.BytesIO(data), WHAT).shape == pixels.shape
    np.testing.assert_array_equal(read_image(io.BytesIO(data), WHAT), pixels)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "gif"])
def test_formats_that_lose_something_are_read_too(kind):
    found = read_image(io.BytesIO(encoded(COLOUR, kind)), WHAT)
    assert (found.shape, found.dtype) == ((5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "shape", "dtype"),
    [
        (Image.fromarray(GREY).convert("1"), (5, 7), "uint8"),
        (Image.fromarray(COLOUR).convert("P"), (5, 7, 3), "uint8"),
        (Image.fromarray(COLOUR).convert("RGBA"), (5, 7, 3), "uint8"),
        (Image.fromarray(GREY).convert("LA"), (5, 7), "uint8"),
        (Image.fromarray(GREY.astype(np.uint16) * 200), (5, 7), "uint16"),
    ],
)
def test_every_mode_becomes_grey_or_colour(image, shape, dtype):
    data = encoded(image)
    picture = check_image(io.BytesIO(data), WHAT)
    found = read_image(io.BytesIO(data), WHAT)
    assert (picture.shape, picture.dtype) == (found.shape, found.dtype.name) == (shape, dtype)


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1), (12_000, 12_000)]
)
def test_an_image_that_promises_too_many_pixels_is_refused(width, height):
    for call in (check_image, read_image):
        with pytest.raises(DatasetError, match=r"promises|is a damaged image"):
            call(io.BytesIO(png(width, height)), WHAT)


def test_a_script_that_pillow_would_run_is_no_image():
    with pytest.raises(DatasetError, match="cannot be recognised"):
        check_image(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"), WHAT)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "tiff", "webp", "bmp"])
def test_a_file_cut_off_at_any_byte_is_read_or_refused(kind):
    data = encoded(COLOUR, kind)
    for length in range(len(data) - 1):
        for call in (check_image, read_image):
            try:
                call(io.BytesIO(data[:length]), WHAT)
            except DatasetError as error:
                assert error.message.startswith(WHAT)  # noqa: PT017 - nothing else may be raised


def test_missing_pixels_are_told_when_they_are_read():
    data = encoded(COLOUR)
    check_image(io.BytesIO(data[:80]), WHAT)
    with pytest.raises(DatasetError, match="is a damaged image"):
        read_image(io.BytesIO(data[:80]), WHAT)


@given(
    st.sampled_from(["png", "gif", "tiff", "bmp"]),
    st.lists(st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3),
)
def test_whatever_stands_in_a_file_nothing_but_a_refusal_comes_out(kind, flips):
    data = bytearray(encoded(COLOUR, kind))
    for place, new in flips:
        data[place : place + len(new)] = new
    try:
        read_image(io.BytesIO(bytes(data)), WHAT)
    except DatasetError as error:
        assert error.message.startswith(WHAT)  # noqa: PT017 - nothing else may be raised
