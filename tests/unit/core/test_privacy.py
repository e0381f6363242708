"""Clipping, noise and keys: bounds hold to the last bit, and every fact of a request has its say in the key."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec.structs import replace

from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.noise import NoiseStream
from fedplug.core.params import Params
from fedplug.core.privacy import (
    add_noise,
    check_clippable,
    clip_update,
    privacy_args,
    request_digest,
    request_key,
    update_norm,
)

KEY = b"k" * 32
WIDTHS = {"float16": (np.float16, 16), "float32": (np.float32, 32), "float64": (np.float64, 64)}


def pairs(dtype: str):
    kind, width = WIDTHS[dtype]
    arrays = npst.arrays(kind, 6, elements=st.floats(-100, 100, width=width))
    return st.tuples(arrays, arrays).map(
        lambda both: tuple(Params.from_arrays({"a": each[:4].reshape(2, 2), "b": each[4:]}) for each in both)
    )


def exact_norm(start: Params, trained: Params) -> float:
    gaps = [float(after) - float(before) for n in start for before, after in zip(
        start[n].ravel(), trained[n].ravel(), strict=True)]  # fmt: skip
    return math.sqrt(math.fsum(gap * gap for gap in gaps))


@pytest.mark.parametrize("dtype", WIDTHS)
@given(data=st.data(), clip=st.floats(1e-3, 300))
def test_a_clipped_update_is_no_longer_than_the_bound(dtype, data, clip):
    start, trained = data.draw(pairs(dtype))
    clipped = clip_update(start, trained, clip)
    # sums of six squares in another order: at most 6 roundings of 2**-53 each, and one of the root
    slack = 1 + 8 * 2.0**-53
    assert exact_norm(start, clipped) <= clip * slack
    length = exact_norm(start, trained)
    if length <= clip / slack:
        assert clipped == trained
    elif clip > 100 * np.finfo(dtype).eps * math.sqrt(6):  # else rounding decides
        # the same direction: what is left over is rounding of values up to 100, and what it takes off for it
        ideal = {
            n: np.float64(start[n]) + clip / length * (np.float64(trained[n]) - np.float64(start[n])) for n in start
        }
        spacing = 100 * float(np.finfo(dtype).eps)
        assert all(np.abs(clipped[n] - ideal[n]).max() <= 8 * spacing + 1e-6 * clip for n in start)


def test_the_norm_is_that_of_all_arrays_together():
    start = Params.from_arrays({"a": np.zeros(2, np.float32), "b": np.zeros((1, 1))})
    trained = Params.from_arrays({"a": np.array([3, 4], np.float32), "b": np.array([[12.0]])})
    assert update_norm(start, trained) == 13
    clipped = clip_update(start, trained, 6.5)
    assert clipped["a"].tolist() == pytest.approx([1.5, 2], rel=1e-6)
    assert clipped["b"].tolist() == [[pytest.approx(6, rel=1e-6)]]
    assert clipped.spec == start.spec


def test_the_result_is_built_where_it_is_asked_for():
    start = Params.from_arrays({"w": np.zeros(3)})
    trained = Params.from_arrays({"w": np.ones(3)})
    for clip in (0.5, 2.0, 1e-320):  # shortened, whole, and shorter than numbers can be
        asked: list[bytearray] = []

        def allocate(nbytes, asked=asked):
            asked.append(bytearray(nbytes))
            return asked[-1]

        clipped = clip_update(start, trained, clip, allocate)
        assert [len(each) for each in asked] == [24]
        assert bytes(asked[0]) == bytes(clipped.buffer)


def test_an_update_that_no_number_between_can_shorten_is_left_out():
    start = Params.from_arrays({"w": np.full(4, 2048, np.float16)})
    trained = Params.from_arrays({"w": np.full(4, 2050, np.float16)})
    assert clip_update(start, trained, 0.5) == start


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_cannot_be_clipped(bad):
    start = Params.from_arrays({"w": np.zeros(2), "v": np.zeros(1)})
    with pytest.raises(ParamsError, match="cannot be clipped: v is not finite"):
        clip_update(start, Params.from_arrays({"w": np.zeros(2), "v": [bad]}), 1.0)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8([1]), np.bool_(True)])
def test_whole_numbers_are_refused_with_a_cure(value):
    spec = Params.from_arrays({"w": np.zeros(2), "batches": value}).spec
    with pytest.raises(UsageError, match="floating-point parameters only, but 'batches' is") as caught:
        check_clippable(spec)
    assert "GroupNorm" in caught.value.cure
    assert "share_persistent_buffers" in caught.value.cure


def test_noise_has_the_standard_deviation_asked_for():
    count, std = 100_000, 0.25
    flat = Params.from_arrays({"w": np.full((count // 2, 2), 3.0), "h": np.full(1, 1, np.float32)})
    noisy = add_noise(flat, std, NoiseStream(KEY))
    assert noisy.spec == flat.spec
    gaps = (noisy["w"] - 3.0).ravel() / std
    # chi-square with ``count`` degrees of freedom: mean count, variance 2 * count; five deviations
    assert abs((gaps**2).sum() - count) < 5 * math.sqrt(2 * count)
    assert abs(gaps.mean()) < 5 / math.sqrt(count)
    assert noisy == add_noise(flat, std, NoiseStream(KEY))
    assert noisy["h"].dtype == np.float32


def test_noise_beyond_the_dtype_becomes_infinite_and_not_small():
    noisy = add_noise(Params.from_arrays({"h": np.ones(8, np.float16)}), 1e9, NoiseStream(KEY))
    assert noisy.first_non_finite() == "h"


# keys --------------------------------------------------------------------------------------------------------

REQUEST = TrainRequest(
    key=TaskKey(experiment_id="e", round=3, node_id="paris"), dataset_id="d", plan_class="P", model_args={"a": 1},
    training_args={"dp_args": {"type": "local", "sigma": 1.0}, "epochs": 2}, seed=4, data_seed=5, acked_round=2,
    total_rounds=9, aux=("c",),
)  # fmt: skip
PARAMS = Params.from_arrays({"w": np.arange(3.0)})
AUX = {"c": Params.from_arrays({"w": np.ones(3)})}


def state(value: float):
    book = StateBook()
    book.keep("mine", {"m": np.array([value])}, {"n": value})
    return book.result()


def key(secret=KEY, request=REQUEST, plan="hash", params=PARAMS, aux=AUX, base=None, data=b"") -> bytes:
    return request_key(secret, request, plan, params, aux, base, data)


def digest(request=REQUEST, plan="hash", params=PARAMS, aux=AUX) -> str:
    return request_digest(request, plan, params, aux)


def test_a_repeated_request_has_the_same_key_whatever_the_attempt():
    again = replace(REQUEST, key=replace(REQUEST.key, attempt=7))
    assert key() == key(request=again)
    assert len(key()) == 32
    assert digest() == digest(request=again)


def test_how_often_progress_is_told_has_no_say():
    often = replace(REQUEST, training_args={**REQUEST.training_args, "log_interval": 3})
    assert key(request=often) == key()
    assert digest(request=often) == digest()


def test_every_other_fact_has_its_say():
    changes = {
        "dataset_id": "d2", "plan_class": "Q", "model_args": {"a": 2}, "seed": 5, "data_seed": 6, "acked_round": 1,
        "training_args": {"dp_args": {"type": "local", "sigma": 2.0}, "epochs": 2}, "total_rounds": 10, "aux": (),
            "train": False, "acked_state": "a5" * 32,
    }  # fmt: skip
    assert set(changes) | {"key"} == set(TrainRequest.__struct_fields__)
    keys = [key(request=replace(REQUEST, **{name: value})) for name, value in changes.items()]
    for name, value in {"experiment_id": "f", "round": 4, "node_id": "lyon"}.items():
        keys.append(key(request=replace(REQUEST, key=replace(REQUEST.key, **{name: value}))))
    keys += [
        key(), key(secret=b"s" * 32), key(plan="other"), key(data=b"changed"),
        key(base=state(1.0)), key(base=state(2.0)),
        key(params=Params.from_arrays({"w": np.array([0.0, 1, 3])})),
        key(aux={"c": Params.from_arrays({"w": np.zeros(3)})}), key(aux={"d": AUX["c"]}), key(aux={}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    digests = [digest(request=replace(REQUEST, **{name: value})) for name, value in changes.items()]
    digests += [digest(), digest(plan="other"), digest(params=AUX["c"]), digest(aux={})]
    assert len(set(digests)) == len(digests)


def test_arguments_that_cannot_travel_are_refused():
    with pytest.raises(UsageError, match="model_args must be plain data"):
        key(request=replace(REQUEST, model_args={"net": object()}))


def test_privacy_args_are_those_of_the_type_asked_for():
    args = {"dp_args": {"type": "local", "sigma": 1.0}}
    assert privacy_args(args, "local") == args["dp_args"]
    assert privacy_args(args, "central") is None
    assert privacy_args({"dp_args": None}, "central") is None
    assert privacy_args({}, "local") is None
