"""A stratified split holds out the same share of every class, as nearly as whole samples can."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.data import ArrayData
from fedplug.core.errors import DatasetError
from fedplug.core.rng import SeedTree

LABELS = st.lists(st.integers(-1, 4), min_size=1, max_size=60)
RATIO = st.integers(0, 19).map(lambda step: step / 20)


def split(labels, ratio, seed=1):
    source = ArrayData(np.arange(len(labels)), np.array(labels))
    return source.split(ratio, SeedTree.root(seed), stratify=True)


@given(LABELS, RATIO)
def test_each_class_gives_its_share_up_to_one_sample(labels, ratio):
    train, test = split(labels, ratio)
    held_out = int(len(labels) * ratio)
    assert len(test) == held_out
    assert sorted([*train.data, *test.data]) == list(range(len(labels)))
    given_up = {}
    for label in set(labels):
        share = Fraction(labels.count(label) * held_out, len(labels))
        count = int(np.sum(test.target == label))
        assert share.__floor__() <= count <= share.__ceil__()
        given_up[label] = (share - share.__floor__(), count > share.__floor__())
    more = [part for part, one_more in given_up.values() if one_more]
    less = [part for part, one_more in given_up.values() if not one_more]
    if more and less:  # the largest remainders are served
        assert min(more) >= max(less)


@given(LABELS, RATIO)
def test_a_split_is_decided_by_its_seed(labels, ratio):
    once, again = split(labels, ratio)[1], split(labels, ratio)[1]
    np.testing.assert_array_equal(once.data, again.data)
    np.testing.assert_array_equal(once.target, np.array(labels)[once.data])


def test_another_seed_holds_out_others():
    labels = [0, 1] * 50
    assert split(labels, 0.3, 1)[1].data.tolist() != split(labels, 0.3, 2)[1].data.tolist()


def test_whole_floats_truth_values_and_columns_are_classes():
    for labels in (np.array([0.0, 1.0] * 10), np.array([True, False] * 10), np.array([[3], [5]] * 10)):
        test = ArrayData(np.arange(20), labels).split(0.5, SeedTree.root(1), stratify=True)[1]
        assert np.unique(test.target, return_counts=True)[1].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (None, "the data has no single array of targets"),
        ({"a": np.zeros(4)}, "the data has no single array of targets"),
        (np.array([0.5, 1, 2, 3]), r"one whole number per sample.*an array of float64 of shape \(4,\)"),
        (np.array(["a", "b", "a", "b"]), "one whole number per sample.*an array of <U1"),
        (np.zeros((4, 2), int), r"one whole number per sample.*of shape \(4, 2\)"),
    ],
)
def test_without_classes_it_is_told(target, problem):
    with pytest.raises(DatasetError, match=problem):
        ArrayData(np.arange(4), target).split(0.5, SeedTree.root(1), stratify=True)
