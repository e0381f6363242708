"""The kit for data managers: ours keep the laws, and each planted bug breaks these laws."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import DataManager
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.testing import DATA_MANAGER_CHECKS, check_data_manager, parametrize_with_checks

X = np.random.default_rng(0).normal(size=(13, 2))
Y = np.arange(13) % 3

CORRECT = [ArrayData(X, Y), ArrayData({"one": X, "two": [X[:, 0], (X[:, 1],)]}, Y)]


class LosesTheFirst(ArrayData):
    def batches(self, args, order):
        order = np.arange(len(self)) if order is None else order
        return super().batches(args, order[1:])


class HasItsOwnOrder(ArrayData):
    def batches(self, args, order):
        return super().batches(args, None)


class FillsUp(ArrayData):
    """Begins again where the last batch is not full."""

    def batches(self, args, order):
        order = np.arange(len(self)) if order is None else order
        missing = -len(order) % args.batch_size
        full = np.concatenate([order, np.resize(order, missing)]) if len(order) and not args.drop_last else order
        for low in range(0, len(full) // args.batch_size * args.batch_size, args.batch_size):
            rows = full[low : low + args.batch_size]
            yield self.data[rows], self.target[rows]


class AlwaysWhole(ArrayData):
    """Knows no ``drop_last``."""

    def batches(self, args, order):
        return super().batches(LoaderArgs(args.batch_size, shuffle=False), order)


class SortsSubsets(ArrayData):
    def subset(self, indices):
        return type(self)(self.data[np.sort(indices)], self.target[np.sort(indices)])


class OneBatchForAll(ArrayData):
    """Fills the same memory again and again."""

    def batches(self, args, order):
        memory = np.zeros((args.batch_size, 2))
        for data, target in super().batches(args, order):
            memory[: len(data)] = data
            yield memory[: len(data)], target


class ShufflesAnyhow(ArrayData):
    def epoch(self, args, seed):
        order = np.random.default_rng().permutation(len(self)) if args.shuffle else None
        return self.batches(args, order)


class NeverShuffles(ArrayData):
    def epoch(self, args, seed):
        return self.batches(args, None)


class HoldsOutNothing(ArrayData):
    def split(self, test_ratio, seed, *, stratify=False):
        train, test = super().split(test_ratio, seed, stratify=stratify)
        return train, self.subset(np.arange(len(test)))


class LabelsOfAll(ArrayData):
    def subset(self, indices):
        part = type(self)(self.data[indices], self.target[indices])
        part.all_labels = self.labels()
        return part

    def labels(self):
        return getattr(self, "all_labels", self.target)


class TakesAnything(ArrayData):
    def check_args(self, args):
        pass


CAUGHT_BY = {
    LosesTheFirst: {"order", "sizes", "subset", "epoch", "split", "labels"},
    HasItsOwnOrder: {"order", "epoch"},
    FillsUp: {"order", "sizes", "epoch"},
    AlwaysWhole: {"sizes"},
    SortsSubsets: {"subset"},
    OneBatchForAll: {"kept"},
    ShufflesAnyhow: {"epoch"},
    NeverShuffles: {"epoch"},
    HoldsOutNothing: {"split"},
    LabelsOfAll: {"labels"},
    TakesAnything: {"arguments"},
}


def outcomes(source):
    return {result.check: result for result in check_data_manager(source, on_fail="report")}


@parametrize_with_checks(CORRECT)
def test_ours_keep_the_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(CORRECT, profile="full")
def test_ours_keep_the_laws_for_all_batch_sizes(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = outcomes(mutant(X, Y))
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in DATA_MANAGER_CHECKS} == set().union(*CAUGHT_BY.values())


@pytest.mark.parametrize(
    ("mutant", "law", "words"),
    [
        (LosesTheFirst, "order", "len says 13 samples, but a pass draws 12"),
        (AlwaysWhole, "sizes", "13 samples in batches of 3 (drop_last=True) must make batches of [3, 3, 3, 3]"),
        (OneBatchForAll, "kept", "Batch 0 of 13 has changed when later ones were drawn"),
        (NeverShuffles, "epoch", "Epochs with three different seeds draw the samples in the same order"),
        (HoldsOutNothing, "split", "A split by 0.25 of 13 samples loses some, or has some twice"),
    ],
)
def test_what_is_wrong_is_told(mutant, law, words):
    assert words in outcomes(mutant(X, Y))[law].reason


def test_a_manager_is_wrapped_for_its_framework_first():
    results = check_data_manager(DataManager(X, Y), framework="numpy")
    assert {result.outcome for result in results} == {"pass"}


def test_a_source_needs_samples_to_be_tested():
    results = outcomes(ArrayData(X[:1], Y[:1]))
    assert {result.outcome for result in results.values()} == {"skip"}
    assert results["order"].reason == "it holds no two samples to tell apart"


def test_a_source_without_labels_is_not_asked_for_them():
    assert outcomes(ArrayData(X))["labels"].outcome == "skip"
