"""What all recordings of signals have in common, whatever format they are stored in."""

from __future__ import annotations

from dataclasses import dataclass

from fedplug.core.errors import DatasetError

MAX_CHANNELS = 4096


@dataclass(frozen=True)
class Channel:
    """One channel of a recording.

    Attributes:
        name: E.g. ``"ECG"``.
        rate: Samples per second.
        samples: Their number.
        unit: Of the values, e.g. ``"mV"``.
    """

    name: str
    rate: float
    samples: int
    unit: str


@dataclass(frozen=True)
class Recording:
    """What the checked header of a recording says.

    Attributes:
        channels: In the order of the file, each name once.
        seconds: How long it is.
    """

    channels: tuple[Channel, ...]
    seconds: float

    def channel(self, name: str) -> Channel | None:
        """The channel of that name, if there is one."""
        return next((channel for channel in self.channels if channel.name == name), None)


def checked(what: str, channels: list[Channel], seconds: float) -> Recording:
    """A recording, if its channels can be told apart.

    Raises:
        DatasetError: There is no channel, or two have one name.
    """
    if not channels:
        raise DatasetError(f"{what} has no channel with a signal.")
    names = [channel.name for channel in channels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DatasetError(f"{what} has two channels called {twice!r}.", cure="Give each a name of its own.")
    return Recording(tuple(channels), seconds)
