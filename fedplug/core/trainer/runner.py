"""How a routine of a `Trainer` runs: what is set up before the loop, and put back after it."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.metrics.base import Metric
from fedplug.core.metrics.sums import findings
from fedplug.core.params import Params
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import split_data
from fedplug.core.trainer.backend import Backend
from fedplug.core.trainer.context import Context
from fedplug.core.trainer.defaults import Report
from fedplug.core.trainer.hook_set import HookSet
from fedplug.core.trainer.loop import Feed, run_routine
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.points import Phase
from fedplug.core.trainer.result import FitResult
from fedplug.core.trainer.seed_names import SeedNames
from fedplug.core.training_args import TrainingArgs

TEST_BATCH = 1024
"""Samples per batch of a test, unless the user says so, or a ``testing_step`` wants them together."""


class RoutineRunner(SeedNames):
    """The lower half of `Trainer`."""

    args: TrainingArgs
    finetune_args: TrainingArgs | None
    loader: LoaderArgs | None
    seed: SeedTree
    optimizer_state: str
    strict: bool
    log: Callable[[str], object]
    leaks: tuple[str, ...]
    routines: int
    ctx: Context
    hooks: dict[Phase, HookSet]
    metrics: Mapping[str, Metric]
    _cancelled: Callable[[], bool] | None
    _report: Report | None
    _report_every: int

    @abstractmethod
    def source(self, split: str) -> BatchSource | None:
        """What batches of ``split`` are drawn from; None if there is no data."""

    @abstractmethod
    def backends(self) -> list[Backend]:
        """The backends of all models."""

    @abstractmethod
    def get_params(self) -> Params:
        """The parameters, copied."""

    def make_plan(self, phase: Phase, split: str = "train", batch_size: int | None = None) -> LoopPlan:
        """The batches that a routine would make; `Trigger.PLAN_ROUTINE` hooks may still change them.

        Raises:
            DatasetError: There is no data, or it makes no batch.
        """
        source = self._required(split)
        if phase is Phase.EVAL:
            return LoopPlan.one_pass(len(source), self._eval_loader(source, batch_size))
        return LoopPlan.make(len(source), self._loader(source, phase), self._args_of(phase))

    def _run(
        self, phase: Phase, split: str, hooks: HookSet | None, with_params: bool, batch_size: int | None = None
    ) -> FitResult:
        plan = self.make_plan(phase, split, batch_size)
        mode = ("val" if split == "val" else "test") if phase is Phase.EVAL else phase.value
        ctx = self.ctx
        before, known = ctx.save(), set(vars(ctx))
        locked = [each for every in Phase for each in self._sets_of(every)]
        if hooks is not None:
            locked.append(hooks)
        for each in locked:
            each.lock()
        ctx.depth += 1
        try:
            if ctx.depth == 1:
                ctx.outbox = {}
            ctx.begin(phase, mode, split, plan)
            cpu_began = time.process_time()
            ctx.began = time.perf_counter()
            feed = self._feed(phase, split, batch_size)
            slots = self._drive(phase, feed, hooks)
            timing = (time.perf_counter() - ctx.began, time.process_time() - cpu_began)
            ctx.remember_split()
            leaks = tuple(sorted(set(vars(ctx)) - known - ctx.frames.declared()))
            result = dataclasses.replace(
                self._reduced(slots), aux=dict(ctx.outbox), seconds=timing[0], cpu_seconds=timing[1],
                stopped=ctx.stop_reason, leaks=leaks, params=self.get_params() if with_params else None,
            )  # fmt: skip
        finally:
            ctx.depth -= 1
            ctx.restore(before)
            for each in locked:
                each.unlock()
            if ctx.depth == 0:
                self._discharge()
        if phase is Phase.TRAIN:  # a fine-tuning must not change the order of what is trained after it
            self.routines += 1
        self._report_leaks(leaks)
        return result

    def _drive(self, phase: Phase, feed: Feed, hooks: HookSet | None) -> list[FitResult]:
        """Run the routine of each model; here, of one."""
        with self._ready(self.ctx.backend, phase):
            run_routine(self.ctx, (hooks or self.hooks[phase]).compile(), feed)
        return [self._slot_result()]

    def _reduced(self, slots: list[FitResult]) -> FitResult:
        return slots[0]

    def _slot_result(self) -> FitResult:
        ctx = self.ctx
        sums = ctx.meter.sums()
        values = findings(sums, self.metrics).values
        return FitResult(ctx.num_samples, metrics=dict(ctx.metrics), steps=ctx.num_steps, sums=sums, values=values)

    @contextmanager
    def _ready(self, backend: Backend, phase: Phase) -> Iterator[None]:
        """The backend in the mode of ``phase``, with the optimizer that belongs to it."""
        stashed = backend.optimizer, backend.scheduler
        nested = self.ctx.depth > 1
        own = phase is Phase.FINETUNE or (phase is Phase.TRAIN and nested)
        if own:
            backend.make_optimizer(self._args_of(phase).optimizer_args)
        elif phase is Phase.TRAIN and backend.optimizer is None:
            backend.make_optimizer(self.args.optimizer_args)
        backend.prepare(phase)
        try:
            yield
        finally:
            backend.release()
            if own:
                backend.use_optimizer(*stashed)
            elif phase is Phase.TRAIN and self.optimizer_state == "per_routine":
                backend.drop_optimizer()

    def _feed(self, phase: Phase, split: str, batch_size: int | None) -> Feed:
        source = self._required(split)
        backend = self.ctx.backend
        place = backend.place
        seed = self.seed.child(phase.value) if phase is Phase.FINETUNE else self.seed
        seed = seed.child("routine", self.routines) if self.routines else seed
        if phase is Phase.EVAL:
            source = self._whole(source)
            loader = self._eval_loader(source, batch_size)
        else:
            loader = self._loader(source, phase)

        def epoch(number: int) -> Iterator[Any]:
            if phase is Phase.EVAL:
                drawn = split_data.sized(source, loader, source.batches(loader, None))
            else:
                drawn = backend.draw(source, loader, seed.child("epoch", number))
            for (data, target), size in drawn:
                yield (place(data), place(target)), size

        return Feed(len(source), epoch)

    def _required(self, split: str) -> BatchSource:
        source = self.source(split)
        if source is None:
            there = [name for name in self.ctx.data if self.source(name) is not None]
            raise DatasetError(
                f"The trainer has no data in split {split!r}.", cure=f"It has: {', '.join(there) or 'none'}."
            )
        return source

    def _loader(self, source: BatchSource, phase: Phase) -> LoaderArgs:
        if isinstance(source, split_data.LoaderSource):
            return source.loader_args()
        if self.loader is None:
            return LoaderArgs.merge(self._args_of(phase).loader_args)
        if phase is Phase.FINETUNE and self.finetune_args is not None:
            return LoaderArgs.merge(self.loader.as_dict(), self.finetune_args.loader_args)
        return self.loader

    def _eval_loader(self, source: BatchSource, batch_size: int | None) -> LoaderArgs:
        if isinstance(source, split_data.LoaderSource):
            return source.loader_args()
        extra = (self.loader or LoaderArgs.merge(self.args.loader_args)).extra
        usual = len(source) if self.ctx.backend.has_testing_step else TEST_BATCH
        size = batch_size or self.args.test_batch_size or max(1, usual)
        return LoaderArgs(size, shuffle=False, extra=extra)

    def _whole(self, source: BatchSource) -> BatchSource:
        """A loader that drops its last batch is read past: an evaluation sees each sample."""
        if isinstance(source, split_data.LoaderSource) and source.loader_args().drop_last:
            if not split_data.is_loader(source.loader):
                raise UsageError("A loader with drop_last cannot be evaluated on.", cure="Give the data set instead.")
            return self.ctx.backend.wrap(source.loader.dataset, None)
        return source

    def _args_of(self, phase: Phase) -> TrainingArgs:
        return self.finetune_args or self.args if phase is Phase.FINETUNE else self.args

    def _sets_of(self, phase: Phase) -> list[HookSet]:
        return [self.hooks[phase]]

    def _discharge(self) -> None:
        for backend in self.backends():
            backend.discharge()

    def _report_leaks(self, leaks: tuple[str, ...]) -> None:
        self.leaks = tuple(sorted({*self.leaks, *leaks} & set(vars(self.ctx))))
        if leaks and self.strict:
            raise UsageError(
                f"Hooks left behind without a scope: {', '.join(f'ctx.{name}' for name in leaks)}.",
                cure='Set them with ctx.set(name, value, "routine"), or "run" if they are to stay.',
            )
