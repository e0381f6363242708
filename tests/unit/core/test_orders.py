"""Orders of samples for many nodes at once are those that NumPy draws for one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core import orders
from fedplug.core.orders import permutations
from fedplug.core.rng import SeedTree

KEYS = st.lists(
    st.one_of(
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**32).map(lambda number: number.to_bytes(16, "little")),  # words of zeros are no part of a seed
        st.integers(0, 2**96 - 1).map(lambda number: (number << 32).to_bytes(16, "little")),
    ),
    min_size=1,
    max_size=40,
)


@given(KEYS)
def test_the_words_of_a_seed_are_those_of_numpy(keys: list[bytes]) -> None:
    found = orders._words(np.frombuffer(b"".join(keys), "<u4").reshape(-1, 4))
    for key, words in zip(keys, found, strict=True):
        sequence = np.random.SeedSequence(int.from_bytes(key, "little"))
        assert words.tolist() == sequence.generate_state(4, np.uint64).tolist()


@pytest.mark.parametrize("count", [0, 1, orders._WORTH - 1, orders._WORTH, 50])
def test_an_order_is_that_of_the_seed_s_own_generator(count: int) -> None:
    seeds = [SeedTree.root(7).child("node", number) for number in range(count)]
    sizes = [number % 5 * 30 for number in range(count)]
    found = permutations(seeds, sizes)
    assert [each.dtype for each in found] == [np.int64] * count
    expected = [seed.generator().permutation(size) for seed, size in zip(seeds, sizes, strict=True)]
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]
    assert all(seeds[0].key != seed.key for seed in seeds[1:])
