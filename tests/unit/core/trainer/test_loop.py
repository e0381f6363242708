from __future__ import annotations

import math

import numpy as np
import pytest

from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import DatasetError, PlanRunError, TrainingCancelledError
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Backend, Trainer

SEED = SeedTree.root(3)


class Recorder(Backend):
    """Writes down what the loop asks of it; the loss of a batch is the mean of its data."""

    def __init__(self, losses=None):
        self.calls = []
        self.optimizer = object()
        self.seen = []
        self.losses = losses

    def prepare(self, phase):
        self.calls.append(f"prepare {phase}")

    def forward(self, data, target):
        self.calls.append("forward")
        self.seen.append(data[:, 0].tolist())
        return float(data.mean()) if self.losses is None else self.losses[len(self.seen) - 1]

    def backward(self, loss):
        self.calls.append("backward")

    def step(self):
        self.calls.append("step")

    def evaluate(self, data, target):
        self.calls.append("evaluate")
        return {"mean": float(data.mean()), "size": float(len(data))}

    def release(self):
        self.calls.append("release")


def source(samples: int = 10) -> ArrayData:
    return ArrayData(np.arange(samples, dtype=np.float64)[:, None], np.zeros(samples))


def flat(batches) -> list[float]:
    return [value for batch in batches for value in batch]


def run(backend, data, batch=4, shuffle=True, seed=SEED, loop=None, **args):
    loop = dict(loop or {})
    args["log_interval"] = loop.pop("log_interval", 10)
    loader = LoaderArgs(batch, shuffle=shuffle)
    trainer = Trainer(backend, {"train": data}, args=args, loader=loader, seed=seed, **loop)
    return trainer.train(with_params=False)


def evaluate(backend, data, batch_size=None, **options):
    return Trainer(backend, {"test": data}, **options).evaluate(batch_size=batch_size).metrics


def test_order_of_calls():
    backend = Recorder()
    run(backend, source(), epochs=1)
    assert backend.calls == ["prepare train", *["forward", "backward", "step"] * 3, "release"]


def test_result_counts_steps_and_samples_and_weighs_the_loss():
    result = run(Recorder(), source(), epochs=2)
    assert (result.steps, result.num_samples) == (6, 20)
    assert result.loss == pytest.approx(4.5)  # the mean over samples, though the last batch is smaller
    assert result.seconds > 0


def test_every_epoch_shows_each_sample_once_in_another_order():
    backend = Recorder()
    run(backend, source(), epochs=2)
    first, second = flat(backend.seen[:3]), flat(backend.seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_order_is_a_matter_of_the_seed_alone():
    seen = []
    for seed in (SEED, SEED, SeedTree.root(4)):
        backend = Recorder()
        run(backend, source(), seed=seed)
        seen.append(backend.seen)
    assert seen[0] == seen[1] != seen[2]


def test_without_shuffle_the_order_is_the_samples_own():
    backend = Recorder()
    run(backend, source(), shuffle=False)
    assert flat(backend.seen) == list(range(10))


def test_last_epoch_is_cut():
    backend = Recorder()
    assert run(backend, source(), num_updates=5).steps == 5
    assert len(backend.seen) == 5


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 3, 6, 7]), (100, [1, 7]), (0, [])]
)
def test_reports_at_first_last_and_every_interval(interval, expected):
    points = []
    run(Recorder(), source(), num_updates=7, loop={"log_interval": interval, "report": points.append})
    assert [point.step for point in points] == expected
    assert all(point.total == 7 for point in points)


def test_a_report_says_epoch_samples_and_the_loss_since_the_last_one():
    points = []
    run(
        Recorder(losses=[1.0, 2.0, 4.0, 8.0]), source(), shuffle=False, num_updates=4,
        loop={"log_interval": 3, "report": points.append},
    )  # fmt: skip
    assert [(p.step, p.epoch, p.samples) for p in points] == [(1, 1, 4), (3, 1, 10), (4, 2, 14)]
    assert [p.loss for p in points] == pytest.approx([1.0, (2 * 4 + 4 * 2) / 6, 8.0])


def test_cancelling_stops_before_the_next_batch_and_releases():
    backend = Recorder()
    with pytest.raises(TrainingCancelledError, match="after 2 of 3 steps"):
        run(backend, source(), loop={"cancelled": lambda: len(backend.seen) == 2})
    assert backend.calls[-1] == "release"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step(bad):
    backend = Recorder(losses=[1.0, 2.0, bad, 4.0, 5.0, 6.0])
    with pytest.raises(PlanRunError, match=f"became {bad} in step 3"):
        run(backend, source(), epochs=2)
    assert backend.calls[-1] == "release"


def test_a_very_long_training_notices_a_bad_loss_early():
    backend = Recorder(losses=[math.nan] + [0.0] * 4999)
    with pytest.raises(PlanRunError, match="step 1"):
        run(backend, source(), batch=1, num_updates=5000)
    assert len(backend.seen) < 1000


def test_an_exception_passes_unchanged_and_releases():
    backend = Recorder()
    backend.step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(backend, source())
    assert backend.calls[-1] == "release"


def test_data_that_gives_no_batch_is_named_and_not_looped_forever():
    class Empty(ArrayData):
        def batches(self, args, order):
            return iter(())

    with pytest.raises(DatasetError, match="gives no batch, though it says that it has 10 samples"):
        run(Recorder(), Empty(np.zeros((10, 1)), np.zeros(10)))


def test_evaluation_is_one_full_pass_weighted_by_samples():
    backend = Recorder()
    found = evaluate(backend, source(), 4)
    assert backend.calls == ["prepare eval", *["evaluate"] * 3, "release"]
    assert found == pytest.approx({"mean": 4.5, "size": (4 * 4 + 4 * 4 + 2 * 2) / 10})


@pytest.mark.parametrize("size", [None, 0])
def test_evaluation_takes_all_in_one_batch_by_default(size):
    assert evaluate(Recorder(), source(), size)["size"] == 10


def test_evaluation_can_be_cancelled():
    with pytest.raises(TrainingCancelledError):
        evaluate(Recorder(), source(), 4, cancelled=lambda: True)
