"""Optimizers that know no framework: what is kept of them, and when the loop calls them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedplug import Params
from fedplug.core.data import ArrayData
from fedplug.core.errors import ParamsError, PlanError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.numpy_backend import NumpyBackend
from fedplug.core.plan_optimizer import SGD, PlanOptimizer, read_state, write_state
from fedplug.core.trainer import MultiModelTrainer, Trainer


class Remembering(PlanOptimizer):
    """Remembers what it is told to, and writes down when it is called."""

    def __init__(self, state: Any = None, calls: list[Any] | None = None) -> None:
        self.state = state if state is not None else {}
        self.calls = calls if calls is not None else []
        self.begins_with: Exception | None = None

    def begin(self, ctx):
        self.calls.append(("begin", ctx.cur_phase.value, ctx.cur_model_idx, ctx.num_steps))
        if self.begins_with is not None:
            raise self.begins_with

    def step(self, params, gradients):
        self.calls.append("step")
        for name, param in params.items():
            param -= 0.1 * gradients[name]

    def end(self, ctx):
        self.calls.append(("end", ctx.cur_phase.value, ctx.cur_model_idx, ctx.num_steps))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = dict(state)


# what is kept ----------------------------------------------------------------------------------------------


def kept(optimizer: Any) -> tuple[Any, Any]:
    """What a node finds in the next round."""
    book = StateBook()
    book.keep("optimizer", *read_state(optimizer))
    found = StateBook(book.result())
    return found.arrays("optimizer"), found.values("optimizer")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"steps": 3, "rate": 0.1, "name": "x", "on": True, "nothing": None},
        {"big": 2**62, "inf": math.inf, "bytes": b"\0\1"},
        {"parts": [{"m": Params.from_arrays({"w": np.arange(3.0)})}, [], {"deep": {"$odd": 1}}]},
        {"m": Params.from_arrays({"a/b": np.float32(1), "c": np.zeros((2, 0), np.int8)}), "v": Params.from_arrays({})},
    ],
    ids=["nothing", "numbers", "odd numbers", "nested", "arrays"],
)
def test_a_state_is_kept_as_it_is(state):
    other = Remembering()
    write_state(other, *kept(Remembering(state)))
    assert other.state == state


def test_nan_is_kept():
    other = Remembering()
    write_state(other, *kept(Remembering({"loss": math.nan})))
    assert math.isnan(other.state["loss"])


def test_arrays_that_are_the_same_are_kept_once():
    same = Params.from_arrays({"w": np.arange(1000.0)})
    arrays, _ = read_state(Remembering({"first": same, "second": same}))
    assert arrays.nbytes == same.nbytes


@pytest.mark.parametrize("thing", [object(), {1: 2}, np.zeros(3), {"a": {"b": print}}])
def test_a_state_that_cannot_be_kept_is_named(thing):
    with pytest.raises(UsageError, match="the state of Remembering"):
        read_state(Remembering({"thing": thing}))


def test_the_state_of_an_optimizer_of_another_class_is_refused():
    with pytest.raises(ParamsError, match=r"it belongs to another optimizer \(Remembering\)"):
        write_state(SGD(0.1), *kept(Remembering()))
    with pytest.raises(ParamsError, match=r"it belongs to another optimizer \(None\)"):
        write_state(SGD(0.1), Params.from_arrays({}), {})


@pytest.mark.parametrize("state", [{"$params": 7}, {"$odd": 1, "x": 2}, {"$bytes": "!"}])
def test_a_state_that_is_damaged_is_refused(state):
    with pytest.raises(ParamsError):
        write_state(Remembering(), Params.from_arrays({}), {"class": "Remembering", "state": state, "parts": 0})


def test_a_state_that_was_kept_by_somebody_else_is_refused():
    """PyTorch's plans keep the state of an optimizer of torch's under the name of its class, too."""
    with pytest.raises(ParamsError):
        write_state(SGD(0.1), Params.from_arrays({}), {"class": "SGD", "shapes": [[[2]]], "state": {"dict": []}})


class Picky(Remembering):
    def load_state_dict(self, state):
        raise UsageError("That is none of mine.")


def test_a_state_that_the_optimizer_itself_refuses_is_no_reason_to_fail():
    """`local_state.restore` tells of it, and goes on from fresh local state, if it is a `ParamsError`."""
    with pytest.raises(ParamsError, match=r"That is none of mine\."):
        write_state(Picky(), *kept(Picky({"a": 1})))


# when it is called -----------------------------------------------------------------------------------------

X = np.arange(6.0)


def trainer(optimizer: Any, *, make: Any = None, **args: Any) -> Trainer:
    model = {"w": np.zeros(())}

    def step(data, target):
        error = model["w"] - data.mean()
        return error**2, {"w": 2 * error}

    backend = NumpyBackend(model, step, optimizer=optimizer, make_optimizer=make)
    given = {"loader_args": {"batch_size": 3}, "log_interval": 0, "epochs": 1, **args}
    return Trainer(backend, {"train": ArrayData(X, X), "test": ArrayData(X, X)}, args=given, seed=1)


BEGUN, ENDED = ("begin", "train", 0, 0), ("end", "train", 0, 2)


def test_a_training_begins_steps_and_ends():
    optimizer = Remembering()
    one = trainer(optimizer)
    one.hooks_in_train.add(lambda ctx: optimizer.calls.append("user"), "on_fit_start", name="user")
    one.hooks_in_train.add(lambda ctx: optimizer.calls.append("batch"), "on_batch_start", name="batch")
    one.train()
    assert optimizer.calls == [BEGUN, "user", "batch", "step", "batch", "step", ENDED]
    optimizer.calls.clear()
    one.train()
    assert [each for each in optimizer.calls if isinstance(each, tuple)] == [BEGUN, ENDED]


def test_a_test_does_not_call_it():
    optimizer = Remembering()
    trainer(optimizer).evaluate()
    assert optimizer.calls == []


def test_a_fine_tuning_only_asks_a_new_one_for_steps():
    calls: list[Any] = []
    one = trainer(Remembering(calls=calls), make=lambda args: Remembering(calls=calls))
    one.finetune()
    assert calls == ["step", "step"]


def test_a_training_within_a_training_only_asks_a_new_one_for_steps():
    calls: list[Any] = []
    one = trainer(Remembering(calls=calls), make=lambda args: Remembering(calls=calls))
    nested: list[Any] = []

    def inside(ctx):
        if ctx.depth == 1:
            before = len(calls)
            ctx.trainer.train()
            nested.extend(calls[before:])
            del calls[before:]

    one.hooks_in_train.add(inside, "on_epoch_end", name="inside")
    one.train()
    assert calls == [BEGUN, "step", "step", ENDED]
    assert nested == ["step", "step"]


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_of_several_models_the_shared_one_alone_begins_and_ends(mode):
    many = MultiModelTrainer(2, mode, base_trainer=trainer(Remembering()))
    calls = [backend.optimizer.calls for backend in many.backends()]
    many.train()
    assert calls[0] == [BEGUN, "step", "step", ENDED]
    assert calls[1] == ["step", "step"]


def test_where_it_cannot_begin_nothing_is_trained():
    optimizer = Remembering()
    optimizer.begins_with = PlanError("Something is missing.")
    one = trainer(optimizer)
    with pytest.raises(PlanError, match="Something is missing"):
        one.train()
    assert optimizer.calls == [BEGUN]
    assert one.get_params()["w"] == 0


def test_a_training_that_fails_does_not_end():
    optimizer = Remembering()
    one = trainer(optimizer)
    one.hooks_in_train.add(lambda ctx: 1 / 0, "on_epoch_end", name="fail")
    with pytest.raises(ZeroDivisionError):
        one.train()
    assert optimizer.calls == [BEGUN, "step", "step"]


def test_what_it_puts_into_the_outbox_comes_with_the_result():
    class Answering(Remembering):
        def end(self, ctx):
            assert ctx.inbox["question"]["x"] == 1
            ctx.outbox["answer"] = Params.from_arrays({"steps": ctx.num_steps})

    one = trainer(Answering())
    one.ctx.inbox["question"] = Params.from_arrays({"x": 1.0})
    assert one.train().aux["answer"]["steps"] == 2


def test_the_hooks_are_there_for_such_optimizers_only():
    class Other:
        def step(self, params, gradients):
            params["w"] -= gradients["w"]

    names = [{row.name for row in trainer(each).describe()} for each in (Remembering(), SGD(0.1), Other())]
    assert [{"begin", "end"} <= each for each in names] == [True, True, False]
    trainer(Other()).train()


def test_a_trainer_that_was_saved_gives_the_optimizer_its_state_back(tmp_path):
    state = {"m": Params.from_arrays({"w": np.float64(0.5)}), "steps": 3}
    trainer(Remembering(state)).save_model(tmp_path / "saved")
    optimizer = Remembering()
    trainer(optimizer).load_model(tmp_path / "saved")
    assert optimizer.state == state


def test_plain_gradient_descent_moves_in_place_and_in_the_arrays_own_dtype():
    params = {"w": np.array([1.0, 2.0], np.float32), "n": np.array(4)}
    SGD(0.5).step(params, {"w": np.array([1.0, 0.0]), "n": np.array(3)})
    assert params["w"].tolist() == [0.5, 2.0]
    assert params["w"].dtype == np.float32
    assert params["n"] == 3
