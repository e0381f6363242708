"""Acceptance checks of the context: 21 to 27, by number."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from pathlib import Path

import pytest

from fedplug.core.errors import UnknownNameError, UsageError

_spec = importlib.util.spec_from_file_location("trainer_kit", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


def test_check_21_values_live_as_long_as_their_scope():
    t = kit.trainer(12, 6, epochs=2)
    seen, released = [], []

    def look(where):
        return lambda ctx: seen.append((where, *(name for name in ("b", "e", "r", "n") if ctx.get(name) is not None)))

    def put(ctx):
        for name, scope in (("b", "batch"), ("e", "epoch"), ("r", "routine"), ("n", "run")):
            ctx.set(name, name, scope, released.append)

    t.hooks_in_train.add(look("batch"), "on_batch_start", name="look")
    t.hooks_in_train.add(look("epoch"), "on_epoch_start", name="look")
    t.hooks_in_train.add(put, "on_batch_end")
    t.train()
    assert seen == [
        ("epoch",), ("batch",), ("batch", "e", "r", "n"),
        ("epoch", "r", "n"), ("batch", "r", "n"), ("batch", "e", "r", "n"),
    ]  # fmt: skip
    assert [t.ctx.get(name) for name in "bern"] == [None, None, None, "n"]
    assert (released.count("b"), released.count("e"), released.count("r"), released.count("n")) == (4, 2, 1, 0)
    t.close()
    assert released[-1] == "n"
    assert t.ctx.get("n") is None


@pytest.mark.parametrize("trigger", ["plan_routine", *kit.EIGHT])
def test_check_22_a_hook_that_raises_leaves_no_trace(trigger):
    t = kit.trainer(12, 6)
    discharged, torn = [], []
    t.ctx.backend.discharge = lambda: discharged.append(1)
    before = (t.ctx.cur_mode, t.ctx.cur_split, len(t.ctx.frames.open), set(vars(t.ctx)), t.ctx.save())

    def fail(ctx):
        ctx.routine.mine = 1
        raise KeyError("mine")

    t.hooks_in_train.add(lambda ctx: torn.append(("exception", ctx.exception)), "on_exception", name="see")
    t.hooks_in_train.add(lambda ctx: torn.append("first in"), "on_teardown", name="one")
    t.hooks_in_train.add(lambda ctx: torn.append("last in"), "on_teardown", name="two")
    t.hooks_in_train.add(fail, trigger)
    with pytest.raises(KeyError) as caught:
        t.train()
    assert torn == [("exception", caught.value), "last in", "first in"]
    assert caught.value.args == ("mine",)
    assert (t.ctx.cur_mode, t.ctx.cur_split, len(t.ctx.frames.open), set(vars(t.ctx)), t.ctx.save()) == before
    assert discharged == [1]
    t.hooks_in_train.remove(fail)
    assert t.train().steps == 2


def test_check_22_what_fails_while_it_is_torn_down_is_a_note():
    t = kit.trainer()

    def fail(ctx):
        ctx.set("x", 1, "batch", on_release=lambda value: 1 / 0)
        raise KeyError("first")

    t.hooks_in_train.add(fail, "on_batch_end")
    t.hooks_in_train.add(lambda ctx: ctx.outputs[0][7], "on_teardown", name="down")
    with pytest.raises(KeyError) as caught:
        t.train()
    assert [note.split("raised ")[1][:8] for note in caught.value.__notes__] == ["IndexErr", "ZeroDivi"]
    t.hooks_in_train.remove(fail)
    with pytest.raises(IndexError):
        t.train()


def test_check_23_scopes_of_a_name_do_not_shorten_each_other():
    t = kit.trainer(12, 6)
    seen = []

    def put(ctx):
        if ctx.cur_batch_i == 0:
            ctx.set("x", "inner", "batch")
            ctx.set("x", "outer", "routine")
            seen.append(ctx.x)
            ctx.x = "again"
        seen.append(ctx.x)

    t.hooks_in_train.add(put, "on_batch_end")
    t.hooks_in_train.add(lambda ctx: seen.append(ctx.x), "on_fit_end", name="end")
    t.train()
    assert seen == ["inner", "again", "outer", "outer"]
    assert t.ctx.get("x") is None


def test_check_24_an_evaluation_inside_a_training_changes_nothing_of_it():
    plain, nested = kit.trainer(12, 5, epochs=2), kit.trainer(12, 5, epochs=2)
    fields = ("num_samples", "num_steps", "cur_epoch_i", "cur_mode", "cur_split", "cur_phase", "num_samples_train")
    looked = []

    def inside(ctx):
        ctx.epoch.mine = 7
        before = [getattr(ctx, name) for name in fields], ctx.loss_total_train, ctx.backend.optimizer
        found = ctx.trainer.evaluate("train", batch_size=5)
        looked.append(found.num_samples)
        assert ([getattr(ctx, name) for name in fields], ctx.loss_total_train, ctx.backend.optimizer) == before
        assert ctx.mine == 7

    nested.hooks_in_train.add(inside, "on_epoch_end")
    nested.hooks_in_train.add(lambda ctx: ctx.trainer.evaluate(), "on_batch_forward", name="within")
    a, b = plain.train(), nested.train()
    assert looked == [12, 12]
    assert (a.params, a.metrics, a.num_samples, a.steps) == (b.params, b.metrics, b.num_samples, b.steps)


def test_check_25_mode_and_split_are_told_apart():
    t = kit.trainer(data={"train": kit.source(), "val": kit.source(), "test": kit.source()})
    seen = []
    for phase in ("train", "eval", "finetune"):
        t.hooks[phase].add(
            lambda ctx: seen.append((ctx.cur_mode, ctx.cur_dataset, str(ctx.cur_phase))), "on_fit_start", name="s"
        )
    for run in (t.train, t.finetune, t.evaluate, lambda: t.evaluate("train"), lambda: t.evaluate("val")):
        run()
        assert (t.ctx.cur_mode, t.ctx.cur_split, t.ctx.cur_phase) == ("", "", None)
    assert seen == [
        ("train", "train", "train"), ("finetune", "train", "finetune"), ("test", "test", "eval"),
        ("test", "train", "eval"), ("val", "val", "eval"),
    ]  # fmt: skip


class Batch:
    pass


def test_check_26_a_leak_is_reported_and_the_rest_is_freed():
    t = kit.trainer()
    alive = []

    def forget(ctx):
        ctx.leaked = ctx.cur_batch_i
        ctx.batch.clean = Batch()
        alive.append(weakref.ref(ctx.clean))

    t.hooks_in_train.add(forget, "on_batch_end")
    results = [t.train() for _ in range(100)]
    assert (results[0].leaks, t.leaks) == (("leaked",), ("leaked",))
    gc.collect()
    assert [ref() for ref in alive] == [None] * 400
    optimizer = weakref.ref(t.ctx.backend.optimizer) if t.ctx.backend.optimizer is not None else lambda: None
    assert optimizer() is None


def test_check_26_strict_mode_makes_a_leak_an_error():
    t = kit.trainer(strict=True)
    t.hooks_in_train.add(lambda ctx: setattr(ctx, "leaked", 1), "on_fit_end", name="forget")
    with pytest.raises(UsageError, match=r"ctx\.leaked"):
        t.train()
    t = kit.trainer(strict=True)
    t.hooks_in_train.add(lambda ctx: ctx.set("kept", 1, "run"), "on_fit_end", name="declare")
    assert t.train().leaks == ()


def test_check_27_a_missing_name_tells_where_it_was_looked_for():
    t = kit.trainer()
    texts = []

    def look(ctx):
        with pytest.raises(AttributeError, match="'nothing'") as caught:
            _ = ctx.nothing
        texts.append(str(caught.value))

    t.hooks_in_train.add(look, "on_fit_start")
    t.hooks_in_train.add(look, "on_batch_start", name="again")
    t.train()
    assert "(routine, run)" in texts[0]
    assert "(batch, epoch, routine, run)" in texts[1]
    with pytest.raises(UnknownNameError, match=r"scope(.|\n)*batch, epoch, routine, run"):
        t.ctx.set("x", 1, "bach")
    with pytest.raises(UsageError, match="none is running"):
        t.ctx.set("x", 1, "batch")
    with pytest.raises(UsageError, match="field of every context"):
        t.ctx.set("num_samples", 1, "run")


def test_the_names_of_the_page():
    t = kit.trainer(12, 5, epochs=2)
    seen = {}

    def look(ctx):
        seen.update(
            label=ctx.label is ctx.y_true is ctx.data_batch[1], batch=ctx.batch_size, epochs=ctx.num_train_epoch,
            batches=(ctx.num_train_batch, ctx.num_train_batch_last_epoch), model=ctx.model is ctx.models[0],
            loss=float(ctx.loss_task) == float(ctx.loss_batch), optimizers=ctx.optimizers == [ctx.optimizer],
        )  # fmt: skip

    t.hooks_in_train.add(look, "on_batch_end", index=0)
    result = t.train()
    assert seen == {
        "label": True,
        "batch": 2,
        "epochs": 2,
        "batches": (3, 3),
        "model": True,
        "loss": True,
        "optimizers": True,
    }
    assert (t.ctx.num_train_data, t.ctx.num_val_data, t.ctx.num_samples_train) == (12, 0, 24)
    assert t.ctx.loss_total_train == t.ctx.loss_batch_total_train == pytest.approx(result.loss * 24)
    assert (t.ctx.loss_regular_total_train, t.ctx.num_samples_test, t.ctx.val_data) == (0.0, 0, None)
    assert (t.ctx.pred, t.ctx.scheduler, t.ctx.criterion, t.ctx.device) == (None, None, None, "cpu")
