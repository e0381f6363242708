"""The seed tree: one root seed, one independent stream per (round, node, purpose).

A stream is named by its path, never by the order in which somebody asks for it, so that arrival order,
the number of workers and a resumed run do not change a single draw. A child's seed is the first 128 bits
of SHA-256 over its parent's seed and its own label.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global streams of ``random`` and NumPy; restore them on leaving.

    Plan code is free to use the global streams, so they are part of what must repeat bit for bit.
    Frameworks add their own stream in `TrainingPlan.seeded`.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global stream is what this is about
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
