"""The local loop: train and evaluate, for every framework.

::

    train:                                            evaluate:
        prepare                                           prepare
        for each epoch of the LoopPlan:                   for each batch, one full pass:
            shuffle from the seed tree                        evaluate
            for each batch:                               release
                forward, backward, step               -> metrics, weighted by samples
            (the last epoch is cut)
        release
    -> TrainResult

Between two batches the loop looks whether the task was cancelled, and reports every ``log_interval`` steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import DatasetError, PlanRunError, TrainingCancelledError
from fedplug.core.rng import SeedTree
from fedplug.core.trainer.backend import Backend
from fedplug.core.trainer.loop_plan import LoopPlan

_MAX_PENDING = 256  # losses that are kept unread; bounds how late a NaN is noticed


@dataclass(frozen=True, slots=True)
class LoopPoint:
    """How far a training is.

    Attributes:
        step: Optimizer steps done.
        total: Steps to do in all.
        epoch: Epoch, from 1.
        samples: Samples seen, counting those of every epoch.
        seconds: Since the routine began.
        loss: Mean over the samples since the last report.
    """

    step: int
    total: int
    epoch: int
    samples: int
    seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to.

    Attributes:
        steps: Optimizer steps made.
        samples: Samples seen, counting those of every epoch.
        loss: Mean training loss over those samples.
        seconds: Wall time.
        cpu_seconds: Time of the processor, all threads of the process together.
    """

    steps: int
    samples: int
    loss: float
    seconds: float
    cpu_seconds: float


class _LossMeter:
    """Collects losses unread, reads them in bulk, and keeps their mean over samples."""

    def __init__(self, read: Callable[[list[Any]], list[float]]) -> None:
        self._read = read
        self._losses: list[Any] = []
        self._sizes: list[int] = []
        self._since: tuple[float, int] = (0.0, 0)
        self._steps = 0
        self.total = 0.0
        self.samples = 0

    def add(self, loss: Any, size: int) -> None:
        self._losses.append(loss)
        self._sizes.append(size)
        if len(self._losses) >= _MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Read what has come together.

        Raises:
            PlanRunError: A loss is not finite; the step is named.
        """
        values, sizes = self._read(self._losses), self._sizes
        self._losses, self._sizes = [], []
        part, part_samples = self._since
        for value, size in zip(values, sizes, strict=True):
            self._steps += 1
            if not math.isfinite(value):
                raise PlanRunError(
                    f"The loss of training_step became {value} in step {self._steps}.",
                    cure="Lower the learning rate, or check the data for missing or huge values.",
                )
            part += value * size
            part_samples += size
            self.total += value * size
            self.samples += size
        self._since = (part, part_samples)

    def since_last(self) -> float:
        """Mean loss since the last call."""
        self.flush()
        part, samples = self._since
        self._since = (0.0, 0)
        return part / samples if samples else 0.0

    def mean(self) -> float:
        self.flush()
        return self.total / self.samples if self.samples else 0.0


def train(
    backend: Backend,
    source: BatchSource,
    loader: LoaderArgs,
    plan: LoopPlan,
    seed: SeedTree,
    *,
    log_interval: int = 10,
    report: Callable[[LoopPoint], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train for as many batches as ``plan`` says.

    Args:
        backend: The plan's model and optimizer.
        source: The training part of the data.
        loader: How batches are drawn.
        plan: How many of them; see `LoopPlan.make`.
        seed: Root of the order of samples; each epoch has its own subtree.
        log_interval: Report every so many steps, and at the first and the last; 0: never.
        report: Takes the reports.
        cancelled: Asked before every batch.

    Raises:
        TrainingCancelledError: ``cancelled`` said so.
        PlanRunError: A loss is NaN or infinite.
        DatasetError: The data gave no batch at all.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    meter = _LossMeter(backend.read)
    sizes = _batch_sizes(len(source), loader)
    place, forward, backward = backend.place, backend.forward, backend.backward
    move, detached, add = backend.step, backend.detached, meter.add
    step = samples = 0
    next_report = 1 if report is not None and log_interval > 0 else 0
    backend.prepare("train")
    try:
        for epoch in range(plan.epochs):
            drawn = step
            batches = source.epoch(loader, seed.child("epoch", epoch))
            for (data, target), size in zip(islice(batches, plan.in_epoch(epoch)), sizes, strict=False):
                if cancelled is not None and cancelled():
                    raise TrainingCancelledError(f"The training was cancelled after {step} of {plan.total} steps.")
                loss = forward(place(data), place(target))
                backward(loss)
                move()
                add(detached(loss), size)
                step += 1
                samples += size
                if step == next_report and report is not None:
                    seconds = time.perf_counter() - began
                    report(LoopPoint(step, plan.total, epoch + 1, samples, seconds, meter.since_last()))
                    next_report = min(step - step % log_interval + log_interval, max(plan.total, step + 1))
            if step == drawn:
                raise DatasetError(
                    f"The data set gives no batch, though it says that it has {len(source)} samples.",
                    cure="Check its __len__ and __getitem__.",
                )
        loss_mean = meter.mean()
    finally:
        backend.release()
    return TrainResult(step, samples, loss_mean, time.perf_counter() - began, time.process_time() - cpu_began)


def evaluate(
    backend: Backend,
    source: BatchSource,
    batch_size: int | None = None,
    *,
    extra: Any = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """One full pass over ``source``, in its own order.

    Args:
        backend: The plan's model.
        source: The data to test on, not empty.
        batch_size: Samples per batch; None or 0: all in one.
        extra: Further arguments for the framework's own loader.
        cancelled: Asked before every batch.

    Returns:
        The plan's metrics, each the mean of the batches' values weighted by their samples.

    Raises:
        TrainingCancelledError: ``cancelled`` said so.
    """
    loader = LoaderArgs(batch_size or max(1, len(source)), shuffle=False, extra=extra)
    totals: dict[str, float] = {}
    weights: dict[str, int] = {}
    backend.prepare("eval")
    try:
        for (data, target), size in zip(source.batches(loader, None), _batch_sizes(len(source), loader), strict=False):
            if cancelled is not None and cancelled():
                raise TrainingCancelledError("The training was cancelled while it tested.")
            for name, value in backend.evaluate(backend.place(data), backend.place(target)).items():
                totals[name] = totals.get(name, 0.0) + value * size
                weights[name] = weights.get(name, 0) + size
    finally:
        backend.release()
    return {name: total / weights[name] for name, total in totals.items()}


def _batch_sizes(samples: int, loader: LoaderArgs) -> list[int]:
    """Number of samples in each batch of a pass."""
    full, rest = divmod(samples, loader.batch_size)
    return [loader.batch_size] * full + ([rest] if rest and not loader.drop_last else [])
