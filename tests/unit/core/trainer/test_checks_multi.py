"""Acceptance checks of several models: 36 to 43, by number."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedplug.core.errors import FedplugError, ParamsError, TrainingCancelledError, UsageError
from fedplug.core.trainer import MultiModelTrainer

_spec = importlib.util.spec_from_file_location("trainer_kit", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


MODES = ("sequential", "parallel")


def multi(mode="sequential", models=2, **more):
    options = {k: more.pop(k) for k in ("reducer", "interact") if k in more}
    return MultiModelTrainer(models, mode, base_trainer=kit.trainer(12, 6, **more), **options)


def test_check_36_models_are_equal_and_independent_and_share_the_data():
    base = kit.trainer(12, 6)
    t = MultiModelTrainer(3, base_trainer=base)
    assert [m["w"].tolist() for m in t.ctx.models] == [[0, 0, 0]] * 3
    t.ctx.models[1]["w"] += 1
    assert [m["w"].sum() for m in t.ctx.models] == [0, 3, 0]
    assert t.source("train") is base.source("train")
    assert t.ctx.models[0] is base.ctx.model


@pytest.mark.parametrize("mode", MODES)
def test_check_37_a_hook_of_one_model_runs_with_it_alone(mode):
    t = multi(mode)
    seen = []
    t.hooks_in_train_multiple_models[1].add(lambda ctx: seen.append(ctx.cur_model_idx), "on_batch_end", name="see")
    t.train()
    assert seen == [1, 1]
    assert t.hooks_in_train.names("on_batch_end") == ("accumulate",)
    assert len(t.hooks_in_eval_multiple_models) == 2


def test_check_38_sequential_is_one_routine_after_the_other():
    calls = []
    t = multi(interact=lambda ctx: calls.append(("interact", ctx.cur_model_idx)))
    for i in range(2):
        kit_record(t, i, calls)
    t.train()
    batch = ["on_batch_start", "on_batch_forward", "on_batch_backward", "on_batch_end"]
    one = ["on_fit_start", "on_epoch_start", *batch, *batch, "on_epoch_end", "on_fit_end"]
    assert calls == [*((c, 0) for c in one), ("interact", 0), *((c, 1) for c in one), ("interact", 1)]


def kit_record(t, i, calls):
    for trigger in kit.EIGHT:
        t.slots[i].hooks["train"].add(
            lambda ctx, trigger=trigger: calls.append((trigger, ctx.cur_model_idx)), trigger, name="r"
        )


def test_check_39_parallel_takes_turns_at_every_trigger():
    calls = []
    t = multi("parallel", interact=lambda ctx: calls.append(("interact", ctx.cur_model_idx)))
    for i in range(2):
        kit_record(t, i, calls)
    t.train()
    batch = ["on_batch_start", "on_batch_forward", "on_batch_backward", "on_batch_end"]
    one = ["on_fit_start", "on_epoch_start", *batch, *batch, "on_epoch_end", "on_fit_end"]
    turn = [("interact", 0), ("interact", 1)]
    expected = [*turn]  # plan_routine
    for trigger in one:
        expected += [(trigger, 0), ("interact", 0), (trigger, 1), ("interact", 1)]
    assert calls == [*expected, *turn]  # on_teardown


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["keep", "per_routine"])
def test_check_39_40_models_train_as_if_alone(mode, policy):
    rates = (0.05, 0.01)
    alone = []
    for rate in rates:
        t = kit.trainer(12, 5, epochs=2, optimizer_args={"lr": rate, "momentum": 0.9}, optimizer_state=policy)
        alone.append([t.train().params for _ in range(2)][-1])
    base = kit.trainer(12, 5, epochs=2, optimizer_args={"lr": 0.05, "momentum": 0.9}, optimizer_state=policy)
    t = MultiModelTrainer(2, mode, base_trainer=base)
    t.hooks_in_train_multiple_models[1].add(lambda ctx: setattr(ctx.optimizer, "lr", 0.01), "on_fit_start", name="rate")
    for _ in range(2):
        t.train()
    for i in range(2):
        found = t.slots[i].backend.get_params()
        assert found == alone[i]
    kept = [o is not None for o in t.ctx.optimizers]
    assert kept == [policy == "keep"] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("reducer", "count"), [("mean", 12), ("sum", 24), ("last", 12), (max, 12)])
def test_check_41_results_of_each_model_and_all(mode, reducer, count):
    t = multi(mode, reducer=reducer)
    t.ctx.models[1]["b"] += 1.0
    with t.switch(1):
        result = t.train()
        assert t.ctx.cur_model_idx == 1
        assert t.ctx.model is t.ctx.models[1]
    assert t.ctx.cur_model_idx == 0
    assert result.num_samples == count
    assert [slot.num_samples for slot in result.slots] == [12, 12]
    losses = [slot.metrics["loss"] for slot in result.slots]
    assert losses[0] != losses[1]
    reduce = {"mean": np.mean, "sum": sum, "last": lambda v: v[-1]}.get(reducer, reducer)
    assert result.metrics["loss"] == pytest.approx(reduce(losses))
    assert t.evaluate().slots[1].num_samples == 12


@pytest.mark.parametrize(("mode", "count"), [("sequential", 3), ("parallel", 20)])
def test_check_42_an_overridden_switch_is_called(mode, count):
    class Mine(MultiModelTrainer):
        calls = 0

        def _switch_model_ctx(self, next_model_idx=None):
            self.calls += 1
            super()._switch_model_ctx(next_model_idx)

    t = Mine(2, mode, base_trainer=kit.trainer(12, 12))
    t.train()
    # sequential: to 0, to 1, back; parallel: twice at each of plan_routine, the eight triggers and on_teardown
    assert t.calls == count
    t._switch_model_ctx()
    assert t.ctx.cur_model_idx == 1
    t._switch_model_ctx()
    assert t.ctx.cur_model_idx == 0


@pytest.mark.parametrize("wrong", [0, 1.5, "x", True, -1])
def test_check_42_a_wrong_number_of_models(wrong):
    with pytest.raises(UsageError, match="whole number >= 1"):
        MultiModelTrainer(wrong, base_trainer=kit.trainer())


def test_check_42_a_wrong_mode():
    with pytest.raises(UsageError, match="models_interact_mode named 'paralel'"):
        MultiModelTrainer(2, "paralel", base_trainer=kit.trainer())
    with pytest.raises(UsageError, match="reducer"):
        MultiModelTrainer(2, base_trainer=kit.trainer(), reducer="median")
    with pytest.raises(UsageError, match="either a backend or a base_trainer"):
        MultiModelTrainer(2)


@pytest.mark.parametrize("mode", MODES)
def test_check_43_finetune_remove_replace_reset_per_model(mode):
    t = multi(mode)
    seen = []

    def see(ctx):
        seen.append(ctx.cur_model_idx)

    def other(ctx):
        seen.append(ctx.cur_model_idx + 10)

    t.register_hook_in_finetune(see, "on_fit_end", model_idx=1)
    t.finetune()
    t.replace_hook_in_finetune(other, "on_fit_end", "see", model_idx=1)
    t.finetune()
    assert t.reset_hook_in_finetune("on_fit_end", "other", model_idx=1) == 1
    t.finetune()
    assert seen == [1, 11]
    with pytest.raises(UsageError, match="no model 2"):
        t.register_hook_in_train(see, "on_fit_end", model_idx=2)
    with pytest.raises(UsageError, match="has one model"):
        kit.trainer().register_hook_in_train(see, "on_fit_end", model_idx=1)


def test_each_model_has_values_of_its_own_in_parallel():
    t = multi("parallel", epochs=2)
    seen, released = [], []

    def look(ctx):
        seen.append((ctx.cur_model_idx, ctx.get("b"), ctx.get("e"), ctx.get("r")))
        for name, scope in (("b", "batch"), ("e", "epoch"), ("r", "routine")):
            if ctx.get(name) is None:
                ctx.set(name, (ctx.cur_model_idx, ctx.cur_epoch_i, ctx.cur_batch_i), scope, released.append)

    for i in range(2):
        t.hooks_in_train_multiple_models[i].add(look, "on_batch_start")
    t.train()
    for i in range(2):
        mine = [s[1:] for s in seen if s[0] == i]
        start = (i, 0, 0)
        assert mine == [(None, None, None), (None, start, start), (None, None, start), (None, (i, 1, 0), start)]
        assert len([r for r in released if r[0] == i]) == 4 + 2 + 1
    assert [t.ctx.get(name) for name in "ber"] == [None] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_hook_of_one_model_leaves_no_trace(mode):
    t = multi(mode)
    before = (t.ctx.save(), len(t.ctx.frames.open), set(vars(t.ctx)))

    def fail(ctx):
        ctx.routine.mine = 1
        raise KeyError("mine")

    t.register_hook_in_train(fail, "on_batch_forward", model_idx=1)
    with pytest.raises(KeyError):
        t.train()
    assert (t.ctx.save(), len(t.ctx.frames.open), set(vars(t.ctx))) == before
    assert t.ctx.cur_model_idx == 0
    t.reset_hook_in_train("on_batch_forward", "fail", model_idx=1)
    assert t.train().steps == 4


def test_parameters_of_all_models_come_and_go():
    t = multi()
    t.train()
    params = t.get_params()
    assert list(params) == ["0/w", "0/b", "1/w", "1/b"]
    twin = multi()
    twin.update(params)
    assert twin.get_params() == params
    for wrong in ({**params, "2/w": np.zeros(3)}, {**params, "0/w": np.zeros(4)}):
        with pytest.raises((ParamsError, FedplugError)):
            twin.update(wrong)
        assert twin.get_params() == params


def test_what_models_share_is_there_for_one_routine():
    seen = []
    t = multi(
        interact=lambda ctx: (
            ctx.trainer.shared.setdefault("who", []).append(ctx.cur_model_idx),
            seen.append(dict(ctx.trainer.shared)),
        )
    )
    t.evaluate()
    assert seen[-1] == {"who": [0, 1]}
    assert t.shared == {}


@pytest.mark.parametrize("mode", MODES)
def test_who_waits_for_the_trainer_of_one_model_is_told_of_several(mode):
    told, asked = [], []
    t = multi(mode, report=lambda point: told.append(point.step), cancelled=lambda: asked.append(1), log_interval=1)
    t.train()
    assert (sorted(told), len(asked)) == ([1, 1, 2, 2], 4)
    stopped = multi(mode, cancelled=lambda: True)
    with pytest.raises(TrainingCancelledError, match="after 0 of 2 steps"):
        stopped.train()
