"""`Optimizer` alone: its steps are declearn's to the bit, its state goes on, and what is wrong is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from declearn.optimizer import Optimizer as Theirs
from declearn.optimizer import schedulers
from declearn.optimizer.modules import AdamModule, AuxVar, MomentumModule, OptiModule
from declearn.optimizer.regularizers import RidgeRegularizer
from declearn_kit import KINDS, MODULES, arrays, name_of, same_bits, their_steps

from fedplug import Params, RoundContext
from fedplug.core.component_config import config_of, make
from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.plan_optimizer import read_state, write_state
from fedplug_declearn import CosineDecay, Optimizer, StepDecay

REGULARIZERS: list[Any] = [("fedprox", {"alpha": 0.3}), ("lasso", {"alpha": 0.1}), ("ridge", {"alpha": 0.2})]
RESET = ["adagrad", "adam", "rmsprop", "yogi", "momentum", "ewma", "yogi-momentum"]


# steps -----------------------------------------------------------------------------------------------------


def gradients(kind, count, first=100):
    return [arrays(kind, first + index) for index in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", [*MODULES, ("l2-global-clipping", {"max_norm": 0.1})], ids=name_of)
def test_a_module_makes_the_steps_of_declearns_own_optimizer(module, kind):
    params = arrays(kind, 1)
    expected = their_steps(Theirs(lrate=0.1, modules=[module, "momentum"]), params, gradients(kind, 5))
    mine = Optimizer(0.1, modules=[module, "momentum"])
    for each in gradients(kind, 5):
        mine.step(params, each)
    assert same_bits(params, expected)
    assert not same_bits(params, arrays(kind, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=name_of)
def test_a_regularizer_makes_the_steps_of_declearns_own_optimizer(regularizer, kind):
    params = arrays(kind, 1)
    expected = their_steps(
        Theirs(lrate=0.1, modules=["adam"], regularizers=[regularizer, "lasso"]), params, gradients(kind, 5)
    )
    mine = Optimizer(0.1, modules=["adam"], regularizers=[regularizer, "lasso"])
    for each in gradients(kind, 5):
        mine.step(params, each)
    assert same_bits(params, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_that_are_given_stay_as_they_are(kind):
    given = arrays(kind, 7)
    Optimizer(0.1, 0.1, ["l2-clipping", "momentum"], ["ridge"]).step(arrays(kind, 1), given)
    Optimizer(0.1, 0.1).step(arrays(kind, 1), given)
    assert same_bits(given, arrays(kind, 7))


def test_decay_with_adam_is_adamw():
    ours, theirs = arrays("torch.float64", 1), arrays("torch.float64", 1)
    mine = Optimizer(0.1, decay=0.05, modules=[("adam", {"beta_2": 0.999, "eps": 1e-8})])
    adamw = torch.optim.AdamW(theirs.values(), lr=0.1, weight_decay=0.05, eps=1e-8)
    for each in gradients("torch.float64", 20):
        mine.step(ours, each)
        for name, param in theirs.items():
            param.grad = each[name]
        adamw.step()
    # each of 20 steps rounds some ten times, and no value is beyond 4
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 20 * 10 * 4 * np.finfo(np.float64).eps
    plain = arrays("torch.float64", 1)
    without = Optimizer(0.1, modules=[("adam", {"beta_2": 0.999, "eps": 1e-8})])
    for each in gradients("torch.float64", 20):
        without.step(plain, each)
    assert (plain["scale"] - theirs["scale"]).abs() > 1e-3


def test_decay_follows_the_schedule_of_the_rate():
    params = {"w": np.array([8.0])}
    optimizer = Optimizer(StepDecay(0.5, 0.5, 1), decay=1.0)
    for _ in range(2):
        optimizer.step(params, {"w": np.zeros(1)})
    assert params["w"] == 8 * (1 - 0.5) * (1 - 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_a_gradient_has_one_of_zeros(kind):
    params, complete = arrays(kind, 1), arrays(kind, 1)
    one, other = Optimizer(0.1, modules=["momentum"]), Optimizer(0.1, modules=["momentum"])
    for index, each in enumerate(gradients(kind, 3)):
        zeros = each["scale"] * 0 if kind.startswith("torch") else np.zeros_like(each["scale"])
        other.step(complete, {**each, "scale": zeros} if index == 1 else each)
        one.step(params, {n: g for n, g in each.items() if n != "scale"} if index == 1 else each)
    assert same_bits(params, complete)
    assert params["scale"] != arrays(kind, 1)["scale"]


def test_a_missing_gradient_is_zero_whatever_the_parameter_is():
    params = {"w": np.array([np.inf, 1.0])}
    Optimizer(0.1).step(params, {})
    assert params["w"].tolist() == [np.inf, 1.0]


def test_fedprox_pulls_towards_where_the_round_began():
    """Its reference is a copy: a view of the live parameters would always be where they are."""
    for params in ({"w": np.array([1.0])}, {"w": torch.tensor([1.0], dtype=torch.float64)}):
        optimizer = Optimizer(0.5, regularizers=[("fedprox", {"alpha": 0.25})])
        optimizer.step(params, {"w": params["w"] * 0 + 4})
        assert float(params["w"][0]) == -1.0
        optimizer.step(params, {"w": params["w"] * 0})
        assert float(params["w"][0]) == -1.0 - 0.5 * 0.25 * (-1.0 - 1.0)


def test_a_gradient_of_zero_is_not_clipped_and_warns_of_nothing():
    params = {"w": np.ones(2), "v": np.ones(2)}
    for name in ("l2-clipping", "l2-global-clipping"):
        Optimizer(0.1, modules=[name]).step(params, {"w": np.zeros(2), "v": np.zeros(2)})
    assert params["w"].tolist() == params["v"].tolist() == [1.0, 1.0]


def test_whole_numbers_do_not_move():
    params = {"w": np.ones(2), "seen": np.array([3])}
    Optimizer(0.1, 0.5, ["adam"], ["ridge"]).step(params, {"w": np.ones(2), "seen": np.ones(1)})
    assert params["seen"].tolist() == [3]
    assert (params["w"] < 1).all()


# rates -----------------------------------------------------------------------------------------------------


def test_a_schedule_by_step_is_in_force_from_step_to_step():
    schedule = CosineDecay(1.0, length=4, final=0.25)
    params, moves = {"w": np.zeros(())}, []
    optimizer = Optimizer(schedule)
    for _ in range(6):
        before = float(params["w"])
        optimizer.step(params, {"w": np.ones(())})
        moves.append(before - float(params["w"]))
    np.testing.assert_allclose(moves, [schedule.at(step) for step in range(6)], rtol=0, atol=1e-15)


def test_a_schedule_by_round_is_in_force_from_round_to_round():
    optimizer = Optimizer(StepDecay(1.0, 0.5, every=2, unit="round"))
    start, aggregated = Params.from_arrays({"w": np.float64(1.0)}), Params.from_arrays({"w": np.float64(0.0)})
    moves = []
    for number in (0, 1, 2, 3, 4, 9):  # the rate depends on the round, and not on how many there have been
        ctx = RoundContext(round=number)
        optimizer.begin_round(ctx)
        moves.append(1 - float(optimizer.advance(start, aggregated, ctx)["w"]))
    assert moves == [1.0, 1.0, 0.5, 0.5, 0.25, 0.0625]


def test_a_rate_of_numpys_keeps_the_bits_of_a_rate_of_pythons():
    one, two = arrays("float32", 1), arrays("float32", 1)
    beta = float(np.float32(0.7))
    mine = Optimizer(CosineDecay(np.float64(0.1), length=9), modules=[("momentum", {"beta": np.float32(0.7)})])
    theirs = Optimizer(CosineDecay(0.1, length=9), modules=[("momentum", {"beta": beta})])
    for each in gradients("float32", 4):
        mine.step(one, each)
        theirs.step(two, each)
    assert same_bits(one, two)


# what is remembered ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "torch.float64", "torch.bfloat16", "torch.float16"])
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_an_optimizer_goes_on_from_its_state_with_the_bits_of_an_unbroken_one(module, kind):
    def made():
        return Optimizer(CosineDecay(0.1, length=20), modules=["l2-clipping", module, "momentum"])

    params, whole = arrays(kind, 1), made()
    for each in gradients(kind, 3):
        whole.step(params, each)
    broken = {name: each.clone() if hasattr(each, "clone") else each.copy() for name, each in params.items()}
    book = StateBook()
    book.keep("optimizer", *read_state(whole))
    found = StateBook(book.result())
    again, between = made(), made()
    write_state(between, found.arrays("optimizer"), found.values("optimizer"))
    write_state(again, *read_state(between))  # what was never used is handed on
    for each in gradients(kind, 3, 200):
        whole.step(params, each)
        again.step(broken, each)
    assert same_bits(broken, params)
    assert read_state(again) == read_state(whole)


def test_a_state_is_a_copy():
    optimizer, params = Optimizer(0.1, modules=["momentum"]), {"w": np.ones(2)}
    optimizer.step(params, {"w": np.ones(2)})
    state = optimizer.state_dict()
    optimizer.step(params, {"w": np.ones(2)})
    again = Optimizer(0.1, modules=["momentum"])
    again.load_state_dict(state)
    fresh = {"w": np.zeros(2)}
    again.step(fresh, {"w": np.zeros(2)})
    assert fresh["w"].tolist() == pytest.approx([-0.09, -0.09], abs=1e-16)
    assert state["modules"][0]["velocity"]["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("others", [["yogi"], ["momentum"], [], ["adam", "momentum"], ["scaffold-client", "adam"]])
def test_a_state_of_other_modules_is_refused_when_it_is_given(others):
    """Adam and Yogi remember the same things under the same names."""
    one, params = Optimizer(0.1, modules=["adam"]), {"w": np.ones(2)}
    one.step(params, {"w": np.ones(2)})
    other = Optimizer(0.1, modules=others)
    with pytest.raises(UsageError, match="that of an optimizer with other modules than") as caught:
        other.load_state_dict(one.state_dict())
    assert "set_agg_optimizer" in caught.value.cure
    other.step(params, {"w": np.ones(2)})


@pytest.mark.parametrize("params", [{"v": np.ones(2)}, {"w": np.ones(3)}, {"w": np.ones(2), "v": np.ones(2)}])
def test_a_state_of_other_parameters_is_refused_at_the_first_step(params):
    """One value would otherwise be spread over all."""
    one = Optimizer(0.1, modules=["momentum"])
    one.step({"w": np.ones(2)}, {"w": np.ones(2)})
    other = Optimizer(0.1, modules=["momentum"])
    other.load_state_dict(one.state_dict())
    with pytest.raises(UsageError, match="that of one for other parameters"):
        other.step(params, {name: each * 1 for name, each in params.items()})


class Odd(OptiModule, register=False):
    """Remembers something that is no plain data."""

    name = "odd"

    def run(self, gradients):
        return gradients

    def get_state(self):
        return {"thing": object()}


def test_a_state_that_cannot_be_kept_is_told():
    with pytest.raises(UsageError, match="holds a object, which cannot be kept") as caught:
        Optimizer(0.1, modules=[Odd]).state_dict()
    assert "keep_optimizer_state" in caught.value.cure


# round_reset -----------------------------------------------------------------------------------------------


def one_round(optimizer, number):
    start = Params.from_arrays({"w": np.array([1.0, 2.0])})
    aggregated = Params.from_arrays({"w": np.array([0.5, 2.5 - number])})
    optimizer.begin_round(RoundContext(round=number))
    return optimizer.advance(start, aggregated, RoundContext(round=number))


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("name", RESET)
def test_a_module_that_is_reset_with_each_round_is_so_too_when_it_was_written_down(name, reset):
    def made():
        first = Optimizer(1.0, modules=[(name, {"round_reset": reset})])
        return make(Optimizer, json.loads(json.dumps(config_of(first))))

    went_on, fresh = made(), made()
    before = went_on.state_dict()
    one_round(went_on, 0)
    assert (one_round(went_on, 1) == one_round(fresh, 1)) == reset
    again = made()  # from a breakpoint, or after a round that failed
    again.load_state_dict(went_on.state_dict())
    assert (one_round(again, 2) == one_round(made(), 2)) == reset
    went_on.load_state_dict(before)
    assert one_round(went_on, 1) == one_round(made(), 1), "what a failed round has taught is gone"


# arguments -------------------------------------------------------------------------------------------------


def test_names_pairs_classes_and_objects_mean_the_same():
    forms: list[tuple[Any, Any]] = [
        ("adam", "ridge"),
        (("adam", {}), ("ridge", {"alpha": 0.01})),
        (["adam", {"beta_1": 0.9}], ["ridge", {}]),
        (AdamModule, RidgeRegularizer),
        ((AdamModule, {"beta_1": 0.9}), (RidgeRegularizer, {"alpha": 0.01})),
        (AdamModule(), RidgeRegularizer()),
    ]
    found = []
    for module, regularizer in forms:
        params, optimizer = arrays("float64", 1), Optimizer(0.1, 0.1, [module], (regularizer,))
        for each in gradients("float64", 2):
            optimizer.step(params, each)
        found.append((params, config_of(optimizer), repr(optimizer)))
    for each in found[1:]:
        assert same_bits(each[0], found[0][0])
        assert each[1:] == found[0][1:]
    assert repr(Optimizer(0.1)) == "Optimizer(lr=0.1)"
    assert repr(Optimizer(0.1, modules=["l2-clipping"])) == (
        "Optimizer(lr=0.1, modules=[['l2-clipping', {'max_norm': 1.0}]])"
    )


@pytest.mark.parametrize("module", [*MODULES, "scaffold-client", "scaffold-server"], ids=name_of)
@pytest.mark.parametrize("regularizer", [*REGULARIZERS, None], ids=str)
def test_an_optimizer_is_made_again_from_what_was_written_down(module, regularizer):
    one = Optimizer(CosineDecay(0.1, length=7, unit="round"), 0.5, [module, "ewma"], regularizer and [regularizer])
    config = json.loads(json.dumps(config_of(one)))
    other = make(Optimizer, config)
    assert config_of(other) == config
    mine, theirs = (vars(each._modules[0]) for each in (one, other))
    simple = {name for name, value in mine.items() if isinstance(value, bool | int | float)}
    assert {name: mine[name] for name in simple} == {name: theirs[name] for name in simple}


def test_a_module_that_declearn_does_not_know_by_name_cannot_be_written_down():
    class Halving(OptiModule, register=False):
        name = "halving"

        def run(self, gradients):
            return gradients * 0.5

    optimizer, params = Optimizer(1.0, modules=[Halving()]), {"w": np.zeros(1)}
    optimizer.step(params, {"w": np.ones(1)})
    assert params["w"] == -0.5
    with pytest.raises(UsageError, match="Argument 'modules' of Optimizer is no plain data"):
        config_of(optimizer)


def test_nor_can_one_that_goes_by_the_name_of_another():
    class Louder(AdamModule, register=False):
        def run(self, gradients):
            return super().run(gradients) * 2.0

    with pytest.raises(UsageError, match="Argument 'modules' of Optimizer is no plain data"):
        config_of(Optimizer(1.0, modules=[Louder]))


class Talking(OptiModule, register=False):
    name = "talking"

    def run(self, gradients):
        return gradients

    def collect_aux_var(self):
        raise AssertionError("nobody asks")


class Listening(Talking, register=False):
    name = "listening"
    collect_aux_var = OptiModule.collect_aux_var

    def process_aux_var(self, aux_var: AuxVar) -> None:
        raise AssertionError("nobody tells")


class Impostor(OptiModule, register=False):
    name = "impostor"
    aux_name = "scaffold"

    def run(self, gradients):
        return gradients


NAMED = "give its name, a pair (name, arguments), or an object. known are: "


@pytest.mark.parametrize(
    ("arguments", "message", "cure"),
    [
        ({"lr": schedulers.ExponentialDecay(0.1, 0.5)}, "is a scheduler of declearn's", "import cosinedecay"),
        ({"lr": ("exponential-decay", {"base": 0.1, "rate": 0.5})}, "is a scheduler of declearn's", "cosinedecay"),
        ({"lr": -0.1}, "lr must be a number from zero up, got -0.1.", ""),
        ({"lr": float("nan")}, "lr must be a number from zero up, got nan.", ""),
        ({"lr": float("inf")}, "lr must be a number from zero up, got inf.", ""),
        ({"lr": True}, "lr must be a number from zero up, got True.", ""),
        ({"lr": "0.1"}, "lr must be a number from zero up, got '0.1'.", ""),
        ({"lr": None}, "lr must be a number from zero up, got None.", ""),
        ({"lr": {"rate": 1}}, "lr must be a number from zero up, got {'rate': 1}.", ""),
        ({"lr": {"schedule": "cosine"}}, "There is no schedule named 'cosine'.", "did you mean 'cosine-decay'?"),
        ({"lr": {"schedule": "cosine-decay"}}, "The schedule 'cosine-decay' cannot be made", ""),
        ({"lr": 1.0, "decay": -1}, "decay must be a number from zero up, got -1.", ""),
        ({"lr": 1.0, "decay": CosineDecay(0.1, 5)}, "decay must be a number; it is multiplied by lr", ""),
        ({"lr": 1.0, "modules": "adam"}, "modules must be a list, got 'adam'.", "e.g. modules=['adam']."),
        ({"lr": 1.0, "modules": {"adam": {}}}, "modules must be a list", "e.g. modules=['adam']."),
        ({"lr": 1.0, "modules": ("momentum", {"beta": 0.9})}, "{'beta': 0.9} is no module of declearn's.", NAMED),
        ({"lr": 1.0, "modules": [None]}, "None is no module of declearn's.", NAMED),
        ({"lr": 1.0, "modules": [RidgeRegularizer()]}, "is no module of declearn's.", NAMED),
        ({"lr": 1.0, "regularizers": [MomentumModule]}, "is no regularizer of declearn's.", f"{NAMED}fedprox, lasso"),
        ({"lr": 1.0, "modules": ["adem"]}, "There is no module of declearn's named 'adem'.", "did you mean 'adam'?"),
        ({"lr": 1.0, "modules": ["fedprox"]}, "There is no module of declearn's named 'fedprox'.", "known: adagrad,"),
        ({"lr": 1.0, "regularizers": ["rige"]}, "There is no regularizer of declearn's named 'rige'.", "'ridge'?"),
        ({"lr": 1.0, "modules": [("adam", {"beta": 1})]}, "The module 'adam' cannot be made: ", ""),
        ({"lr": 1.0, "modules": [("momentum", {"beta": 1})]}, "The module 'momentum' cannot be made: 'beta'", ""),
        ({"lr": 1.0, "modules": [("momentum", {"beta": 1.5})]}, "The module 'momentum' cannot be made: 'beta'", ""),
        ({"lr": 1.0, "modules": ["gaussian-noise"]}, "'gaussian-noise' is not to be used: its noise", ""),
        ({"lr": 1.0, "modules": ["torch-optim"]}, "'torch-optim' is not to be used: it wraps", ""),
        ({"lr": 1.0, "modules": [("torch-optim", {"optim_cls": "SGD"})]}, "'torch-optim' is not to be used", ""),
        ({"lr": 1.0, "modules": ["scaffold-client", "scaffold-client"]},
         "Two modules exchange auxiliary variables under the name 'scaffold'.", "leave one of them out."),
        ({"lr": 1.0, "modules": ["scaffold-client", "scaffold-server"]}, "under the name 'scaffold'", ""),
        ({"lr": 1.0, "modules": ["adam", "scaffold-client"]},
         "'scaffold-client' corrects gradients as they are, but comes after 'adam'", "put it first."),
        ({"lr": 1.0, "modules": [("yogi", {"amsgrad": True, "round_reset": True})]},
         "'yogi' cannot have both amsgrad and round_reset", "leave one of them out."),
        ({"lr": 1.0, "modules": [Talking]}, "'talking' exchanges auxiliary variables ('talking')", "known are: scaff"),
        ({"lr": 1.0, "modules": [Listening]}, "'listening' exchanges auxiliary variables ('listening')", "known are"),
        ({"lr": 1.0, "modules": [Impostor()]}, "'impostor' exchanges auxiliary variables ('scaffold')", "known are"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_cure(arguments, message, cure):
    with pytest.raises(UsageError) as caught:
        Optimizer(**arguments)
    assert message in caught.value.message
    assert cure in caught.value.cure.lower()
    assert isinstance(caught.value, UnknownNameError) == message.startswith("There is no")


def test_a_wrapped_optimizer_of_torch_is_refused_as_an_object_too():
    from declearn.model.torch import TorchOptiModule

    wrapped = TorchOptiModule(torch.optim.SGD, lr=0.1)
    with pytest.raises(UsageError, match="'torch-optim' is not to be used"):
        Optimizer(1.0, modules=[wrapped])
