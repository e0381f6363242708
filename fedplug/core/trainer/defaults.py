"""What a training is made of, as hooks: any of them can be replaced, removed, or preceded by another.

========================  =============================================  ==========================
trigger                   train, finetune                                eval
========================  =============================================  ==========================
on_fit_start              begin (where the optimizer is a PlanOptimizer)
on_batch_start            cancel (where a task can be cancelled)         cancel
on_batch_forward          forward, regularizer                           evaluate, measure
on_batch_backward         backward, step
on_batch_end              accumulate, report, schedule                   accumulate
on_epoch_end              schedule
on_fit_end                schedule, finish, end                          finish
========================  =============================================  ==========================

``begin`` and ``end`` are there if the optimizer is a `PlanOptimizer`, but not for fine-tuning. ``report`` and
``schedule`` are there if somebody takes reports, or the backend has a scheduler; ``measure`` is, if there are metrics
to measure (``test_metric``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fedplug.core.errors import TrainingCancelledError
from fedplug.core.metrics.sums import findings
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.trainer.context import Context
from fedplug.core.trainer.hooks import Hook
from fedplug.core.trainer.points import Phase, Trigger

OWNER = "fedplug"
"""The plugin name of the loop's own hooks."""

TRAINING = (Phase.TRAIN, Phase.FINETUNE)

SCHEDULER_UNITS = {
    "batch": Trigger.ON_BATCH_END,
    "epoch": Trigger.ON_EPOCH_END,
    "round": Trigger.ON_FIT_END,
}
"""After what a scheduler may step."""


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


Report = Callable[[LoopPoint], object]
"""Takes signs of life."""


def default_hooks(
    *,
    reports: bool = False,
    cancels: bool = False,
    scheduler_unit: str = "",
    measured: bool = False,
    talks: bool = False,
) -> list[Hook]:
    """The loop's own hooks, of all phases. They belong to no trainer: what is a trainer's own they find in the context.

    Args:
        reports: Whether somebody takes reports.
        cancels: Whether somebody may cancel the training, or the test.
        scheduler_unit: After what the scheduler steps; empty if there is none.
        measured: Whether the trainer has metrics to measure.
        talks: Whether the optimizer may talk with a counterpart at the researcher.
    """
    hooks = list(_ALWAYS)
    if talks:
        hooks.append(Hook(begin, Trigger.ON_FIT_START, (Phase.TRAIN,), "begin", OWNER, first=True))
        hooks.append(Hook(end, Trigger.ON_FIT_END, (Phase.TRAIN,), "end", OWNER))
    if measured:
        hooks.append(Hook(measure, Trigger.ON_BATCH_FORWARD, (Phase.EVAL,), "measure", OWNER))
    if cancels:
        hooks.append(Hook(cancel, Trigger.ON_BATCH_START, (*TRAINING, Phase.EVAL), "cancel", OWNER))
    if reports:
        hooks.append(Hook(report, Trigger.ON_BATCH_END, TRAINING, "report", OWNER))
    if scheduler_unit:
        trigger, before = SCHEDULER_UNITS[scheduler_unit], _before(scheduler_unit)
        hooks.append(Hook(schedule, trigger, (Phase.TRAIN,), plugin=OWNER, before=before))
    return hooks


# training --------------------------------------------------------------------------------------------------


def begin(ctx: Context) -> None:
    """Lets the optimizer read what came with the round."""
    if _talks(ctx):
        ctx.backend.optimizer.begin(ctx)


def end(ctx: Context) -> None:
    """Lets the optimizer answer, and keep what it needs in the next round."""
    if _talks(ctx):
        ctx.backend.optimizer.end(ctx)


def _talks(ctx: Context) -> bool:
    """Whether this is the training of the round, of the model that is shared."""
    return ctx.depth == 1 and ctx.cur_model_idx == 0 and isinstance(ctx.backend.optimizer, PlanOptimizer)


def forward(ctx: Context) -> None:
    """Sets loss_batch, loss_task, y_prob."""
    backend = ctx.backend
    data, target = ctx.data_batch
    ctx.loss_batch = ctx.loss_task = backend.forward(data, target)
    ctx.y_prob = backend.output


def regularizer(ctx: Context) -> None:
    """Adds what ``ctx.regularizer`` returns, if there is one, to loss_task; sets loss_regular."""
    if ctx.regularizer is not None:
        term = ctx.regularizer(ctx)
        ctx.loss_regular = term if ctx.loss_regular is None else ctx.loss_regular + term
        ctx.loss_task = ctx.loss_task + term


def backward(ctx: Context) -> None:
    """Gradients of loss_task."""
    ctx.backend.backward(ctx.loss_task)


def step(ctx: Context) -> None:
    """Moves the parameters; counts num_steps."""
    ctx.backend.step()
    ctx.num_steps += 1


