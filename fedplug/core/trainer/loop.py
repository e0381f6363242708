"""The local loop: the one place of the project that goes through epochs and batches.

It knows when hooks are called, and nothing of what they do. What a training is made of (forward, backward, step,
losses, reports) are hooks too: `fedplug.core.trainer.defaults`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.trainer.context import GO, STOP_EPOCH, STOP_ROUTINE, Context
from fedplug.core.trainer.hooks import HookFunction, HookPlan
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.points import Phase, Scope

Batch = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Feed:
    """Where the batches of a routine come from.

    Attributes:
        samples: Samples of the split.
        epoch: One pass: batches, already where the model is, with their numbers of samples.
    """

    samples: int
    epoch: Callable[[int], Iterator[tuple[Batch, int]]]


def run_routine(ctx: Context, hooks: HookPlan, feed: Feed) -> None:
    """Go through epochs and batches, calling hooks.

    An exception of a hook leaves the loop unchanged, after ``on_exception`` and ``on_teardown`` were called and
    all values of the routine were released. What those raise in turn is added to it as notes; where there was
    no exception, the first of theirs is raised.

    Args:
        ctx: At its beginning: ``ctx.loop_plan`` is set, and counters are zero.
        hooks: What to call.
        feed: Where batches come from.

    Raises:
        DatasetError: The data gave no batch, though it has samples.
    """
    depth = len(ctx.frames.open)
    ctx.frames.push(Scope.ROUTINE)
    try:
        _fire(hooks.plan_routine, ctx)
        if not isinstance(ctx.loop_plan, LoopPlan):
            raise UsageError("ctx.loop_plan must be a LoopPlan.", cure="E.g. dataclasses.replace(ctx.loop_plan, ...).")
        _fire(hooks.on_fit_start, ctx)
        epoch = 0
        while epoch < ctx.loop_plan.epochs and ctx.signal != STOP_ROUTINE:
            _run_epoch(ctx, hooks, feed, epoch)
            epoch += 1
        _fire(hooks.on_fit_end, ctx)
    except BaseException as error:
        ctx.exception = error
        _note(error, _fire_all(hooks.on_exception, ctx))
        raise
    finally:
        problems = _fire_all(hooks.on_teardown, ctx)
        while len(ctx.frames.open) > depth:
            problems += ctx.frames.pop()
        ctx.forget_batch()
        ctx.data_batch = ctx.y_true = None
        settle(ctx.exception, problems)


def _run_epoch(ctx: Context, hooks: HookPlan, feed: Feed, epoch: int) -> None:
    ctx.cur_epoch_i = epoch
    ctx.signal = GO
    ctx.frames.push(Scope.EPOCH)
    _fire(hooks.on_epoch_start, ctx)
    if ctx.signal < STOP_EPOCH:
        batches = islice(feed.epoch(epoch), ctx.loop_plan.in_epoch(epoch))
        ctx.frames.push(Scope.BATCH)
        drawn = _run_batches(ctx, hooks, batches)
        settle(None, ctx.frames.pop())
        if not drawn:
            raise DatasetError(
                f"The data set gives no batch, though it says that it has {feed.samples} samples.",
                cure="Check its __len__ and __getitem__.",
            )
    _fire(hooks.on_epoch_end, ctx)
    settle(None, ctx.frames.pop())


def _run_batches(ctx: Context, hooks: HookPlan, batches: Iterable[tuple[Batch, int]]) -> int:
    """The batches of an epoch; returns how many there were."""
    on_start, on_forward, on_backward, on_end = (
        hooks.on_batch_start, hooks.on_batch_forward, hooks.on_batch_backward, hooks.on_batch_end,
    )  # fmt: skip
    stack = ctx.frames
    index = -1
    for index, (batch, size) in enumerate(batches):
        ctx.cur_batch_i = index
        ctx.data_batch = batch
        ctx.y_true = batch[1]
        ctx.batch_size = size
        for call in on_start:
            call(ctx)
        if not ctx.signal:
            for call in on_forward:
                call(ctx)
            if not ctx.signal:
                for call in on_backward:
                    call(ctx)
        for call in on_end:
            call(ctx)
        ctx.data_batch = ctx.y_true = ctx.y_prob = ctx.loss_batch = ctx.loss_regular = ctx.loss_task = None
        if stack.open[-1].shadows:
            settle(None, stack.clear())
        if ctx.signal:
            if ctx.signal >= STOP_EPOCH:
                break
            ctx.signal = GO
    return index + 1


def _fire(calls: tuple[HookFunction, ...], ctx: Context) -> None:
    for call in calls:
        call(ctx)


def _fire_all(calls: tuple[HookFunction, ...], ctx: Context) -> list[Exception]:
    """Call every one, whatever the others raise."""
    problems: list[Exception] = []
    for call in calls:
        try:
            call(ctx)
        except Exception as error:  # noqa: BLE001 - it is told below; the rest must be torn down too
            problems.append(error)
    return problems


def settle(error: BaseException | None, problems: list[Exception]) -> None:
    """Tell of what was raised while things were released: as notes of ``error``, or else by raising the first."""
    if not problems:
        return
    if error is None:
        error, *problems = problems
        _note(error, problems)
        raise error
    _note(error, problems)


def _note(error: BaseException, problems: list[Exception]) -> None:
    for problem in problems:
        error.add_note(f"While this was handled, a hook raised {type(problem).__name__}: {problem}")


def is_training(phase: Phase) -> bool:
    """Whether the parameters move in ``phase``."""
    return phase is not Phase.EVAL
