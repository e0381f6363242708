from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.data import LoaderArgs
from fedplug.core.errors import DatasetError
from fedplug.core.trainer import LoopPlan
from fedplug.core.training_args import TrainingArgs


def sizes(samples: int, batch: int, drop_last: bool = False, **args) -> list[int]:
    plan = LoopPlan.make(samples, LoaderArgs(batch, drop_last=drop_last), TrainingArgs.from_dict(args))
    found = [plan.in_epoch(epoch) for epoch in range(plan.epochs)]
    assert sum(found) == plan.total
    return found


@pytest.mark.parametrize(
    ("samples", "batch", "args", "expected"),
    [
        (7, 2, {"num_updates": 6}, [4, 2]),
        (7, 2, {"num_updates": 3}, [3]),
        (7, 2, {"num_updates": 8}, [4, 4]),
        (7, 4, {"epochs": 2}, [2, 2]),
        (7, 2, {}, [4]),
        (7, 2, {"drop_last": True}, [3]),
        (7, 2, {"num_updates": 5, "epochs": 9}, [4, 1]),
        (7, 2, {"epochs": 2, "batch_maxnum": 3}, [3, 3]),
        (7, 2, {"epochs": 2, "batch_maxnum": 0}, [4, 4]),
        (7, 2, {"epochs": 1, "batch_maxnum": 100}, [4]),
        (7, 2, {"num_updates": 5, "batch_maxnum": 2}, [2, 2, 1]),
        (7, 2, {"epochs": 5, "dry_run": True}, [1]),
        (7, 2, {"num_updates": 5, "dry_run": True}, [1]),
    ],
)
def test_batches_of_each_epoch(samples, batch, args, expected):
    assert sizes(samples, batch, **args) == expected


@given(samples=st.integers(1, 60), batch=st.integers(1, 20), updates=st.integers(1, 90), most=st.integers(0, 5))
def test_num_updates_is_kept_exactly(samples, batch, updates, most):
    found = sizes(samples, batch, num_updates=updates, batch_maxnum=most)
    assert sum(found) == updates
    assert all(size == found[0] for size in found[:-1])
    assert 1 <= found[-1] <= found[0] <= -(-samples // batch)


def test_drop_last_without_a_full_batch_is_an_error():
    with pytest.raises(DatasetError, match="3 samples make no batch of 4 with drop_last"):
        sizes(3, 4, drop_last=True)


def test_no_sample_is_an_error():
    with pytest.raises(DatasetError, match="no samples to train on"):
        sizes(0, 4)