def accumulate(ctx: Context) -> None:
    """Adds the batch to the loss and to num_samples; a batch that was skipped before its loss does not count."""
    loss = ctx.loss_batch
    if loss is not None:
        size = ctx.batch_size
        ctx.meter.add(ctx.backend.detached(loss), size)
        ctx.num_samples += size
        if ctx.loss_regular is not None:
            ctx.loss_regular_total = ctx.loss_regular_total + ctx.backend.detached(ctx.loss_regular) * size


def schedule(ctx: Context) -> None:
    """One step of the scheduler."""
    scheduler = ctx.backend.scheduler
    if scheduler is not None:
        scheduler.step()


def finish(ctx: Context) -> None:
    """Sets the metric ``loss``, the mean of loss_batch over all samples."""
    ctx.metrics["loss"] = ctx.meter.mean()


# evaluation ------------------------------------------------------------------------------------------------


def evaluate(ctx: Context) -> None:
    """Sets batch_metrics, y_prob, and loss_batch if there is such a metric.

    Where metrics are measured, and there is no ``testing_step`` besides, there is nothing to do.
    """
    backend = ctx.backend
    if ctx.trainer.metrics and not backend.has_testing_step:
        return
    data, target = ctx.data_batch
    metrics = ctx.batch_metrics = backend.evaluate(data, target)
    ctx.y_prob = backend.output
    ctx.loss_batch = metrics.get("loss")


def measure(ctx: Context) -> None:
    """Sets y_prob, the output of ``predict``, and adds the states of all metrics of ``test_metric`` to the meter.

    A trainer whose output is not that of one model replaces this hook by one that calls `Trainer.measure`.
    """
    data, target = ctx.data_batch
    ctx.y_prob = ctx.backend.predict(data)
    ctx.trainer.measure(ctx.y_prob, target)


def accumulate_metrics(ctx: Context) -> None:
    """Adds the batch to the metrics and to num_samples."""
    ctx.meter.add_metrics(ctx.batch_metrics, ctx.batch_size)
    ctx.num_samples += ctx.batch_size
    ctx.batch_metrics = {}


def finish_metrics(ctx: Context) -> None:
    """Adds what all metrics come to to ``ctx.metrics``, where it is a number."""
    ctx.metrics = {**findings(ctx.meter.sums(), ctx.trainer.metrics).scalars, **ctx.metrics}


def collect_outputs(ctx: Context) -> None:
    """Not there by default: keeps labels and outputs of all batches for ``ctx.test_y_true``, ``ctx.test_y_prob``.

    Register it at ``on_batch_end``, behind nothing in particular. All outputs of a routine stay in memory.
    """
    trues, probs = ctx.outputs
    trues.append(ctx.y_true)
    probs.append(ctx.y_prob)


# for whoever waits for the training ------------------------------------------------------------------------


def cancel(ctx: Context) -> None:
    """Ends the routine with an error where the trainer's ``cancelled`` says so."""
    cancelled = ctx.trainer._cancelled
    if cancelled is not None and cancelled():
        if ctx.cur_phase is Phase.EVAL:
            raise TrainingCancelledError("The training was cancelled while it tested.")
        done = f"{ctx.num_steps} of {ctx.loop_plan.total} steps"
        raise TrainingCancelledError(f"The training was cancelled after {done}.")


def report(ctx: Context) -> None:
    """Tells the trainer's ``report`` how far it is: after the first step and the last, and every so many between."""
    done = ctx.num_steps
    if done != ctx.next_report:
        return
    trainer, total = ctx.trainer, ctx.loop_plan.total
    interval = trainer._report_every
    if trainer._report is not None and interval:
        seconds = time.perf_counter() - ctx.began
        point = LoopPoint(done, total, ctx.cur_epoch_i + 1, ctx.num_samples, seconds, ctx.meter.since_last())
        trainer._report(point)
        ctx.next_report = min(done - done % interval + interval, max(total, done + 1))


def _before(scheduler_unit: str) -> tuple[str, ...]:
    return ("finish",) if scheduler_unit == "round" else ()


_ALWAYS = (
    Hook(forward, Trigger.ON_BATCH_FORWARD, TRAINING, "forward", OWNER),
    Hook(regularizer, Trigger.ON_BATCH_FORWARD, TRAINING, "regularizer", OWNER),
    Hook(evaluate, Trigger.ON_BATCH_FORWARD, (Phase.EVAL,), "evaluate", OWNER),
    Hook(backward, Trigger.ON_BATCH_BACKWARD, TRAINING, "backward", OWNER),
    Hook(step, Trigger.ON_BATCH_BACKWARD, TRAINING, "step", OWNER),
    Hook(accumulate, Trigger.ON_BATCH_END, TRAINING, "accumulate", OWNER),
    Hook(accumulate_metrics, Trigger.ON_BATCH_END, (Phase.EVAL,), "accumulate", OWNER),
    Hook(finish, Trigger.ON_FIT_END, TRAINING, "finish", OWNER),
    Hook(finish_metrics, Trigger.ON_FIT_END, (Phase.EVAL,), "finish", OWNER),
)
