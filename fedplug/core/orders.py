"""Orders of samples for many nodes at once: the bits of one after the other, in a third of the time.

Most of what a small order costs is the making of its generator: NumPy turns the 128 bits of a seed into four words of
64 bits by some two hundred operations on single numbers. Here these are done for all seeds together. How it is done is
part of what NumPy promises to keep (NEP 19); it is M. E. O'Neill's ``seed_seq_fe128``, from "Developing a seed_seq
alternative" (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from fedplug.core.params import Array
from fedplug.core.rng import SeedTree

_WORTH = 16
"""For fewer seeds, NumPy is faster."""

_LEFT, _RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_HALF = np.uint32(16)


def _chain(start: int, factor: int, count: int) -> list[tuple[np.uint32, np.uint32]]:
    """Powers of a factor, each with the next: what the values of a chain of hashes are mixed with."""
    powers = [start]
    for _ in range(count):
        powers.append(powers[-1] * factor % 2**32)
    return [(np.uint32(now), np.uint32(after)) for now, after in pairwise(powers)]


_IN = _chain(0x43B0D7E5, 0x931E8875, 16)
_OUT = _chain(0x8B51F9DD, 0x58F38DED, 8)


def permutations(seeds: Sequence[SeedTree], sizes: Sequence[int]) -> list[Array]:
    """For each seed, what ``seed.generator().permutation(size)`` gives.

    Args:
        seeds: One for each order.
        sizes: How many samples each order has.

    Returns:
        Arrays of int64, each of shape ``(size,)``.
    """
    if len(seeds) < _WORTH:
        return [seed.generator().permutation(size) for seed, size in zip(seeds, sizes, strict=True)]
    words = _words(np.frombuffer(b"".join(seed.key for seed in seeds), "<u4").reshape(-1, 4))
    return [_generator(each).permutation(size) for each, size in zip(words, sizes, strict=True)]


def _generator(words: Array) -> np.random.Generator:
    known = _Known(words)
    return np.random.Generator(np.random.PCG64(known))  # type: ignore[arg-type] # its stub forgets ISeedSequence


class _Known(ISeedSequence):
    """A seed sequence whose words are known."""

    def __init__(self, words: Array) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Array:
        """The words that PCG64 asks for."""
        assert (n_words, dtype) == (len(self._words), self._words.dtype), "only PCG64 is made of these"
        return self._words


def _words(keys: Array) -> Array:
    """What ``numpy.random.SeedSequence(key).generate_state(4, numpy.uint64)`` gives for each key.

    Args:
        keys: The keys, uint32 of shape ``(n, 4)``, lowest word first.

    Returns:
        uint64 of shape ``(n, 4)``.
    """
    powers = iter(_IN)

    def hashed(value: Array) -> Array:
        now, after = next(powers)
        return _folded((value ^ now) * after)

    pool = [hashed(keys[:, place]) for place in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = _folded(pool[target] * _LEFT - hashed(pool[source]) * _RIGHT)
    halves = np.empty((len(keys), 8), np.uint32)
    for place, (now, after) in enumerate(_OUT):
        halves[:, place] = _folded((pool[place % 4] ^ now) * after)
    low, high = halves[:, ::2].astype(np.uint64), halves[:, 1::2].astype(np.uint64)
    return low | high << np.uint64(32)


def _folded(value: Array) -> Array:
    folded: Array = value ^ (value >> _HALF)
    return folded
