"""Memory that is used again: only when nothing looks at it any more, and only until it is given back."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from fedplug.core.block_stock import BlockStock
from fedplug.core.params import large_block

SIZE = 2**20


@pytest.fixture
def made():
    """The blocks that were made, by number."""
    return []


@pytest.fixture
def stock(made):
    def make(nbytes: int) -> mmap.mmap:
        made.append(nbytes)
        return large_block(nbytes)

    return BlockStock(make, keep=1)


def test_what_is_gone_leaves_its_block_to_the_next_of_its_size(stock, made):
    first = stock.allocate(SIZE)
    first[:] = 7
    del first
    again = stock.allocate(SIZE)
    assert made == [SIZE]
    assert again[0] == 7, "the same memory, as it was left"
    stock.allocate(2 * SIZE)
    assert made == [SIZE, 2 * SIZE]


def test_a_block_stays_out_as_long_as_any_view_of_it_is_there(stock, made):
    array = stock.allocate(SIZE)
    view = array[8:24].view(np.uint64)
    del array
    stock.allocate(SIZE)
    assert made == [SIZE, SIZE]
    view[:] = 1
    del view
    stock.allocate(SIZE)
    assert made == [SIZE, SIZE]


def test_it_keeps_no_more_than_it_is_to_keep(stock, made):
    both = [stock.allocate(SIZE), stock.allocate(SIZE)]
    both.clear()
    both = [stock.allocate(SIZE), stock.allocate(SIZE)]
    assert len(made) == 3


def test_small_blocks_are_not_kept(stock, made):
    for _ in range(2):
        stock.allocate(SIZE - 1)
    assert made == [SIZE - 1, SIZE - 1]


def test_an_emptied_stock_has_nothing_and_what_was_lent_does_not_come_back(stock, made):
    lent = stock.allocate(SIZE)
    stock.empty()
    del lent
    assert stock.take(SIZE) is None
    kept = stock.allocate(SIZE)
    del kept
    stock.empty()
    assert stock.take(SIZE) is None
    assert len(made) == 2
