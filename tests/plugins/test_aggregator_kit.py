"""The kit for aggregators is tested itself: each planted bug is caught, by the laws listed here and no others."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from fedplug import Aggregator, AggregatorTags, NodePayload, Params, StreamingAggregator, WeightedMean
from fedplug.core.components import Component, Offer
from fedplug.core.errors import NoUpdatesError, UpdateRejectedError
from fedplug.testing import (
    AGGREGATOR_CHECKS,
    LawBrokenError,
    Subject,
    check_aggregator,
    check_offer,
    parametrize_with_checks,
)
from fedplug.testing.cases import LAYOUTS, cases


class Mean(StreamingAggregator):
    """Correct."""

    def begin(self, start, ctx):
        return WeightedMean(start.spec)

    def accumulate(self, state, update):
        state.add(update.params, update.sample_count)

    def finalize(self, state):
        return state.result()

    def largest_share(self, updates):
        return max(u.sample_count for u in updates) / sum(u.sample_count for u in updates)


class Batch(Aggregator):
    """Correct: the mean of all at once. Those that follow derive from it."""

    def aggregate(self, start, updates, ctx):
        if not updates:
            raise NoUpdatesError("no update")
        return self.of(start, updates)

    def of(self, start, updates):
        return Mean().aggregate(start, updates, None)


class Median(Batch):
    """Correct."""

    tags = AggregatorTags(weighted=False, breakdown="hull")

    def of(self, start, updates):
        return Params.stack_reduce([u.params for u in updates], lambda x: np.median(x, axis=0))

    def withstands(self, count):
        return (count - 1) // 2


class TrimmedMean(Batch):
    """Correct, for more updates than it cuts off."""

    def __init__(self, cut=1):
        self.cut = cut
        self.tags = AggregatorTags(weighted=False, minimum_updates=2 * cut + 1, breakdown="hull")

    def of(self, start, updates):
        if len(updates) <= 2 * self.cut:
            raise NoUpdatesError("too few updates")
        return Params.stack_reduce([u.params for u in updates], self.middle)

    def middle(self, x):
        return np.sort(x, axis=0)[self.cut : -self.cut].mean(axis=0)

    def withstands(self, count):
        return self.cut if count > 2 * self.cut else 0


class HalfStep(Batch):
    """Correct: goes half of the way to the mean, so its result need not lie among the updates."""

    tags = AggregatorTags(convex=False)

    def of(self, start, updates):
        return start.map(lambda a, b: a + (b - a) / 2, super().of(start, updates))


class Momentum(Batch):
    """Correct: goes on in the direction in which it went, which it remembers."""

    tags = AggregatorTags(convex=False)

    def __init__(self, beta=0.5):
        self.beta = beta
        self.velocity = None

    def of(self, start, updates):
        moved = super().of(start, updates) - start
        self.velocity = moved if self.velocity is None else self.velocity * self.beta + moved
        return start + self.velocity

    def state_dict(self):
        return {"velocity": self.velocity}

    def load_state_dict(self, state):
        self.velocity = state["velocity"]


class Nearest(Batch):
    """Correct: the update with the smallest sum of distances to the others, in the largest of all differences.

    Of n updates, q of them hostile and h honest ones no further than D apart: (2 h - 1) D / (h - q) from any honest
    one, by the triangle inequality; the Euclidean distance is at most 3 times as large, as no model here has more than
    9 values.
    """

    tags = AggregatorTags(weighted=False, minimum_updates=3, breakdown="ball")

    def of(self, start, updates):
        if len(updates) < 3:
            raise NoUpdatesError("too few updates")
        rows = [np.concatenate([np.ravel(a).astype(float) for a in u.params.values()]) for u in updates]
        far = [sum(np.abs(one / 2 - other / 2).max() / len(rows) for other in rows) for one in rows]
        return updates[int(np.argmin(far))].params

    def withstands(self, count):
        return (count - 1) // 2

    def radius(self, count, hostile, diameter):
        honest = count - hostile
        return 3 * ((2 * honest - 1) / (honest - hostile) + 1) * diameter


class NeedsCounts(Mean):
    """Correct: nodes send a count beside their parameters, and what they were sent beside the model."""

    def node_payload(self, node_id, ctx):
        return NodePayload({"asked": Params.from_arrays({"round": ctx.round})}, {})

    def check_update(self, update, start):
        if "counts" not in update.aux:
            raise UpdateRejectedError("it brings no counts")


def counts(update, case):
    asked = case.payloads[update.node_id].aux["asked"]
    assert asked["round"] == case.ctx.round
    return replace(update, aux={"counts": asked})


CORRECT = [
    Mean(), Batch(), Median(), TrimmedMean(), TrimmedMean(2), HalfStep(), Momentum(), Nearest(),
    Subject(NeedsCounts(), complete=counts),
]  # fmt: skip


# planted bugs: what goes in and comes out ------------------------------------------------------------------------


class WrongTags(Mean):
    tags = AggregatorTags()  # it is streaming all the same


class Upcast(Batch):
    def of(self, start, updates):
        mean = super().of(start, updates)
        return Params.from_arrays({name: np.asarray(array, np.float64) for name, array in mean.items()})


class ForgetsAnArray(Batch):
    def of(self, start, updates):
        mean = super().of(start, updates)
        return Params.from_arrays({name: mean[name] for name in list(mean)[1:]})


class ReturnsDict(Batch):
    def of(self, start, updates):
        return dict(super().of(start, updates))


class InPlace(Batch):
    def of(self, start, updates):
        array = next(iter(updates[0].params.values()))
        array.flags.writeable = True
        mean = super().of(start, updates)
        array += 0.0625
        return mean


class EatsTheList(Batch):
    def of(self, start, updates):
        mean = super().of(start, updates)
        updates.clear()
        return mean


class GivesTheStart(Mean):
    def aggregate(self, start, updates, ctx):
        return super().aggregate(start, updates, ctx) if updates else start


class Raises(Batch):
    def of(self, start, updates):
        raise ZeroDivisionError("planted")


# planted bugs: wrong arithmetic ---------------------------------------------------------------------------------


class Unweighted(Batch):
    def of(self, start, updates):
        return Params.stack_reduce([u.params for u in updates], lambda x: x.mean(axis=0, dtype=np.float64))


class LastWins(Batch):
    def of(self, start, updates):
        return updates[-1].params * 1


class Float16(Batch):
    def of(self, start, updates):
        total = sum(u.sample_count for u in updates)
        shares = [np.float16(u.sample_count / total) for u in updates]
        arrays = [u.params for u in updates]
        return start.map(lambda _, *many: sum(np.float16(a) * s for s, a in zip(shares, many, strict=True)), *arrays)


class NarrowWeights(Batch):
    """Sums weights in half precision, which ends at 65504."""

    def of(self, start, updates):
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.float16(0)
            for u in updates:
                total += np.float16(u.sample_count)
            if not np.isfinite(total):
                return start
        return super().of(start, updates)


class OrderDependent(Batch):
    """A running mean that forgets how many there were."""

    def of(self, start, updates):
        result = updates[0].params
        for u in updates[1:]:
            result = result.map(lambda a, b: a / 2 + b / 2, u.params)
        return result


class FirstCountsMore(Mean):
    def accumulate(self, state, update):
        state.add(update.params, update.sample_count * (10 if state.terms == 0 else 1))

    largest_share = Aggregator.largest_share


class NormalisedTwice(Batch):
    def of(self, start, updates):
        total = sum(u.sample_count for u in updates)
        return super().of(start, updates).map(lambda a: a / total)


class Sum(Batch):
    tags = AggregatorTags(weighted=False)

    def of(self, start, updates):
        return Params.stack_reduce([u.params for u in updates], lambda x: x.sum(axis=0))


class ForgetsIntegers(Batch):
    def of(self, start, updates):
        return start.map(lambda a, b: a if a.dtype.kind == "i" else b, super().of(start, updates))


class Decays(Batch):
    def of(self, start, updates):
        return super().of(start, updates).map(lambda a: a * 0.99 if a.dtype.kind == "f" else a)


class Clips(Batch):
    def of(self, start, updates):
        return super().of(start, updates).map(lambda a: np.clip(a, -3, 3))


class RoundsToTenths(Batch):
    def of(self, start, updates):
        return super().of(start, updates).map(lambda a: np.round(a, 1) if a.dtype.kind == "f" else a)


class CountsAtLeastOne(Mean):
    def accumulate(self, state, update):
        state.add(update.params, max(1, update.sample_count))


class RootWeights(Mean):
    def accumulate(self, state, update):
        state.add(update.params, update.sample_count**0.5)

    largest_share = Aggregator.largest_share


class CapsWeights(Mean):
    def accumulate(self, state, update):
        state.add(update.params, min(50, update.sample_count))

    largest_share = Aggregator.largest_share


class ShareTooSmall(Mean):
    def largest_share(self, updates):
        return super().largest_share(updates) / 2


# planted bugs: memory --------------------------------------------------------------------------------------------


class FastNodesCountMore(Batch):
    tags = AggregatorTags(weighted=False)

    def of(self, start, updates):
        mean = WeightedMean(start.spec)
        for u in updates:
            mean.add(u.params, 1 / u.timing["total"])
        return mean.result()


class Noisy(Batch):
    """Its last bits are a matter of chance."""

    def of(self, start, updates):
        return (
            super()
            .of(start, updates)
            .map(lambda a: a + np.random.choice([-1, 1]) * np.spacing(a) if a.dtype.kind == "f" else a)
        )


class SharedByAll(Batch):
    """Counts its rounds for all of its kind together."""

    rounds: ClassVar = []

    def of(self, start, updates):
        self.rounds.append(len(updates))
        return (
            super()
            .of(start, updates)
            .map(lambda a: a + len(self.rounds) % 7 * np.spacing(a) if a.dtype.kind == "f" else a)
        )


class Renames(Batch):
    def __init__(self, strength=1.0):
        self._strength = strength


class Halves(Momentum):
    def __init__(self, beta=0.5):
        super().__init__(beta / 2)


class StaleAfterResume(Momentum):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.velocity = None


class SavesRounded(Momentum):
    def state_dict(self):
        return {"velocity": None if self.velocity is None else self.velocity.map(lambda a: np.round(a, 3))}


class SavesArrays(Momentum):
    def state_dict(self):
        return {"velocity": None if self.velocity is None else dict(self.velocity)}

    def load_state_dict(self, state):
        self.velocity = None if state["velocity"] is None else Params.from_arrays(state["velocity"])


class NeverForgets(Momentum):
    """Takes a state over, but not that there is none."""

    def load_state_dict(self, state):
        self.velocity = state["velocity"] or self.velocity


class LeavesAHalfRound(Mean):
    """Keeps its sum in itself, and begins a new one when a round is over, not when one begins."""

    total = None

    def begin(self, start, ctx):
        return start.spec

    def accumulate(self, state, update):
        self.total = self.total or WeightedMean(state)
        self.total.add(update.params, update.sample_count)

    def finalize(self, state):
        if self.total is None:
            raise NoUpdatesError("no update")
        mean, self.total = self.total.result(), None
        return mean


class OneStateForAll(LeavesAHalfRound):
    """The same, but it begins anew with each round."""

    def begin(self, start, ctx):
        self.total = None
        return super().begin(start, ctx)


class FoldsOtherwise(Mean):
    """What it does with all updates at once is right, but nobody calls that."""

    def aggregate(self, start, updates, ctx):
        return Mean().aggregate(start, updates, ctx)

    def accumulate(self, state, update):
        state.add(update.params, 1)


class Hoards(Mean):
    def begin(self, start, ctx):
        return start, []

    def accumulate(self, state, update):
        state[1].append(update)

    def finalize(self, state):
        return Mean().aggregate(state[0], state[1], None)


# planted bugs: values that are none, and nodes that lie ----------------------------------------------------------


def without(value):
    """A mean that takes what is not finite for something else."""

    class Hides(Batch):
        def of(self, start, updates):
            mean = WeightedMean(start.spec)
            for u in updates:
                mean.add(u.params.map(lambda a: np.where(np.isfinite(a), a, value).astype(a.dtype)), u.sample_count)
            return mean.result()

    return Hides


class ZeroForNaN(without(0)):
    pass


class SkipsNaN(Batch):
    tags = AggregatorTags(weighted=False)

    def of(self, start, updates):
        return Params.stack_reduce([u.params for u in updates], lambda x: np.nanmean(x, axis=0, dtype=np.float64))


class TrimsBySubtracting(TrimmedMean):
    def middle(self, x):
        wide = x.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return (wide.sum(axis=0) - wide.min(axis=0) - wide.max(axis=0)) / (len(x) - 2)


class MeanSaysHull(Batch):
    tags = AggregatorTags(breakdown="hull")
    withstands = Median.withstands


class MedianSaysHalf(Median):
    def withstands(self, count):
        return count // 2


class RadiusTooSmall(Nearest):
    def radius(self, count, hostile, diameter):
        return diameter / 100


class WithstandsNobody(Median):
    withstands = Aggregator.withstands


BITS = {"arrival", "config", "resume", "undone"}
CLAIMED = {
    *BITS, "layout", "inputs", "consensus", "symmetric", "homogeneous", "absence", "repetition", "partition", "hull",
    "scale", "shift",
}  # fmt: skip

CAUGHT_BY = {
    WrongTags: {"tags"},
    WithstandsNobody: {"tags"},
    Upcast: {"layout"},
    ForgetsAnArray: {"layout"},
    ReturnsDict: {"layout"},
    InPlace: {"inputs"},
    EatsTheList: {"inputs"},
    GivesTheStart: {"few"},
    Raises: CLAIMED,
    Unweighted: {"absence", "repetition", "partition"},
    LastWins: {"symmetric", "absence", "finite"},
    Float16: {"consensus", "symmetric", "partition", "hull", "scale", "shift"},
    NarrowWeights: {"homogeneous"},
    OrderDependent: {"symmetric", "absence"},
    FirstCountsMore: {"symmetric", "repetition", "partition"},
    NormalisedTwice: {"consensus", "homogeneous", "hull", "shift"},
    Sum: {"consensus", "hull", "shift"},
    ForgetsIntegers: {"consensus", "hull"},
    Decays: {"consensus", "hull", "shift"},
    Clips: {"consensus", "hull", "scale", "shift"},
    RoundsToTenths: {"consensus", "hull", "scale"},
    CountsAtLeastOne: {"absence"},
    RootWeights: {"repetition", "partition"},
    CapsWeights: {"homogeneous", "repetition"},
    ShareTooSmall: {"share"},
    FastNodesCountMore: {"arrival"},
    Noisy: BITS,
    SharedByAll: BITS,
    Renames: {"config"},
    Halves: {"config"},
    StaleAfterResume: {"resume", "undone"},
    SavesRounded: {"resume", "undone"},
    SavesArrays: {"resume"},
    NeverForgets: {"undone"},
    LeavesAHalfRound: {"undone", "interleaved"},
    OneStateForAll: {"interleaved"},
    FoldsOtherwise: {"streaming"},
    Hoards: {"forgets"},
    ZeroForNaN: {"finite"},
    SkipsNaN: {"finite"},
    TrimsBySubtracting: {"breakdown"},
    MeanSaysHull: {"breakdown"},
    MedianSaysHalf: {"breakdown"},
    RadiusTooSmall: {"breakdown", "finite"},
}


def outcomes(aggregator, **options):
    return {result.check: result for result in check_aggregator(aggregator, on_fail="report", **options)}


@functools.cache
def found(mutant):
    return outcomes(mutant())


@parametrize_with_checks(CORRECT)
def test_correct_aggregators_keep_the_laws(component, check):
    check(component)


@pytest.mark.slow
@parametrize_with_checks(CORRECT, profile="full")
def test_correct_aggregators_keep_the_laws_on_many_more_cases(component, check):
    check(component)


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_each_planted_bug_is_caught_by_these_laws(mutant):
    results = found(mutant)
    assert {name for name, result in results.items() if result.outcome == "fail"} == CAUGHT_BY[mutant]
    for result in results.values():
        assert result.law
        assert result.outcome == "pass" or result.reason


def test_each_law_catches_a_planted_bug():
    assert {check.id for check in AGGREGATOR_CHECKS} == set().union(*CAUGHT_BY.values())


def test_the_message_says_what_was_expected_and_shows_the_inputs():
    reason = found(LastWins)["symmetric"].reason
    assert re.search(r"w\[0\] must be -?[\d.]+ within [\d.e-]+, but is -?[\d.]+\.\n", reason)
    assert "start: w float32[5]" in reason
    assert "sample_count=" in reason


@pytest.mark.parametrize(
    ("mutant", "law", "words"),
    [
        (MedianSaysHalf, "breakdown", "1 of 2 updates are hostile (all at one place, ten times as far)"),
        (MedianSaysHalf, "breakdown", "the range of the honest ones"),
        (RadiusTooSmall, "breakdown", "of the mean of the honest ones (radius for a diameter of"),
        (SavesArrays, "resume", "cannot save the state: the state['velocity']['w'] holds a ndarray"),
        (StaleAfterResume, "resume", "saved after 1 round and resumed with a new aggregator (round 1 of 2)"),
        (Hoards, "forgets", "1 of 1 updates are still in memory"),
        (Renames, "config", "does not keep its argument 'strength'"),
        (Halves, "config", "was made with {'beta': 0.25}"),
        (NarrowWeights, "homogeneous", "All weights were multiplied by 1000"),
        (ZeroForNaN, "finite", "holds nan, which must be refused or be seen in the result"),
        (ShareTooSmall, "share", "so the result must move by at most"),
        (GivesTheStart, "few", "0 updates must be refused, but gave w float32[5]"),
        (WrongTags, "tags", "derives from StreamingAggregator, so its tags must say streaming=True"),
    ],
)
def test_what_is_wrong_is_told(mutant, law, words):
    assert words in found(mutant)[law].reason


def test_laws_that_are_not_claimed_are_skipped_with_the_tag():
    result = outcomes(Median())["repetition"]
    assert (result.outcome, result.reason) == ("skip", "weighted=False")
    assert outcomes(Mean())["breakdown"].reason == "breakdown=''"
    assert outcomes(Median())["share"].reason == "largest_share gives None"


def test_what_nodes_send_beside_the_parameters_must_be_told():
    refused = outcomes(NeedsCounts())
    assert {name for name, result in refused.items() if result.outcome == "fail"} == set()
    assert refused["consensus"].outcome == "skip"
    assert "it refuses updates that have nothing beside the parameters (it brings no counts)" in refused["hull"].reason
    assert {r.outcome for n, r in outcomes(NeedsCounts(), complete=counts).items() if n != "breakdown"} == {"pass"}


def test_raising_is_the_default_and_stops_at_the_first_law():
    with pytest.raises(LawBrokenError, match="must be laid out as the start"):
        check_aggregator(Upcast())
    with pytest.raises(ZeroDivisionError, match="planted"):
        check_aggregator(Raises())
    assert {result.outcome for result in check_aggregator(Mean())} == {"pass", "skip"}


def test_the_aggregator_itself_is_never_used():
    momentum = Momentum()
    check_aggregator(momentum)
    assert momentum.velocity is None


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
    assert first[-1].ctx.buffers == {"num_batches"}
    assert len(first) == 3 * len(LAYOUTS)


def test_a_case_of_several_rounds_can_be_cut_and_shown():
    case = next(cases(2, rounds=3))
    assert [len(updates) for updates in case.rounds] == [2, 2, 2]
    rest = case.rest(2, case.updates[0].params)
    assert (rest.ctx.round, rest.start, len(rest.rounds)) == (2, case.updates[0].params, 1)
    assert "round 3, update of node-1" in str(case)


class NeedsArguments(Mean):
    def __init__(self, strength):
        self.strength = strength


class SaysWhatToTest(NeedsArguments):
    @classmethod
    def conformance_cases(cls):
        return [cls(1), Subject(cls(2), name="strong"), lambda: cls(3)]


class OfAnotherClass(NeedsArguments):
    @classmethod
    def conformance_cases(cls):
        return [Mean()]


class NothingToTest(NeedsArguments):
    @classmethod
    def conformance_cases(cls):
        return []


@pytest.mark.parametrize(
    ("target", "expected", "words"),
    [
        (Mean, {"pass", "skip"}, ""),
        (NeedsArguments, {"pass", "skip"}, "NeedsArguments() raised TypeError"),
        (SaysWhatToTest, {"pass", "skip"}, ""),
        (OfAnotherClass, {"fail"}, "which is no OfAnotherClass"),
        (NothingToTest, {"fail"}, "it returned nothing to test"),
        (Aggregator, {"fail"}, "Aggregator lacks aggregate"),
        (dict, {"fail"}, "must be a class derived from Aggregator"),
        ("fedplug.core.nowhere:Thing", {"fail"}, "cannot be loaded"),
    ],
)
def test_a_component_is_checked_as_far_as_it_can_be(target, expected, words):
    results = check_offer(Offer("aggregator", "mine", Component("thing", target)))
    assert {result.outcome for result in results} == expected
    assert any(words in result.reason for result in results)


def test_each_instance_that_a_component_gives_is_told_apart():
    results = check_offer(Offer("aggregator", "mine", Component("thing", SaysWhatToTest)))
    assert {result.subject for result in results} == {
        "", "SaysWhatToTest(strength=1)", "strong", "SaysWhatToTest(strength=3)",
    }  # fmt: skip
    assert len(results) == 1 + 3 * len(AGGREGATOR_CHECKS)
