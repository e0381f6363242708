"""The kit is tested itself: each planted bug is caught, by the laws listed here and no others."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import Aggregator, AggregatorTags, Params, StreamingAggregator, WeightedMean
from fedplug.core.components import Component, Offer
from fedplug.testing import AGGREGATOR_CHECKS, LawBrokenError, check_aggregator, check_offer, parametrize_with_checks
from fedplug.testing.cases import cases


class Mean(StreamingAggregator):
    """Correct."""

    def begin(self, start, ctx):
        return WeightedMean(start.spec)

    def accumulate(self, state, update):
        state.add(update.params, update.sample_count)

    def finalize(self, state):
        return state.result()


class Median(Aggregator):
    """Correct."""

    tags = AggregatorTags(weighted=False)

    def aggregate(self, start, updates, ctx):
        return Params.stack_reduce([u.params for u in updates], lambda x: np.median(x, axis=0))


class TrimmedMean(Aggregator):
    """Correct, for at least three updates."""

    tags = AggregatorTags(weighted=False, minimum_updates=3)

    def aggregate(self, start, updates, ctx):
        return Params.stack_reduce([u.params for u in updates], lambda x: np.sort(x, axis=0)[1:-1].mean(axis=0))


class HalfStep(Mean):
    """Correct: goes half of the way to the mean, so its result need not lie among the updates."""

    tags = AggregatorTags(convex=False)

    def aggregate(self, start, updates, ctx):
        mean = super().aggregate(start, updates, ctx)
        return start.map(lambda a, b: a + (b - a) / 2, mean)


class Unweighted(Mean):
    def accumulate(self, state, update):
        state.add(update.params, 1)


class InPlace(Mean):
    def accumulate(self, state, update):
        array = next(iter(update.params.values()))
        array.flags.writeable = True
        array += 1
        state.add(update.params, update.sample_count)


class LastWins(Aggregator):
    def aggregate(self, start, updates, ctx):
        return updates[-1].params * 1


class Float16(Aggregator):
    def aggregate(self, start, updates, ctx):
        total = sum(u.sample_count for u in updates)
        return start.map(
            lambda _, *arrays: sum(
                np.asarray(array, np.float16) * np.float16(u.sample_count / total)
                for u, array in zip(updates, arrays, strict=True)
            ),
            *(u.params for u in updates),
        )


class NormalisedTwice(Aggregator):
    def aggregate(self, start, updates, ctx):
        total = sum(u.sample_count for u in updates)
        return start.map(
            lambda _, *arrays: (
                sum(u.sample_count / total * a for u, a in zip(updates, arrays, strict=True)) / total
            ).astype(arrays[0].dtype),
            *(u.params for u in updates),
        )


class Sum(Aggregator):
    def aggregate(self, start, updates, ctx):
        return Params.stack_reduce([u.params for u in updates], lambda x: x.sum(axis=0))


class Upcast(Mean):
    def aggregate(self, start, updates, ctx):
        mean = super().aggregate(start, updates, ctx)
        return Params.from_arrays({name: np.asarray(array, np.float64) for name, array in mean.items()})


class ForgetsAnArray(Mean):
    def finalize(self, state):
        names = list(state.spec.names)
        return Params.from_arrays({name: state.result()[name] for name in names[1:]})


class FirstCountsMore(Mean):
    def accumulate(self, state, update):
        state.add(update.params, update.sample_count * (10 if state.terms == 0 else 1))


class ReturnsDict(Mean):
    def finalize(self, state):
        return dict(state.result())


class Raises(Mean):
    def finalize(self, state):
        raise ZeroDivisionError("planted")


CAUGHT_BY = {
    Unweighted: {"weights"},
    InPlace: {"layout", "consensus", "symmetric", "weights"},
    LastWins: {"symmetric", "weights"},
    Float16: {"consensus", "symmetric", "hull"},
    NormalisedTwice: {"consensus", "weights", "hull"},
    Sum: {"consensus", "weights", "hull"},
    Upcast: {"layout"},
    ForgetsAnArray: {"layout", "consensus", "hull"},
    FirstCountsMore: {"symmetric", "weights"},
    ReturnsDict: {"layout"},
    Raises: {"layout", "consensus", "symmetric", "weights", "hull"},
}


def outcomes(aggregator):
    return {result.check: result for result in check_aggregator(aggregator, on_fail="report")}


@parametrize_with_checks([Mean(), Median(), TrimmedMean(), HalfStep()])
def test_correct_aggregators_keep_the_laws(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = outcomes(mutant())
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]
    for result in results.values():
        assert result.law
        assert result.outcome == "pass" or result.reason


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in AGGREGATOR_CHECKS} == set().union(*CAUGHT_BY.values())


def test_the_message_says_what_was_expected_and_shows_the_inputs():
    reason = outcomes(LastWins())["symmetric"].reason
    assert "must be" in reason
    assert "but is" in reason
    assert "start: w float32[5]" in reason
    assert "sample_count=" in reason


def test_laws_that_are_not_claimed_are_skipped_with_the_tag():
    result = outcomes(Median())["weights"]
    assert (result.outcome, result.reason) == ("skip", "weighted=False")


def test_raising_is_the_default_and_stops_at_the_first_law():
    with pytest.raises(LawBrokenError, match="must be laid out as the start"):
        check_aggregator(Upcast())
    with pytest.raises(ZeroDivisionError, match="planted"):
        check_aggregator(Raises())
    assert all(result.outcome == "pass" for result in check_aggregator(Mean()))


def test_cases_are_the_same_each_time_and_cover_an_integer_counter():
    first, second = list(cases(2)), list(cases(2))
    assert [str(case) for case in first] == [str(case) for case in second]
    assert min(len(case.updates) for case in first) == 2
    assert {array.dtype.name for case in first for array in case.start.values()} == {
        "float16",
        "float32",
        "float64",
        "int64",
    }
    assert str(next(cases(2, seed=1))) != str(first[0])


class NeedsArguments(Mean):
    def __init__(self, strength):
        self.strength = strength


@pytest.mark.parametrize(
    ("target", "expected", "words"),
    [
        (Mean, {"pass"}, ""),
        (NeedsArguments, {"pass", "skip"}, "NeedsArguments() raised TypeError"),
        (Aggregator, {"fail"}, "Aggregator lacks aggregate"),
        (dict, {"fail"}, "must be a class derived from Aggregator"),
        ("fedplug.core.nowhere:Thing", {"fail"}, "cannot be loaded"),
    ],
)
def test_a_component_is_checked_as_far_as_it_can_be(target, expected, words):
    results = check_offer(Offer("aggregator", "mine", Component("thing", target)))
    assert {result.outcome for result in results} == expected
    assert any(words in result.reason for result in results)
