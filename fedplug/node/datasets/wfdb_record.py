"""Reading WFDB records (PhysioNet): a header ``NAME.hea`` in text, and files of samples that it names.

The header is checked here, by the manual (header(5) and signal(5) at physionet.org): it may name files in its own
folder only, and these must be as long as it says. Headers and samples are then read by the library wfdb.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.recording import MAX_CHANNELS, Channel, Recording, checked

SUFFIXES = (".hea",)

_BYTES: dict[int, int | Fraction] = {
    80: 1,
    16: 2,
    61: 2,
    160: 2,
    24: 3,
    32: 4,
    212: Fraction(3, 2),
    310: Fraction(4, 3),
    311: Fraction(4, 3),
}
"""Bytes per sample of each format; the packed ones (FLAC) could hold anything, and are not read."""

_MAX_HEADER = 2**20
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$", re.ASCII)
_CURE = "Write it anew with wfdb.wrsamp."


def check_record(folder: Folder, path: PurePath, what: str) -> Recording:
    """Check a header, and that the files that it names are in its folder and as long as it says.

    Args:
        folder: The folder of the data set.
        path: The header, a file in it.
        what: How messages call the record.

    Raises:
        DatasetError: It is no WFDB header, names a file elsewhere, or a file is shorter than it says.
    """
    lines = _lines(folder, path, what)
    sizes = _promised(lines, what)
    for name, promised in sizes.items():
        if PurePath(name).name != name or "::" in name:
            raise DatasetError(f"{what}: its header names a file outside its own folder.", cure=_CURE)
        with folder.open(path.parent / name, f"{what}: the file of samples that its header names") as samples:
            size = samples.seek(0, 2)
        if size < promised:
            raise DatasetError(
                f"{what}: its header promises {promised:,} bytes of samples; the file holds {size:,}.", cure=_CURE
            )
    header = _library_header(folder.root / path, what)
    rate, count = float(header.fs), int(header.sig_len)
    if not (math.isfinite(rate) and rate > 0):
        raise DatasetError(f"{what}: its header says that it has {rate:g} samples per second.", cure=_CURE)
    pairs = zip(_names(header), header.units, strict=True)
    found = [Channel(name, rate, count, str(unit or "")) for name, unit in pairs]
    return checked(what, found, count / rate)


def read_record(path: Path, what: str, names: Sequence[str], start: float, stop: float) -> list[Array]:
    """Read a stretch of some channels in physical units.

    Args:
        path: A header that `check_record` has let pass.
        what: How messages call the record.
        names: The channels.
        start: Where to begin, in seconds.
        stop: Where to end, in seconds.

    Returns:
        One float32 array of shape ``(samples,)`` per channel, in the order of ``names``; NaN where the record says
        that a sample is not valid.

    Raises:
        DatasetError: The record cannot be read any more.
    """
    wfdb = library("wfdb", "signals")
    header = _library_header(path, what)
    low, high = round(start * header.fs), min(round(stop * header.fs), header.sig_len)
    known = _names(header)
    try:
        places = [known.index(name) for name in names]
        record = wfdb.rdrecord(str(path.with_suffix("")), sampfrom=low, sampto=high, channels=places)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - wfdb raises plain Exception among others, with the path in its text
        raise DatasetError(f"{what} cannot be read as a WFDB record ({type(error).__name__}).", cure=_CURE) from None
    return [np.ascontiguousarray(record.p_signal[:, i], np.float32) for i in range(len(names))]


def _names(header: Any) -> list[str]:
    """The names of all channels; one that has none is called by its number."""
    return [str(name or number).strip() for number, name in enumerate(header.sig_name, 1)]


def _lines(folder: Folder, path: PurePath, what: str) -> list[list[str]]:
    """The words of each line of the header that says something."""
    with folder.open(path, what) as file:
        raw = file.read(_MAX_HEADER + 1)
    if len(raw) > _MAX_HEADER:
        raise DatasetError(f"{what} has a header of more than {_MAX_HEADER:,} bytes.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or len(lines[0]) < 2:
        raise DatasetError(f"{what} is not a WFDB record: its header says nothing.", cure=_CURE)
    return lines


def _promised(lines: list[list[str]], what: str) -> dict[str, int]:
    """How long each file of samples must be at least, in bytes."""
    first = lines[0]
    if "/" in first[0]:
        raise DatasetError(
            f"{what} is made of several segments, which are not read.",
            cure="Join them: read it with wfdb.rdrecord, and write it with wfdb.wrsamp.",
        )
    if len(first) < 4 or not (first[1].isascii() and first[1].isdigit() and first[3].isascii() and first[3].isdigit()):
        raise DatasetError(f"{what}: its header does not say how many channels and samples it has.", cure=_CURE)
    channels, samples = int(first[1][:9]), int(first[3][:18])
    if not (1 <= channels <= MAX_CHANNELS and samples >= 1):
        raise DatasetError(f"{what}: its header says that it has {channels} channels of {samples} samples.", cure=_CURE)
    if len(lines) <= channels or min(len(line) for line in lines[1 : channels + 1]) < 2:
        raise DatasetError(f"{what}: its header promises {channels} channels, but does not describe them.", cure=_CURE)
    bytes_of: dict[str, Fraction] = {}
    for name, coding, *_ in lines[1 : channels + 1]:
        match = _FORMAT.match(coding)
        if match is None or int(match[1][:6]) not in _BYTES:
            raise DatasetError(
                f"{what} stores samples in the format {coding[:20]!r}, which is not read.",
                cure=f"The formats that are read: {', '.join(map(str, sorted(_BYTES)))}.",
            )
        per_frame, offset = int((match[2] or "1")[:9]), int((match[4] or "0")[:18])
        already = bytes_of.get(name, Fraction(offset))
        bytes_of[name] = already + Fraction(_BYTES[int(match[1])]) * per_frame * samples
    return {name: math.floor(size) for name, size in bytes_of.items()}


def _library_header(path: Path, what: str) -> Any:
    wfdb = library("wfdb", "signals")
    if "::" in str(path):
        raise DatasetError(f"{what} lies at a path with '::' in it, which the library wfdb would misunderstand.")
    try:
        return wfdb.rdheader(str(path.with_suffix("")))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - likewise
        raise DatasetError(f"{what} is not a WFDB record ({type(error).__name__}).", cure=_CURE) from None
