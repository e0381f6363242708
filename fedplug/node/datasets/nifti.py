"""Reading NIfTI volumes (.nii, .nii.gz) that may lie: no byte of a header is believed before it is checked.

The layout is that of the NIfTI-1 and NIfTI-2 standards (nifti.nimh.nih.gov). nibabel takes the header apart; what it
says is then held against the true size of the file. Nothing is allocated for voxels before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.unpacked import MAX_RATIO, Unpacked

SUFFIXES = (".nii", ".nii.gz")

MAX_BYTES = 2**31
"""Most bytes of voxels in one volume, unpacked."""

_MAX_OFFSET = 2**24
"""Voxels begin before this byte; between them and the header lie extensions, which nobody here reads."""

_CURE = "Write it anew from the original, e.g. with nibabel.save."


@dataclass(frozen=True)
class Volume:
    """What the checked header of a volume says.

    Attributes:
        shape: Voxels along each axis, without trailing axes of length one beyond the third.
        dtype: How voxels are stored.
        offset: The byte at which they begin.
        slope: What stored values are multiplied by; None: they are the values.
        intercept: What is added then.
        zooms: Size of a voxel along the first three axes, in the file's unit (mostly millimetres).
        orientation: Where the first three axes point, e.g. ``"RAS"``; empty if the header does not say.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float | None
    intercept: float
    zooms: tuple[float, ...]
    orientation: str

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels as they are stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte after the last voxel."""
        return self.offset + self.nbytes

    @property
    def value_type(self) -> str:
        """The dtype of the values: the stored one for plain whole numbers, else ``float32``."""
        return self.dtype.newbyteorder("=").name if self.slope is None and self.dtype.kind in "iu" else "float32"


def check_volume(file: IO[bytes], what: str) -> Volume:
    """Check a volume, the whole of a packed one, in memory that does not depend on what it claims.

    Args:
        file: The open file, which gzip may have packed.
        what: How messages call it.

    Raises:
        DatasetError: It is no NIfTI file, its header contradicts the file, or it is cut off.
    """
    stream = Unpacked(file, what)
    volume = _checked_header(stream, what)
    if stream.packed:
        stream.skip(volume.end - stream.place)
        _check_end(stream, volume, what)
    return volume


def read_volume(file: IO[bytes], what: str) -> tuple[Volume, Array]:
    """Check a volume as `check_volume` does, and read its voxels.

    Returns:
        The header, and the values: float32, or whole numbers as they are stored where the header scales nothing.

    Raises:
        DatasetError: As `check_volume`.
    """
    stream = Unpacked(file, what)
    volume = _checked_header(stream, what)
    stream.skip(volume.offset - stream.place)
    stored = np.empty(volume.nbytes, np.uint8)
    stream.fill(stored)
    _check_end(stream, volume, what)
    values = stored.view(volume.dtype).reshape(volume.shape, order="F")
    if volume.slope is None:
        return volume, values.astype(volume.value_type, copy=False)
    scaled = values.astype(np.float32)
    scaled *= np.float32(volume.slope)
    scaled += np.float32(volume.intercept)
    return volume, scaled


def _check_end(stream: Unpacked, volume: Volume, what: str) -> None:
    if stream.place < volume.end:
        raise _wrong_size(what, volume, f"{stream.place:,}")
    if stream.read(1):
        raise _wrong_size(what, volume, f"more than {volume.end:,}")


def _checked_header(stream: Unpacked, what: str) -> Volume:
    """Take the header apart and hold it against the file."""
    header = _header(stream, what)
    shape = _shape(header["dim"].tolist(), what)
    dtype = _dtype(header, what)
    start = header.single_vox_offset
    offset = float(header["vox_offset"]) or float(start)
    if not (math.isfinite(offset) and offset == int(offset) and start <= offset <= _MAX_OFFSET):
        raise DatasetError(
            f"{what}: its header says that voxels begin at byte {offset:g}, but that must be from {start} to "
            f"{_MAX_OFFSET:,}.",
            cure=_CURE,
        )
    slope, intercept = _scaling(header, what)
    zooms = tuple(float(zoom) for zoom in header["pixdim"][1:4])
    volume = Volume(shape, dtype, int(offset), slope, intercept, zooms, _orientation(header))
    if volume.nbytes > MAX_BYTES:
        raise DatasetError(
            f"{what}: its header promises {volume.nbytes:,} bytes of voxels ({_product(shape)} {dtype.name}); "
            f"the most that is read is {MAX_BYTES:,}."
        )
    if not stream.can_hold(volume.end):
        raise _wrong_size(what, volume, f"at most {stream.size * MAX_RATIO:,}" if stream.packed else f"{stream.size:,}")
    return volume


def _header(stream: Unpacked, what: str) -> Any:
    nifti1, nifti2 = library("nibabel.nifti1", "medical"), library("nibabel.nifti2", "medical")
    kinds = {348: nifti1.Nifti1Header, 540: nifti2.Nifti2Header}
    start = stream.read(4)
    for order, name in (("<", "little"), (">", "big")):
        length = int.from_bytes(start, cast("Any", name))
        if len(start) == 4 and length in kinds:
            block = start + stream.read(length - 4)
            if len(block) < length:
                raise DatasetError(f"{what} ends inside its header ({len(block)} of {length} bytes).", cure=_CURE)
            header = kinds[length](block, endianness=order, check=False)
            break
    else:
        raise DatasetError(f"{what} is not a NIfTI volume: it begins with no NIfTI header.", cure=_CURE)
    magic = bytes(header["magic"].item()).rstrip(b"\0")
    if magic in {b"ni1", b"ni2"}:
        raise DatasetError(
            f"{what} is one half of a pair: its voxels lie in a second file.", cure="Save it as one file (.nii.gz)."
        )
    if magic[:3] not in {b"n+1", b"n+2"} or (magic[:3] == b"n+1") != (length == 348):
        raise DatasetError(f"{what} is not a NIfTI volume: the mark in its header is wrong.", cure=_CURE)
    return header


def _shape(dim: list[int], what: str) -> tuple[int, ...]:
    axes = dim[0]
    if not 1 <= axes <= 7:
        raise DatasetError(f"{what}: its header says that it has {axes} axes; there can be 1 to 7.", cure=_CURE)
    lengths = dim[1 : axes + 1]
    if min(lengths) < 1:
        raise DatasetError(
            f"{what}: its header says that it measures {_product(lengths)} voxels; each must be 1 or more.", cure=_CURE
        )
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths.pop()
    return tuple(lengths)


def _dtype(header: Any, what: str) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError:
        raise DatasetError(
            f"{what}: its header names the data type {code}, which does not exist.", cure=_CURE
        ) from None
    if dtype.kind not in "iuf" or not 1 <= dtype.itemsize <= 8:
        raise DatasetError(
            f"{what}: its voxels are of the NIfTI data type {code}, which plans cannot use.",
            cure="Save it as whole numbers of 8 to 64 bits, float32 or float64.",
        )
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise DatasetError(
            f"{what}: its header contradicts itself: {dtype.name} voxels of {int(header['bitpix'])} bits.", cure=_CURE
        )
    return dtype


def _scaling(header: Any, what: str) -> tuple[float | None, float]:
    """By the standard, a slope of zero means: no scaling. One that is no number is read in the same way."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return None, 0.0
    if not math.isfinite(intercept):
        raise DatasetError(f"{what}: its header adds {intercept} to each voxel.", cure=_CURE)
    return (None, 0.0) if (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _orientation(header: Any) -> str:
    """The letters of the axes' directions, where the header gives a matrix that has them."""
    if not (int(header["qform_code"]) or int(header["sform_code"])):
        return ""
    with np.errstate(all="ignore"):
        try:
            affine = header.get_best_affine()
            if not np.isfinite(affine).all():
                return ""
            letters = library("nibabel.orientations", "medical").aff2axcodes(affine)
        except (ValueError, np.linalg.LinAlgError):  # a matrix without an inverse, a quaternion of no length
            return ""
    return "".join(letter or "?" for letter in letters)


def _wrong_size(what: str, volume: Volume, found: str) -> DatasetError:
    return DatasetError(
        f"{what}: its header promises {_product(volume.shape)} voxels of {volume.dtype.name} from byte "
        f"{volume.offset}, which makes {volume.end:,} bytes; the file holds {found}.",
        cure=_CURE,
    )


def _product(lengths: Any) -> str:
    return " x ".join(map(str, lengths))
