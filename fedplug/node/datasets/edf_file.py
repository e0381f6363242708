"""Reading recordings in EDF and EDF+ that may lie about their size.

The header is checked here, by the specification (B. Kemp et al., "A simple format for exchange of digitized polygraphic
recordings", 1992, and its "plus", 2003; edfplus.info); the signals are read by edfio.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.recording import MAX_CHANNELS, Channel, Recording, checked

SUFFIXES = (".edf",)

_WIDTHS = {"label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8,
           "digital_max": 8, "filter": 80, "samples": 8, "reserved": 32}  # fmt: skip
_CURE = "Write it anew from the original recording."


def check_edf(file: IO[bytes], what: str) -> Recording:
    """Check the header of an EDF file, and that the file is as long as it says.

    Args:
        file: The open file.
        what: How messages call it.

    Raises:
        DatasetError: It is no EDF file, its header is wrong, or it is shorter or longer than its header says.
    """
    main = file.read(256)
    if len(main) < 256 or main[:8].rstrip() != b"0":
        raise DatasetError(f"{what} is not an EDF file: it begins with no EDF header.", cure=_CURE)
    channels = _whole(main[252:256], "number of channels", what)
    records = _whole(main[236:244], "number of data records", what)
    length = _number(main[244:252], "length of a data record", what)
    if not 1 <= channels <= MAX_CHANNELS:
        raise DatasetError(f"{what}: its header names {channels} channels; there can be 1 to {MAX_CHANNELS}.")
    if records < 1:
        unfinished = " (the recording was never finished)" if records == -1 else ""
        raise DatasetError(f"{what}: its header says that it has {records} data records{unfinished}.", cure=_CURE)
    if length < 0:
        raise DatasetError(f"{what}: its header says that a data record lasts {length:g} seconds.", cure=_CURE)
    header = 256 * (channels + 1)
    if _whole(main[184:192], "length of the header", what) != header:
        raise DatasetError(f"{what}: its header contradicts itself about its own length.", cure=_CURE)
    block = file.read(header - 256)
    if len(block) < header - 256:
        raise DatasetError(f"{what} ends inside its header.", cure=_CURE)
    fields = _fields(block, channels)
    samples = [_whole(value, "number of samples", what) for value in fields["samples"]]
    if min(samples) < 1:
        raise DatasetError(f"{what}: its header gives a channel {min(samples)} samples per data record.", cure=_CURE)
    end, size = header + 2 * records * sum(samples), os.fstat(file.fileno()).st_size
    if end != size:
        raise DatasetError(
            f"{what}: its header promises {records:,} data records of {sum(samples):,} samples, which makes {end:,} "
            f"bytes; the file holds {size:,}.",
            cure=_CURE,
        )
    found = []
    for place in range(channels):
        name = fields["label"][place].decode("latin-1").strip()
        if name == "EDF Annotations":
            continue
        if length == 0:
            raise DatasetError(f"{what}: its header says that a data record with signals lasts 0 seconds.", cure=_CURE)
        _check_ranges(fields, place, name, what)
        unit = fields["unit"][place].decode("latin-1").strip()
        found.append(Channel(name, samples[place] / length, samples[place] * records, unit))
    return checked(what, found, records * length)


def read_edf(path: Path, what: str, names: Sequence[str], start: float, stop: float) -> list[Array]:
    """Read a stretch of some channels in physical units.

    Args:
        path: A file that `check_edf` has let pass.
        what: How messages call it.
        names: The channels.
        start: Where to begin, in seconds.
        stop: Where to end, in seconds.

    Returns:
        One float32 array of shape ``(samples,)`` per channel, in the order of ``names``.

    Raises:
        DatasetError: The file cannot be read any more.
    """
    edfio = library("edfio", "signals")
    try:
        recording = edfio.read_edf(path, lazy_load_data=True, header_encoding="latin-1")
        by_name = {signal.label: signal for signal in recording.signals}
        return [np.asarray(by_name[name].get_data_slice(start, stop), np.float32) for name in names]
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(f"{what} cannot be read as EDF ({type(error).__name__}).", cure=_CURE) from None


def _fields(block: bytes, channels: int) -> dict[str, list[bytes]]:
    """The header of the channels, which holds each field for all of them side by side."""
    fields, place = {}, 0
    for name, width in _WIDTHS.items():
        fields[name] = [block[place + i * width : place + (i + 1) * width] for i in range(channels)]
        place += width * channels
    return fields


def _check_ranges(fields: dict[str, list[bytes]], place: int, name: str, what: str) -> None:
    for kind in ("physical", "digital"):
        low = _number(fields[f"{kind}_min"][place], f"{kind} minimum of {name!r}", what)
        high = _number(fields[f"{kind}_max"][place], f"{kind} maximum of {name!r}", what)
        if low == high or (kind == "digital" and low > high):
            raise DatasetError(
                f"{what}: its header says that channel {name!r} lies between {low:g} and {high:g} ({kind}).", cure=_CURE
            )


def _number(field: bytes, name: str, what: str) -> float:
    try:
        value = float(field.decode("ascii").replace("_", "x"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{what}: the {name} in its header is no number.", cure=_CURE)
    return value


def _whole(field: bytes, name: str, what: str) -> int:
    value = _number(field, name, what)
    if value != int(value):
        raise DatasetError(f"{what}: the {name} in its header is no whole number.", cure=_CURE)
    return int(value)
