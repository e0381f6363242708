from __future__ import annotations

import random

import numpy as np
import pytest

from fedplug.core import rng
from fedplug.core.rng import (
    SeedTree,
    read_numpy_stream,
    read_python_stream,
    seeded_globals,
    write_numpy_stream,
    write_python_stream,
)


def test_a_place_in_the_tree_has_one_seed_however_it_is_reached():
    tree = SeedTree.root(42)
    assert tree.child("round", 3).child("node", "paris") == tree.child("round", 3, "node", "paris")
    assert SeedTree.root(42) == tree


def test_every_place_has_a_seed_of_its_own():
    tree = SeedTree.root(0)
    places = [tree, SeedTree.root(1), tree.child("a"), tree.child("b"), tree.child("a", "b"), tree.child("ab")]
    places += [tree.child(1), tree.child("1"), tree.child(11), tree.child(1, 1), tree.child(-1)]
    assert len({place.key for place in places}) == len(places)


def test_the_streams_are_fixed_forever():
    """These values are part of what must repeat bit for bit in another version."""
    tree = SeedTree.root(7).child("round", 0, "node", "a")
    assert tree.key.hex() == "c21f2ff02f0cae020067e3bb37128fd6"
    assert tree.generator().integers(0, 1000, 4).tolist() == [887, 772, 297, 466]


def test_no_seed_means_a_fresh_one():
    assert SeedTree.root() != SeedTree.root()


def test_ranges():
    for number in range(200):
        tree = SeedTree.root(number)
        assert 0 <= tree.seed32() < 2**32
        assert 0 <= tree.seed63() < 2**63


def test_generators_are_independent_of_each_other_and_of_the_global_stream():
    tree = SeedTree.root(1)
    first = tree.generator().random(3)
    np.random.seed(0)
    assert (tree.generator().random(3) == first).all()
    assert (tree.child("x").generator().random(3) != first).any()


def test_global_streams_are_seeded_and_restored_even_after_an_error():
    def draw():
        return random.random(), np.random.random()

    random.seed(1)
    np.random.seed(1)
    expected_after = draw()
    random.seed(1)
    np.random.seed(1)
    with seeded_globals(2**40 + 5):
        inside = draw()
    assert draw() == expected_after
    with seeded_globals(2**40 + 5):
        assert draw() == inside
    random.seed(1)
    with pytest.raises(KeyError), seeded_globals(0):
        raise KeyError
    assert random.random() == expected_after[0]


@pytest.mark.parametrize("drawn", [0, 1, 2, 3, 700])
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_a_normal_number_that_lies_ready_is_there_afterwards_and_not_inside(drawn, inside):
    def normals(count):
        return [np.random.standard_normal() for _ in range(count)]

    np.random.seed(3)
    expected = normals(drawn + 4)[drawn:]
    np.random.seed(3)
    normals(drawn)
    before = np.random.get_state(legacy=False)
    with seeded_globals(8):
        assert np.random.get_state(legacy=False)["has_gauss"] == 0
        normals(inside)
    after = np.random.get_state(legacy=False)
    assert (after["has_gauss"], after["gauss"]) == (before["has_gauss"], before["gauss"])
    assert after["state"]["pos"] == before["state"]["pos"]
    assert (after["state"]["key"] == before["state"]["key"]).all()
    assert normals(4) == expected


def test_to_look_where_the_global_stream_is_does_not_move_it():
    np.random.seed(3)
    first = read_numpy_stream()
    assert read_numpy_stream() == first
    np.random.standard_normal()
    second = read_numpy_stream()
    assert second.spare is not None
    assert read_numpy_stream() == second
    np.random.standard_normal()  # takes what lies ready, and draws nothing
    assert read_numpy_stream() != second
    write_numpy_stream(first)
    assert read_numpy_stream() == first


def test_another_generator_behind_the_global_stream_is_restored_too():
    usual = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(5))
    try:
        before = read_numpy_stream()
        np.random.random(3)
        write_numpy_stream(before)
        assert read_numpy_stream() == before
    finally:
        np.random.set_bit_generator(usual)


@pytest.mark.parametrize("words", ["as they lie in memory", "as Python numbers"])
@pytest.mark.parametrize("drawn", [0, 1, 700])
def test_the_stream_of_python_is_brought_back_with_the_normal_number_that_lies_ready(words, drawn, monkeypatch):
    if words == "as Python numbers":
        monkeypatch.setattr(rng, "_PYTHON_WORDS", 0)
    random.seed(4)
    for _ in range(drawn):
        random.gauss(0.0, 1.0)
    before, state = random.getstate(), read_python_stream()
    assert read_python_stream() == state
    assert random.getstate() == before
    expected = [random.gauss(0.0, 1.0), random.random()]
    assert read_python_stream() != state
    write_python_stream(state)
    assert random.getstate() == before
    assert [random.gauss(0.0, 1.0), random.random()] == expected


def test_words_are_looked_for_only_where_they_are():
    class Other(random.Random):
        def getstate(self):
            return (3, (0,) * 625, None)

    assert rng._words_of(random.Random(5))
    assert not rng._words_of(Other(5))
