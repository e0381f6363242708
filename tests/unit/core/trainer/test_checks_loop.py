"""Acceptance checks of the local loop: 1 to 9, by number, on a NumPy model."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import DatasetError
from fedplug.core.trainer import LoopPlan

_spec = importlib.util.spec_from_file_location("trainer_kit", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


def test_check_01_order_and_counts_of_the_triggers():
    t = kit.trainer(12, 6, epochs=2)
    calls = kit.record(t, triggers=kit.EIGHT)
    t.train()
    batch = ["on_batch_start", "on_batch_forward", "on_batch_backward", "on_batch_end"]
    epoch = ["on_epoch_start", *batch, *batch, "on_epoch_end"]
    assert [c[0] for c in calls] == ["on_fit_start", *epoch, *epoch, "on_fit_end"]
    counts = Counter(c[0] for c in calls)
    assert [counts[t] for t in kit.EIGHT] == [1, 2, 4, 4, 4, 4, 2, 1]


def test_check_02_evaluation_has_no_backward_even_if_a_hook_is_registered():
    t = kit.trainer(12, 6)
    calls = kit.record(t, phase="eval", triggers=kit.EIGHT)
    t.evaluate(batch_size=6)
    batch = ["on_batch_start", "on_batch_forward", "on_batch_end"]
    assert [c[0] for c in calls] == ["on_fit_start", "on_epoch_start", *batch, *batch, "on_epoch_end", "on_fit_end"]


@pytest.mark.parametrize(
    ("samples", "batch", "args", "expected"),
    [
        (7, 2, {"num_updates": 6}, [4, 2]),
        (7, 2, {"num_updates": 3}, [3]),
        (7, 2, {"num_updates": 8}, [4, 4]),
        (7, 4, {"epochs": 2}, [2, 2]),
    ],
)
def test_check_03_batches_that_are_executed(samples, batch, args, expected):
    t = kit.trainer(samples, batch, **args)
    calls = kit.record(t, triggers=["on_batch_end"], note=lambda ctx: (ctx.cur_epoch_i,))
    result = t.train()
    counts = Counter(epoch for _, epoch in calls)
    assert [counts[i] for i in range(len(expected))] == expected
    assert result.steps == sum(expected)


def test_check_04_a_last_epoch_that_is_cut_fires_its_end_triggers():
    t = kit.trainer(7, 2, num_updates=6)
    calls = kit.record(t, triggers=["on_epoch_end", "on_fit_end"])
    t.train()
    assert [c[0] for c in calls] == ["on_epoch_end", "on_epoch_end", "on_fit_end"]


def test_check_05_no_batch_is_an_error_before_anything_starts():
    t = kit.trainer(3, 4, loader_args={"batch_size": 4, "drop_last": True})
    calls = kit.record(t)
    with pytest.raises(DatasetError, match="3 samples make no batch of 4"):
        t.train()
    assert calls == []


@pytest.mark.parametrize("drop_last", [False, True])
def test_check_06_evaluation_on_the_train_split_is_one_full_pass(drop_last):
    t = kit.trainer(7, 2, loader_args={"batch_size": 2, "drop_last": drop_last}, num_updates=9, epochs=5)
    calls = kit.record(t, phase="eval", triggers=["on_batch_end"], note=lambda ctx: (ctx.batch_size,))
    found = t.evaluate("train", batch_size=2)
    assert [size for _, size in calls] == [2, 2, 2, 1]
    assert found.num_samples == 7
    assert found.metrics["loss"] == pytest.approx(float((kit.Y[:7] ** 2).mean()))


def test_check_07_finetuning_has_its_own_arguments_optimizer_and_hooks():
    t = kit.trainer(
        12, 6, epochs=2, optimizer_state="keep",
        finetune_args={"num_updates": 5, "loader_args": {"batch_size": 3}, "optimizer_args": {"lr": 0.5}},
    )  # fmt: skip
    t.train()
    kept = t.ctx.optimizer
    rates, tuned = [], kit.record(t, phase="finetune", triggers=["on_batch_end"])
    trained = kit.record(t, triggers=["on_batch_end"])
    t.hooks_in_finetune.add(lambda ctx: rates.append(ctx.optimizer.lr), "on_fit_start", name="rate")
    t.finetune()
    assert (len(tuned), len(trained), rates) == (5, 0, [0.5])
    assert t.ctx.optimizer is kept
    assert t.ctx.num_total_train_batch == 4
    assert t.train().steps == 4


@pytest.mark.parametrize("trigger", ["on_batch_start", "on_batch_forward", "on_batch_backward", "on_batch_end"])
@pytest.mark.parametrize("signal", ["skip_batch", "stop_epoch", "stop_routine"])
def test_check_08_signals_act_after_the_current_trigger(signal, trigger):
    t = kit.trainer(12, 3, epochs=2)
    calls = kit.record(t, triggers=kit.EIGHT, note=lambda ctx: (ctx.cur_epoch_i, ctx.cur_batch_i))

    def ask(ctx):
        if (ctx.cur_epoch_i, ctx.cur_batch_i) == (0, 1):
            getattr(ctx, signal)()

    t.hooks_in_train.add(ask, trigger, index=0)
    result = t.train()
    seen = [c[0] for c in calls if c[1:] == (0, 1) and c[0].startswith("on_batch")]
    order = ["on_batch_start", "on_batch_forward", "on_batch_backward"]
    until = order[: order.index(trigger) + 1] if trigger in order else order
    assert seen == [*until, "on_batch_end"]
    batches = Counter(c[1] for c in calls if c[0] == "on_batch_end")
    assert batches == {"skip_batch": {0: 4, 1: 4}, "stop_epoch": {0: 2, 1: 4}, "stop_routine": {0: 2}}[signal]
    ends = Counter(c[0] for c in calls)
    assert ends["on_fit_end"] == 1
    assert ends["on_epoch_end"] == ends["on_epoch_start"]
    assert result.stopped == ("a hook asked for it" if signal == "stop_routine" else "")


def test_check_08_a_routine_can_be_stopped_before_its_first_epoch():
    t = kit.trainer()
    t.hooks_in_train.add(lambda ctx: ctx.stop_routine("enough"), "on_fit_start", name="enough")
    calls = kit.record(t, triggers=kit.EIGHT)
    assert t.train().stopped == "enough"
    assert [c[0] for c in calls] == ["on_fit_start", "on_fit_end"]


class Short(ArrayData):
    """Gives fewer batches than its length promises."""

    def batches(self, args, order):
        yield from list(super().batches(args, order))[:2]


class Empty(ArrayData):
    def batches(self, args, order):
        return iter(())


def test_check_09_an_exhausted_loader_ends_the_epoch():
    t = kit.trainer(data={"train": Short(kit.X, kit.Y)}, epochs=2)
    assert t.train().steps == 4


def test_check_09_an_empty_loader_is_a_named_error():
    t = kit.trainer(data={"train": Empty(kit.X, kit.Y)})
    with pytest.raises(DatasetError, match="gives no batch"):
        t.train()


def test_a_hook_can_change_the_plan_before_the_routine_starts():
    t = kit.trainer(12, 6, epochs=2)

    def plan(ctx):
        ctx.loop_plan = replace(ctx.loop_plan, epochs=3, total=6)

    t.hooks_in_train.add(plan, "plan_routine")
    assert t.train().steps == 6
    assert t.ctx.num_train_epoch == 2


def test_one_pass_counts_the_tail():
    assert LoopPlan.one_pass(24, LoaderArgs(7)).total == 4
    with pytest.raises(DatasetError, match="no samples to test on"):
        LoopPlan.one_pass(0, LoaderArgs(7))
