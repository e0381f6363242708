"""Noise that nobody can predict who does not hold its key, and that repeats for who does.

Differential privacy needs noise that whoever sees the result cannot take away again. The generators of NumPy and
PyTorch are no help there: PCG64 and the Mersenne Twister are predictable from their output, and torch's generator on
the processor starts from 32 bits, which can be tried out. So noise is made from SHAKE-256 (FIPS 202) over a key of
256 bits and a counter.
"""

from __future__ import annotations

import hashlib
import hmac
import math

import numpy as np

from fedplug.core.params import Array

KEY_BYTES = 32
_BLOCK = 2**19  # numbers made at a time: 4 MiB of hash
_MARK = b"fedplug-noise-1:"


class NoiseStream:
    """Random numbers from a secret key, in the order in which they are asked for.

    Args:
        key: 32 bytes that only those know who may know the noise.

    Example:
        >>> NoiseStream(b"k" * 32).normal(3).tolist() == NoiseStream(b"k" * 32).normal(3).tolist()
        True
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"A key has {KEY_BYTES} bytes, this one {len(key)}.")
        self._key = key
        self._counter = 0

    def __repr__(self) -> str:
        return "NoiseStream(...)"  # a key must not end in a log

    def uniform(self, count: int) -> Array:
        """``count`` numbers in [0, 1), multiples of 2**-53."""
        out = np.empty(count, np.float64)
        for low in range(0, count, _BLOCK):
            part = out[low : low + _BLOCK]
            np.multiply(self._words(part.size) >> np.uint64(11), 2.0**-53, out=part)
        return out

    def normal(self, count: int) -> Array:
        """``count`` numbers of the standard normal distribution (Box and Muller 1958), in float64.

        The uniform numbers behind them are multiples of 2**-53, so none is beyond ``sqrt(2 * 53 * ln 2)``, 8.6.
        """
        out = np.empty(count, np.float64)
        for low in range(0, count, _BLOCK):
            part = out[low : low + _BLOCK]
            half = (part.size + 1) // 2
            radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
            angle = (2.0 * math.pi) * self.uniform(half)
            part[:half] = radius * np.cos(angle)
            part[half:] = (radius * np.sin(angle))[: part.size - half]
        return out

    def _words(self, count: int) -> Array:
        start = _MARK + self._key + self._counter.to_bytes(8, "little")
        self._counter += 1
        return np.frombuffer(hashlib.shake_256(start).digest(8 * count), "<u8")


def derive_key(secret: bytes, *parts: bytes) -> bytes:
    """A key for one purpose: HMAC-SHA256 of ``parts``, in their order, under ``secret``.

    Who holds the key learns nothing about the secret or about the keys of other purposes.
    """
    mac = hmac.new(secret, _MARK, "sha256")
    for part in parts:
        mac.update(len(part).to_bytes(8, "little"))
        mac.update(part)
    return mac.digest()
