"""Recordings of signals, as a whole or in windows, for training plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.datasets.base import PlanDataset, Transform
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array

_ROUNDING = 1e-9


class SignalDataset(PlanDataset):
    """Channels of the recordings of a data set of type ``signals`` that have all that is asked for here.

    A sample's data is a float32 array of shape ``(channels, values)`` in physical units; its target is what the table
    of labels says about the recording.

    Args:
        channels: One or several channels.
        target: The column of the table to predict; empty for none.
        window: Seconds of a sample: each recording gives as many as fit into it. None: a recording is one sample.
        step: Seconds from the start of one window to that of the next; by default they adjoin.
        rate: Values per second to which all channels are brought by linear interpolation (nothing is filtered). None:
            those of the files, which then must be the same for all channels.
        transform: Applied to the data of each sample.
        target_transform: Applied to its target. Text needs one, such as ``{"sinus": 0, "af": 1}.get``.

    Raises:
        UsageError: There is no channel, or a number is not above zero.

    Example:
        >>> dataset = SignalDataset(["ECG"], target="rhythm", window=10.0, rate=100)
    """

    needs = "signals"

    def __init__(
        self,
        channels: str | Sequence[str],
        target: str = "",
        *,
        window: float | None = None,
        step: float | None = None,
        rate: float | None = None,
        transform: Transform = None,
        target_transform: Transform = None,
    ) -> None:
        super().__init__(transform, target_transform)
        self.channels = (channels,) if isinstance(channels, str) else tuple(channels)
        self.target = target
        for name, value in (("window", window), ("step", step), ("rate", rate)):
            if value is not None and not _is_above_zero(value):
                raise UsageError(f"{name} of SignalDataset must be a number above zero, got {value!r}.")
        if not self.channels:
            raise UsageError("SignalDataset needs a channel.", cure='E.g. SignalDataset("ECG").')
        if step is not None and window is None:
            raise UsageError("step of SignalDataset says how far windows are apart, so it needs window.")
        self.window = window
        self.step = window if step is None else step
        self.rate = rate
        self._places: list[tuple[int, float]] = []

    def connect(self) -> None:
        """Find the recordings that have everything, and how many windows each gives.

        Raises:
            DatasetError: There is no such channel or column, the column is text, or no recording has everything.
        """
        column = [self.target] if self.target else []
        wanted = [*self.channels, *column]
        found = self.node.having(wanted)
        self._places = [(int(i), start) for i in found for start in self._starts(self.node.seconds(int(i)))]
        if not self._places:
            what = f" and lasts {self.window:g} seconds" if self.window and len(found) else ""
            raise DatasetError(f"No recording of data set {self.node.name!r} has {', '.join(wanted)}{what}.")
        if column and self.target_transform is None:
            value = self.node.read(self._places[0][0], column)[self.target]
            if np.asarray(value).dtype.kind not in "biuf":
                raise DatasetError(
                    f"Column {self.target!r} of data set {self.node.name!r} is text.",
                    cure='Give a target_transform, e.g. {"sinus": 0, "af": 1}.get.',
                )

    def __len__(self) -> int:
        self.node  # noqa: B018 - says that there is none yet
        return len(self._places)

    def sample(self, index: int) -> tuple[Any, Any]:
        """As `PlanDataset.sample`."""
        recording, start = self._places[index]
        end = self.node.seconds(recording)
        stop = end if self.window is None else min(start + self.window, end)
        column = [self.target] if self.target else []
        found = self.node.read(recording, [*self.channels, *column], start, stop)
        signals = [found[name] for name in self.channels]
        if self.rate is not None:
            signals = [_resampled(values, stop - start, self.rate) for values in signals]
        elif self.window is not None:  # where a window begins between two values, one more may lie in it
            signals = [
                values[: self._count(recording, name)] for values, name in zip(signals, self.channels, strict=True)
            ]
        if len(set(map(len, signals))) > 1:
            raise DatasetError(
                f"Channels of data set {self.node.name!r} have different sampling rates: "
                f"{', '.join(str(len(values)) for values in signals)} values in {stop - start:g} seconds.",
                cure="Bring them to one: SignalDataset(..., rate=100).",
            )
        return np.stack(signals), found[self.target] if self.target else None

    def targets(self) -> Array | None:
        """What the table says about the recording of each sample."""
        if not self.target:
            return None
        known = {i: self.node.read(i, [self.target])[self.target] for i in {place for place, _ in self._places}}
        return np.array([known[place] for place, _ in self._places])

    def _starts(self, seconds: float) -> list[float]:
        if self.window is None or self.step is None:
            return [0.0]
        count = math.floor((seconds - self.window) / self.step + _ROUNDING) + 1
        return [number * self.step for number in range(max(count, 0))]

    def _count(self, recording: int, channel: str) -> int:
        return math.floor((self.window or 0.0) * float(self.node.rate(recording, channel)) + _ROUNDING)


def _is_above_zero(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _resampled(values: Array, seconds: float, rate: float) -> Array:
    """At ``rate`` values per second, by linear interpolation between the neighbours."""
    wanted = np.arange(round(seconds * rate)) / rate
    given = np.arange(len(values)) * (seconds / len(values))
    return np.interp(wanted, given, values).astype(np.float32)
