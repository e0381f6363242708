"""The seed tree: one root seed, one independent stream per (round, node, purpose).

A stream is named by its path, never by the order in which somebody asks for it, so that arrival order,
the number of workers and a resumed run do not change a single draw. A child's seed is the first 128 bits
of SHA-256 over its parent's seed and its own label.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import secrets
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class SeedTree:
    """A node of the tree of seeds.

    Example:
        >>> tree = SeedTree.root(42)
        >>> tree.child("round", 3).child("node", "paris").seed32() == tree.child("round", 3, "node", "paris").seed32()
        True
    """

    key: bytes

    @classmethod
    def root(cls, seed: int | None = None) -> SeedTree:
        """The root for ``seed``; a fresh random one where ``seed`` is None."""
        text = secrets.token_hex(16) if seed is None else str(int(seed))
        return cls(hashlib.sha256(b"fedplug-seed:" + text.encode()).digest()[:16])

    def child(self, *labels: str | int) -> SeedTree:
        """The subtree below this one that is named by ``labels``, one level each."""
        key = self.key
        for label in labels:
            kind = b"i" if isinstance(label, int) else b"s"
            key = hashlib.sha256(key + kind + str(label).encode()).digest()[:16]
        return SeedTree(key)

    def seed32(self) -> int:
        """A seed in [0, 2**32), the range that every library takes."""
        return int.from_bytes(self.key[:4], "little")

    def seed63(self) -> int:
        """A seed in [0, 2**63), fit for a signed 64-bit field."""
        return int.from_bytes(self.key[:8], "little") >> 1

    def generator(self) -> np.random.Generator:
        """A NumPy generator (PCG64) of its own for this place in the tree."""
        return np.random.Generator(np.random.PCG64(int.from_bytes(self.key, "little")))


GLOBAL_STREAMS = threading.RLock()
"""To be held by whoever seeds the global random streams, or draws from them: a process has one of each, so that of two
trainings in its threads one waits for the other."""

_BYTES = 625 * 4  # of a Mersenne Twister: 624 words, and where in them it is


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global streams of ``random`` and NumPy; restore them on leaving.

    Plan code is free to use the global streams, so they are part of what must repeat bit for bit.
    Frameworks add their own stream in `TrainingPlan.seeded`. Meanwhile `GLOBAL_STREAMS` is held.
    """
    with GLOBAL_STREAMS:
        python_state, numpy_state = read_python_stream(), read_numpy_stream()
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            write_python_stream(python_state)
            write_numpy_stream(numpy_state)


class PythonState(NamedTuple):
    """Where the global stream of ``random`` is.

    Attributes:
        words: The state of its Mersenne Twister as it lies in memory; empty where that is not known.
        spare: The normal number that lies ready; None if there is none.
        other: What ``random.getstate`` gives, without ``words``.
    """

    words: bytes
    spare: float | None
    other: Any = None


def read_python_stream() -> PythonState:
    """The state of the global stream of ``random``, as `read_numpy_stream` reads that of NumPy."""
    if not _PYTHON_WORDS:
        return PythonState(b"", None, random.getstate())
    return PythonState(ctypes.string_at(_PYTHON_WORDS, _BYTES), _PYTHON_STREAM.gauss_next)


def write_python_stream(state: PythonState) -> None:
    """Bring the global stream of ``random`` to where it was when `read_python_stream` gave ``state``."""
    if state.other is not None:
        random.setstate(state.other)
    else:
        ctypes.memmove(_PYTHON_WORDS, state.words, _BYTES)
        _PYTHON_STREAM.gauss_next = state.spare


class NumpyState(NamedTuple):
    """Where NumPy's global stream is.

    Attributes:
        words: The state of its Mersenne Twister as it lies in memory; of another generator, empty.
        spare: The normal number that lies ready, as they are made in pairs; None if there is none.
        other: The state of another generator than the usual one.
    """

    words: bytes
    spare: float | None
    other: Any = None


def read_numpy_stream() -> NumpyState:
    """The state of NumPy's global stream.

    ``numpy.random.get_state`` turns 624 words into Python numbers, and ``set_state`` turns them back: together that
    takes as long as a step of a small model. So the words are copied as they are. Whether a normal number lies ready
    cannot be asked for; a draw of one shows it, and is undone.
    """
    stream = np.random.mtrand._rand
    generator = stream._bit_generator
    if type(generator) is not np.random.MT19937:
        return NumpyState(b"", None, np.random.get_state(legacy=False))  # noqa: NPY002 - the global stream is meant
    address = generator.ctypes.state_address
    words = ctypes.string_at(address, _BYTES)
    drawn = stream.standard_normal()
    if ctypes.string_at(address, _BYTES) == words:
        state = NumpyState(words, drawn)
        write_numpy_stream(state)
        return state
    stream.standard_normal()  # the second of the pair, which lies ready now
    ctypes.memmove(address, words, _BYTES)
    return NumpyState(words, None)


def write_numpy_stream(state: NumpyState) -> None:
    """Bring NumPy's global stream to where it was when `read_numpy_stream` gave ``state``."""
    stream = np.random.mtrand._rand
    generator = stream._bit_generator
    if state.other is not None:
        stream.set_state(state.other)
    elif state.spare is not None or type(generator) is not np.random.MT19937:
        key, place = np.frombuffer(state.words[:-4], np.uint32), int.from_bytes(state.words[-4:], sys.byteorder)
        twister = {"bit_generator": "MT19937", "state": {"key": key, "pos": place}}
        stream.set_state({**twister, "has_gauss": int(state.spare is not None), "gauss": state.spare or 0.0})
    else:
        stream.seed(0)  # no normal number lies ready then
        ctypes.memmove(generator.ctypes.state_address, state.words, _BYTES)


def _words_of(stream: random.Random) -> int:
    """The address of the words of a stream of ``random``; 0 unless they lie where CPython has them."""
    address, base = id(stream) + object.__basicsize__, type(stream).__base__
    if base is None or base.__basicsize__ < object.__basicsize__ + _BYTES:
        return 0
    place, *words = struct.unpack("i624I", ctypes.string_at(address, _BYTES))
    return address if (*words, place) == stream.getstate()[1] else 0


_PYTHON_STREAM: Any = random._inst  # whose methods the functions of random are
_PYTHON_WORDS = _words_of(_PYTHON_STREAM)
