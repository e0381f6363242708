"""Central privacy at the researcher: what is refused before anything is sent, what arrives, and the noise."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from fedplug.core.aggregator import Aggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import RoundError, UpdateRejectedError, UsageError
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.rng import SeedTree
from fedplug.core.update import Update
from fedplug.researcher.central_privacy import CentralPrivacy
from fedplug_scaffold.fedaverage import FedAverage

ARGS = {"dp_args": {"type": "central", "sigma": 2.0, "clip": 0.5, "delta": 1e-5, "poisson": True}}
START = Params.from_arrays({"w": np.zeros(50_000), "h": np.zeros(3, np.float32)})
NODES = ("lyon", "paris")
MEDIAN = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "fedplug-median" / "fedplug_median.py"))["Median"]


class Shares(Aggregator):
    def __init__(self, share):
        self.value = share

    def aggregate(self, start, updates, ctx):
        return start

    def largest_share(self, updates):
        return self.value


def made(args=ARGS, start=START, aggregator=None, request_args=None, seed=1, number=0) -> CentralPrivacy | None:
    ctx = RoundContext("e", number, SeedTree.root(seed).child("round", number), NODES, args)
    requests = [
        TrainRequest(
            key=TaskKey(experiment_id="e", round=number, node_id=node), dataset_id="d", plan_class="P",
            training_args=args if request_args is None else request_args,
        )
        for node in NODES
    ]  # fmt: skip
    return CentralPrivacy.of(ctx, start, aggregator or FedAverage(), requests)


def updates(*counts: int) -> list[Update]:
    return [Update(str(i), START, count, steps=2 * count) for i, count in enumerate(counts)]


@pytest.mark.parametrize("args", [{}, {"dp_args": None}, {"dp_args": {**ARGS["dp_args"], "type": "local"}}])
def test_without_central_privacy_there_is_nothing_to_do(args):
    assert made(args, aggregator=MEDIAN()) is None


def test_an_aggregator_that_does_not_state_its_sensitivity_is_refused():
    with pytest.raises(UsageError, match="Median cannot be used with central differential privacy") as caught:
        made(aggregator=MEDIAN())
    assert "FedAverage" in caught.value.cure
    assert "largest_share" in caught.value.cure


@pytest.mark.parametrize("share", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_sensitivity_is_refused(share):
    with pytest.raises(UsageError, match="does not say how far"):
        made(aggregator=Shares(share))


def test_an_aggregator_that_fails_is_blamed():
    class Broken(Shares):
        def largest_share(self, updates):
            return 1 / 0

    with pytest.raises(RoundError, match="Broken failed in largest_share: ZeroDivisionError"):
        made(aggregator=Broken(1.0))


def test_parameters_that_noise_cannot_protect_are_refused():
    with pytest.raises(UsageError, match="'n' is int64"):
        made(start=Params.from_arrays({"w": np.zeros(2), "n": np.int64(0)}))


@pytest.mark.parametrize("other", [{}, {"dp_args": {**ARGS["dp_args"], "clip": 9.0}}])
@pytest.mark.parametrize("args", [ARGS, {"dp_args": {**ARGS["dp_args"], "type": "local"}}], ids=["central", "local"])
def test_no_node_may_be_told_otherwise(other, args):
    with pytest.raises(UsageError, match="FedAverage changes dp_args for node 'lyon'"):
        made(args, request_args=other)


def test_an_update_that_was_not_clipped_is_rejected():
    privacy = made()

    def update(value, **more):
        arrays = {"w": np.zeros(50_000), "h": np.array([0, 0, value], np.float32)}
        return Update("lyon", Params.from_arrays(arrays), 1, **more)

    privacy.check(update(0.5))
    with pytest.raises(UpdateRejectedError, match=r"has norm 0\.5001, but must be clipped to 0\.5"):
        privacy.check(update(0.5001))
    with pytest.raises(UpdateRejectedError, match="extra arrays"):
        privacy.check(update(0.1, aux={"c": START}))


@pytest.mark.parametrize(
    ("weighting", "expected"), [("samples", 30 / 40), ("steps", 30 / 40), ("uniform", 1 / 2)]
)  # fmt: skip
def test_the_share_of_fedaverage_is_its_largest_weight(weighting, expected):
    assert FedAverage(weighting).largest_share(updates(10, 30)) == expected
    assert FedAverage(weighting).largest_share([]) is None


def test_no_update_moves_the_mean_by_more_than_its_share():
    moved = Params.from_arrays({"w": np.full(50_000, 1.0), "h": np.ones(3, np.float32)})
    ctx = RoundContext()
    still = FedAverage().aggregate(START, updates(10, 30), ctx)
    for place, share in ((0, 0.25), (1, 0.75)):
        changed = updates(10, 30)
        changed[place] = Update("x", moved, changed[place].sample_count)
        result = FedAverage().aggregate(START, changed, ctx)
        assert float(result["w"][0] - still["w"][0]) == share


def test_the_noise_is_sigma_times_clip_times_the_largest_share():
    noisy = made().protect(START, updates(10, 30))
    z = noisy["w"] / (2.0 * 0.5 * 0.75)
    # chi-square with 50 000 degrees of freedom: its variance is twice that; five deviations
    assert abs((z**2).sum() - 50_000) < 5 * math.sqrt(100_000)
    assert noisy.spec == START.spec


def test_the_same_aggregate_has_the_same_noise_and_any_other_has_not():
    first = made().protect(START, updates(10, 30))
    assert made().protect(START, updates(10, 30)) == first
    nudged = Params.from_arrays({**START, "h": np.array([0, 0, 1e-9], np.float32)})
    stronger = {"dp_args": {**ARGS["dp_args"], "sigma": 2.0000001}}
    others = [
        made().protect(nudged, updates(10, 30)),
        made().protect(START, updates(20, 30)),
        made(seed=2).protect(START, updates(10, 30)),
        made(number=1).protect(START, updates(10, 30)),
        made(stronger).protect(START, updates(10, 30)),
    ]
    for other in others:
        # Independent streams of 50 000: their correlation has standard deviation 1 / sqrt(50 000).
        assert abs(np.corrcoef(first["w"], other["w"])[0, 1]) < 5 / math.sqrt(50_000)


def test_without_noise_the_aggregate_is_untouched():
    assert made({"dp_args": {**ARGS["dp_args"], "sigma": 0.0}}).protect(START, updates(1, 1)) is START


def test_noise_that_the_parameters_cannot_hold_ends_the_round():
    half = Params.from_arrays({"w": np.zeros(9, np.float16)})
    privacy = made({"dp_args": {**ARGS["dp_args"], "sigma": 1e9}}, start=half)
    with pytest.raises(RoundError, match="makes 'w' infinite"):
        privacy.protect(half, updates(1, 1))


def test_attempts_do_not_matter():
    requests = [
        replace(TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="lyon", attempt=attempt), dataset_id="d",
                plan_class="P"), training_args=ARGS)
        for attempt in (0, 3)
    ]  # fmt: skip
    ctx = RoundContext("e", 0, SeedTree.root(1), ("lyon",), ARGS)
    noisy = [CentralPrivacy.of(ctx, START, FedAverage(), [each]).protect(START, updates(1)) for each in requests]
    assert noisy[0] == noisy[1]
