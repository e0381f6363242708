"""Reading IDX files, the format of MNIST: a mark, the lengths of the axes, and then the values.

The format is described at the end of the page of the MNIST database (yann.lecun.com/exdb/mnist). All numbers are
big-endian. The lengths are held against the true size of the file before anything is allocated.
"""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.unpacked import Unpacked

MAX_BYTES = 2**34
"""Most bytes of values in one file, unpacked."""

_DTYPES = {0x08: "uint8", 0x09: "int8", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(file: IO[bytes], what: str, axes: int) -> Array:
    """Read an array from a plain or gzip-packed IDX file.

    Args:
        file: The open file.
        what: How messages call it.
        axes: The number of axes that it must have; images have 3 or more, labels 1.

    Raises:
        DatasetError: It is no IDX file, has another number of axes, or its size is not what its header says.
    """
    stream = Unpacked(file, what)
    mark = stream.read(4)
    if len(mark) < 4 or mark[:2] != b"\0\0" or mark[2] not in _DTYPES:
        raise DatasetError(f"{what} is not an IDX file: its first four bytes are {mark.hex(' ') or 'missing'}.")
    if mark[3] != axes:
        raise DatasetError(f"{what} has {mark[3]} axes, but must have {axes}.")
    lengths = stream.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise DatasetError(f"{what} ends inside its header.")
    shape = tuple(int(length) for length in np.frombuffer(lengths, ">u4"))
    dtype: np.dtype[Any] = np.dtype(_DTYPES[mark[2]])
    nbytes = math.prod(shape) * dtype.itemsize
    end = 4 + 4 * axes + nbytes
    told = (
        f"{what}: its header promises {' x '.join(map(str, shape))} values of {dtype.name}, which makes {end:,} bytes"
    )
    if not nbytes:
        raise DatasetError(f"{what} holds no samples.")
    if nbytes > MAX_BYTES:
        raise DatasetError(f"{told}; the most that is read is {MAX_BYTES:,}.")
    if not stream.can_hold(end):
        raise DatasetError(f"{told}, but the file cannot hold these: it has {stream.size:,} on the disk.")
    values = np.empty(nbytes, np.uint8)
    if stream.fill(values) < nbytes:
        raise DatasetError(f"{told}; the file holds {stream.place:,}.")
    if stream.read(1):
        raise DatasetError(f"{told}; the file holds more.")
    array = values.view(dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
