"""The recordings of a folder, in EDF or as WFDB records, and the names that plans use for their channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets import edf_file, wfdb_record
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.loading_plan import LoadingPlan, renamed
from fedplug.node.datasets.recording import Channel, Recording
from fedplug.node.datasets.subjects import some

_SUFFIXES = (*edf_file.SUFFIXES, *wfdb_record.SUFFIXES)


@dataclass(frozen=True)
class Entry:
    """A recording of a folder.

    Attributes:
        name: That of its file, without ending. It never leaves the node.
        path: Its file; of a WFDB record, the header.
        seconds: How long it is.
        channels: Its channels, by the names that plans use.
    """

    name: str
    path: PurePath
    seconds: float
    channels: Mapping[str, Channel]


def list_recordings(folder: Folder, plan: LoadingPlan) -> list[Entry]:
    """Find all recordings in a folder and the folders in it, and check their headers.

    Args:
        folder: The folder of the data set.
        plan: What the channels that plans ask for are called here: a recording's is the first of these that it has.

    Raises:
        DatasetError: There are none, two have one name, a header lies, no recording has what the plan names.
    """
    files = [file for file in folder.files() if file.suffix.lower() in _SUFFIXES]
    found = [
        (file.stem, file, _check(folder, file, folder.entry(file, number))) for number, file in enumerate(files, 1)
    ]
    if not found:
        raise DatasetError(
            f"{folder.label} holds no recordings.", cure="It should hold EDF files (.edf) or WFDB records (.hea)."
        )
    counts = Counter(name for name, _, _ in found)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        named = f" called {twice!r}" if folder.for_owner else " of one name"
        raise DatasetError(f"{folder.label} has two recordings{named}.", cure="Give each a name of its own.")
    local = list(dict.fromkeys(channel.name for _, _, recording in found for channel in recording.channels))
    for wanted, names in plan.items():
        if set(local).isdisjoint((*names, wanted)):
            raise DatasetError(
                f"{folder.label}: no recording has what its loading plan calls {wanted!r}: {', '.join(names)}.",
                cure=f"There is: {', '.join(local[:40])}.",
            )
    return [Entry(name, path, recording.seconds, _named(recording, plan)) for name, path, recording in found]


def channels_of(entries: Sequence[Entry]) -> list[str]:
    """All channels that a recording has, in the order in which they first occur."""
    return list(dict.fromkeys(name for entry in entries for name in entry.channels))


def read_channels(
    folder: Folder, entry: Entry, names: Sequence[str], start: float, stop: float, number: int
) -> list[Array]:
    """A stretch of some channels, as `read_edf` and `read_record` give them.

    Raises:
        DatasetError: The recording is gone or damaged.
    """
    what = folder.entry(entry.path, number) if folder.for_owner else f"{folder.label}: recording {number}"
    _check(folder, entry.path, what)  # it may have been changed since
    local = [entry.channels[name].name for name in names]
    read = edf_file.read_edf if entry.path.suffix.lower() in edf_file.SUFFIXES else wfdb_record.read_record
    return read(folder.root / entry.path, what, local, start, stop)


def recording_notes(entries: Sequence[Entry]) -> list[str]:
    """For the owner: how long they are, and channels that are missing or differ in rate or unit."""
    seconds = [entry.seconds for entry in entries]
    low, high = min(seconds), max(seconds)
    lengths = f"{low:g} seconds" if low == high else f"{low:g} to {high:g} seconds"
    notes = [f"{len(entries)} recordings of {lengths}."]
    for name in channels_of(entries):
        without = [entry.name for entry in entries if name not in entry.channels]
        if without:
            notes.append(f"{len(without)} of {len(entries)} recordings have no channel {name}: {some(without)}.")
        having = [entry.channels[name] for entry in entries if name in entry.channels]
        for what, counts in (
            ("sampling rates", Counter(f"{channel.rate:g} Hz" for channel in having)),
            ("units", Counter(channel.unit or "none" for channel in having)),
        ):
            if len(counts) > 1:
                listed = ", ".join(f"{text} ({count})" for text, count in counts.most_common(3))
                notes.append(f"Channel {name} has {len(counts)} {what}: {listed}.")
    return notes


def _named(recording: Recording, plan: LoadingPlan) -> dict[str, Channel]:
    """The channels of a recording by the names that plans use."""
    channels = {channel.name: channel for channel in recording.channels}
    return {wanted: channels[here] for wanted, here in renamed(channels, plan).items()}


def _check(folder: Folder, path: PurePath, what: str) -> Recording:
    if path.suffix.lower() in wfdb_record.SUFFIXES:
        return wfdb_record.check_record(folder, path, what)
    library("edfio", "signals")  # without which it could not be read later
    with folder.open(path, what) as file:
        return edf_file.check_edf(file, what)
