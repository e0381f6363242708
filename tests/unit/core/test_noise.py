"""Noise from a key: it repeats, it is what it says, and nothing shows the key."""

from __future__ import annotations

import hashlib
import hmac
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core import noise
from fedplug.core.noise import NoiseStream, derive_key

KEY = bytes(range(32))
COUNT = 200_000


def test_the_same_key_gives_the_same_numbers_in_the_order_of_asking():
    one, two, other = NoiseStream(KEY), NoiseStream(KEY), NoiseStream(KEY[::-1])
    first, second = one.normal(9), one.normal(9)
    assert first.tolist() == two.normal(9).tolist()
    assert second.tolist() == two.normal(9).tolist()
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.normal(9).tolist()


def test_the_numbers_are_those_of_shake_256():
    words = np.frombuffer(hashlib.shake_256(b"fedplug-noise-1:" + KEY + bytes(8)).digest(24), "<u8")
    assert NoiseStream(KEY).uniform(3).tolist() == [(int(word) >> 11) / 2**53 for word in words]


def test_normal_numbers_have_the_moments_and_the_shape_of_the_normal_distribution():
    z = NoiseStream(KEY).normal(COUNT)
    # Of n independent draws: the mean has standard deviation 1/sqrt(n); the sum of squares is chi-square with n
    # degrees of freedom, mean n and variance 2n; the part below t is binomial. Five deviations: once in 1.7 million.
    assert abs(z.mean()) < 5 / math.sqrt(COUNT)
    assert abs((z**2).sum() - COUNT) < 5 * math.sqrt(2 * COUNT)
    for t in (-2.0, -1.0, 0.0, 0.5, 1.5):
        p = 0.5 * (1 + math.erf(t / math.sqrt(2)))
        assert abs((z < t).sum() - COUNT * p) < 5 * math.sqrt(COUNT * p * (1 - p))
    # cosine and sine of one angle: the halves must not be correlated
    assert abs((z[: COUNT // 2] * z[COUNT // 2 :]).mean()) < 5 / math.sqrt(COUNT / 2)


def test_uniform_numbers_choose_with_the_probability_asked_for():
    u = NoiseStream(KEY).uniform(COUNT)
    assert u.min() >= 0
    assert u.max() < 1
    for q in (0.01, 0.3):
        assert abs((u < q).sum() - COUNT * q) < 5 * math.sqrt(COUNT * q * (1 - q))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 17])
def test_any_number_of_numbers_in_blocks(count, monkeypatch):
    monkeypatch.setattr(noise, "_BLOCK", 8)
    z = NoiseStream(KEY).normal(count)
    assert z.shape == (count,)
    assert np.isfinite(z).all()
    assert len(set(z.tolist())) == count  # no block repeats another


def test_a_key_has_its_size_and_is_not_shown():
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseStream(b"short")
    assert KEY.hex() not in repr(NoiseStream(KEY))
    assert str(KEY) not in repr(NoiseStream(KEY))


def test_derived_keys_are_hmacs_of_all_parts():
    parts = b"".join(len(part).to_bytes(8, "little") + part for part in (b"ab", b"c"))
    assert derive_key(KEY, b"ab", b"c") == hmac.new(KEY, b"fedplug-noise-1:" + parts, "sha256").digest()


@given(st.lists(st.binary(max_size=3), max_size=3), st.lists(st.binary(max_size=3), max_size=3))
def test_other_parts_give_another_key(one, two):
    assert (derive_key(KEY, *one) == derive_key(KEY, *two)) == (one == two)
