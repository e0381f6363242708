"""An order of updates that does not know the nodes: by their values.

Sums, ties and everything else that depends on an order then depends on what was sent and not on who sent it, to the
last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedplug.core.params import Array
from fedplug.core.update import Update
from fedplug_robust.columns import is_float

_FIRST, _LARGEST = 64, 65_536  # values that are looked at at a time


def by_values(updates: Sequence[Update]) -> list[Update]:
    """``updates`` by their parameters, the first value that differs deciding (smaller first).

    So the order stays when all updates are shifted or stretched alike. Updates with the same parameters, to the bit,
    follow each other by their counts; the name of the node decides last, between updates that differ in nothing else.
    Only as many values are read as it takes to tell the updates apart.
    """
    return [update for group in grouped(updates) for update in group]


def grouped(updates: Sequence[Update]) -> list[list[Update]]:
    """``updates`` in the order of `by_values`, those with the same parameters, to the bit, together."""
    by_counts = sorted(updates, key=lambda update: (update.sample_count, update.steps, update.node_id))
    groups = [by_counts] if by_counts else []
    runs = {id(update): update.params.runs() for update in by_counts}
    for index, (_, _, count) in enumerate(by_counts[0].params.spec.runs if by_counts else ()):
        low, block = 0, _FIRST
        while low < count and any(len(group) > 1 for group in groups):
            split: list[list[Update]] = []
            for group in groups:
                if len(group) == 1:
                    split.append(group)
                    continue
                parts: dict[bytes, list[Update]] = {}
                for update in group:
                    parts.setdefault(_key(runs[id(update)][index][low : low + block]), []).append(update)
                split += [parts[key] for key in sorted(parts)]
            groups = split
            low, block = low + block, min(4 * block, _LARGEST)
    return groups


def _key(values: Array) -> bytes:
    """Bytes that compare as the values do, the first one deciding."""
    size = values.dtype.itemsize
    bits = values.view(f"u{size}")
    top = np.array(1 << (8 * size - 1), bits.dtype)
    if is_float(values.dtype):
        bits = np.where(bits & top, ~bits, bits | top)
    elif values.dtype.kind == "i":
        bits = bits ^ top
    return bits.astype(f">u{size}").tobytes()
