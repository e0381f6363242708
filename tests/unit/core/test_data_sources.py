from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from fedplug.core.data import ArrayData, DataManager, LoaderArgs, sample_count, take
from fedplug.core.errors import DatasetError, UnknownNameError, UsageError
from fedplug.core.rng import SeedTree


class Pair(NamedTuple):
    left: Any
    right: Any


def test_later_loader_args_win():
    assert LoaderArgs.merge({"batch_size": 4, "shuffle": False}, {"batch_size": 8, "num_workers": 2}) == LoaderArgs(
        8, shuffle=False, extra={"num_workers": 2}
    )


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "8", None])
def test_batch_size_must_be_a_positive_whole_number(size):
    with pytest.raises(UsageError, match="batch_size must be a positive whole number"):
        LoaderArgs.merge({"batch_size": size})


def test_shuffle_must_be_a_bool():
    with pytest.raises(UsageError, match="shuffle must be True or False, got 'False'"):
        LoaderArgs.merge({"shuffle": "False"})


def test_unknown_loader_argument_names_the_nearest():
    data = ArrayData(np.zeros((3, 1)))
    with pytest.raises(UnknownNameError, match="'bacth_size'") as caught:
        data.check_args(LoaderArgs.merge({"bacth_size": 4}))
    assert "Did you mean 'batch_size'?" in str(caught.value)


def test_data_manager_needs_data():
    with pytest.raises(UsageError, match="needs a dataset"):
        DataManager(None)


def test_nested_arrays_are_taken_together():
    data = {"a": np.arange(4), "b": [np.arange(8).reshape(4, 2), (np.ones(4),)], "c": Pair(np.arange(4), np.arange(4))}
    assert sample_count(data) == 4
    taken = take(data, np.array([3, 1]))
    assert taken["a"].tolist() == [3, 1]
    assert taken["b"][0].tolist() == [[6, 7], [2, 3]]
    assert isinstance(taken["b"][1], tuple)
    assert taken["c"] == Pair(*taken["c"])
    assert taken["c"].right.tolist() == [3, 1]


def test_lengths_must_agree():
    with pytest.raises(DatasetError, match=r"one length, but have \[3, 4\]"):
        ArrayData({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(DatasetError, match="3 samples, the target 4"):
        ArrayData(np.zeros(3), np.zeros(4))
    with pytest.raises(DatasetError, match="float is not an array"):
        ArrayData([1.0, 2.0])


def test_batches_cover_all_samples_and_drop_last_leaves_the_rest():
    data = ArrayData(np.arange(10), np.arange(10) * 10)
    got = [(x.tolist(), y.tolist()) for x, y in data.batches(LoaderArgs(4), None)]
    assert got == [([0, 1, 2, 3], [0, 10, 20, 30]), ([4, 5, 6, 7], [40, 50, 60, 70]), ([8, 9], [80, 90])]
    assert [len(x) for x, _ in data.batches(LoaderArgs(4, drop_last=True), np.arange(10)[::-1])] == [4, 4]


def test_batches_without_target_carry_none():
    assert [y for _, y in ArrayData(np.arange(3)).batches(LoaderArgs(2), None)] == [None, None]


def test_split_holds_out_floor_of_the_ratio_and_repeats():
    data = ArrayData(np.arange(11), np.arange(11))
    train, test = data.split(0.3, SeedTree.root(1))
    again = data.split(0.3, SeedTree.root(1))
    other = data.split(0.3, SeedTree.root(2))
    assert (len(train), len(test)) == (8, 3)
    assert sorted([*train.data, *test.data]) == list(range(11))
    assert test.data.tolist() == again[1].data.tolist() != other[1].data.tolist()


def test_split_of_nothing_copies_nothing():
    data = ArrayData(np.arange(4))
    train, test = data.split(0.0, SeedTree.root(1))
    assert train is data
    assert len(test) == 0


def test_labels_are_the_single_target():
    assert ArrayData(np.zeros(2), np.array([1, 0])).labels().tolist() == [1, 0]
    assert ArrayData(np.zeros(2)).labels() is None
    assert ArrayData(np.zeros(2), (np.zeros(2), np.zeros(2))).labels() is None
