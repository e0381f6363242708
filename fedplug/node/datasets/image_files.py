"""Reading pictures that may be anything: only plain raster formats, and none larger than it may be.

Pillow takes them apart. Formats that run programs (EPS) or that nobody trains on are not even tried.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

MAX_PIXELS = 100_000_000
"""Most pixels of one image; a file of a few bytes can promise billions."""

_MODES = {
    "1": ("L", "uint8", 0),
    "L": ("L", "uint8", 0),
    "LA": ("L", "uint8", 0),
    "P": ("RGB", "uint8", 3),
    "PA": ("RGB", "uint8", 3),
    "RGB": ("RGB", "uint8", 3),
    "RGBA": ("RGB", "uint8", 3),
    "RGBX": ("RGB", "uint8", 3),
    "CMYK": ("RGB", "uint8", 3),
    "YCbCr": ("RGB", "uint8", 3),
    "I;16": ("I;16", "uint16", 0),
    "I;16B": ("I;16", "uint16", 0),
    "I;16L": ("I;16", "uint16", 0),
    "I": ("I", "int32", 0),
    "F": ("F", "float32", 0),
}
"""What Pillow's modes are read as: the mode, its dtype, and the number of channels (0: grey, no axis of its own)."""


@dataclass(frozen=True)
class Picture:
    """What the header of an image says.

    Attributes:
        width: In pixels.
        height: In pixels.
        channels: 3, or 0 for grey images, which have no axis of channels.
        dtype: Of the pixels, as they are read.
        frames: More than 1: the file is an animation or a stack, of which the first is read.
    """

    width: int
    height: int
    channels: int
    dtype: str
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array of pixels."""
        return (self.height, self.width, self.channels) if self.channels else (self.height, self.width)


def check_image(file: IO[bytes], what: str) -> Picture:
    """Check the header of an image; no pixel is decoded.

    Args:
        file: The open file.
        what: How messages call it.

    Raises:
        DatasetError: It is no image, of a format that is not read, or too large.
    """
    with _opened(file, what) as image:
        return _picture(image, what)


def read_image(file: IO[bytes], what: str) -> Array:
    """The pixels of an image, checked as by `check_image`.

    Returns:
        Shape ``(height, width)`` or ``(height, width, 3)``; uint8 mostly, uint16, int32 or float32 for images that
        hold such values. Transparency is left out.

    Raises:
        DatasetError: As `check_image`, or its pixels are damaged or cut off.
    """
    with _opened(file, what) as image:
        picture = _picture(image, what)
        mode = _MODES[image.mode][0]
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels.astype(picture.dtype, copy=False)


def _picture(image: Any, what: str) -> Picture:
    width, height = image.size
    if width < 1 or height < 1:
        raise DatasetError(f"{what} is an image of {width} x {height} pixels.")
    if width * height > MAX_PIXELS:
        raise DatasetError(
            f"{what} promises {width} x {height} pixels; the most that is read is {MAX_PIXELS:,}.",
            cure="Cut it into tiles, or scale it down.",
        )
    if image.mode not in _MODES:
        raise DatasetError(f"{what} is an image of mode {image.mode}, which is not read.", cure="Save it as RGB.")
    _, dtype, channels = _MODES[image.mode]
    return Picture(width, height, channels, dtype, int(getattr(image, "n_frames", 1)))


@contextlib.contextmanager
def _opened(file: IO[bytes], what: str) -> Iterator[Any]:
    pillow = library("PIL.Image", "images")
    cure = f"The formats that are read: {', '.join(FORMATS)}."
    with warnings.catch_warnings():
        # Our own limit is lower and refuses; Pillow's is for those who set none. Other warnings are about metadata.
        warnings.simplefilter("ignore")
        try:
            with pillow.open(file, formats=FORMATS) as image:
                yield image
        except DatasetError:
            raise
        except pillow.DecompressionBombError:
            raise DatasetError(f"{what} promises more pixels than are read ({MAX_PIXELS:,}).") from None
        except (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError,
                struct.error, OverflowError, MemoryError, RuntimeError) as error:  # fmt: skip
            # Pillow's decoders raise whatever a broken file leads them to; its texts may hold the path.
            reason = "cannot be recognised as an image" if "cannot identify" in str(error) else "is a damaged image"
            raise DatasetError(f"{what} {reason}.", cure=cure) from None
