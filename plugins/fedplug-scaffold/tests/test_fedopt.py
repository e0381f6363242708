"""Optimizers of the researcher against their papers, written out number by number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaffold_kit import THREE, Net, bowls, experiment

from fedplug import Experiment, Params, RoundContext
from fedplug.core.component_config import config_of, make
from fedplug.core.errors import ParamsError, RoundError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug_scaffold import FedAdagrad, FedAdam, FedAverage, FedAvgM, FedYogi

NAMES = {"fedavgm": FedAvgM, "fedadagrad": FedAdagrad, "fedadam": FedAdam, "fedyogi": FedYogi}
ALL = pytest.mark.parametrize("kind", NAMES.values(), ids=NAMES)
FLOATS = st.floats(-10, 10)


def one(value: Any) -> Params:
    return Params.from_arrays({"w": value})


def walk(optimizer: Any, start: Any, goals: Sequence[Any]) -> list[Any]:
    """Where a model goes whose nodes come to ``goals`` round after round."""
    found = []
    x = one(start)
    for number, goal in enumerate(goals):
        x = optimizer.advance(x, one(goal), RoundContext(round=number))
        found.append(x["w"])
    return found


# the papers ------------------------------------------------------------------------------------------------


def reddi(kind: type, x: float, goals: Sequence[float], lr: float, b1: float, b2: float, tau: float) -> list[float]:
    """Reddi et al., algorithm 2, for one number; its Delta is the way to the mean of the nodes."""
    m, v, found = 0.0, tau**2, []
    for goal in goals:
        delta = goal - x
        m = b1 * m + (1 - b1) * delta
        if kind is FedAdagrad:
            v = v + delta**2
        elif kind is FedYogi:
            v = v - (1 - b2) * delta**2 * (0 if v == delta**2 else math.copysign(1, v - delta**2))
        else:
            v = b2 * v + (1 - b2) * delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
        found.append(x)
    return found


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
@given(
    start=FLOATS, goals=st.lists(FLOATS, min_size=1, max_size=8), lr=st.floats(1e-3, 1), b1=st.floats(0, 0.99),
    b2=st.floats(0, 0.999), tau=st.floats(1e-3, 1),
)  # fmt: skip
def test_adaptive_steps_are_those_of_algorithm_2(kind, start, goals, lr, b1, b2, tau):
    args = (lr, b1, tau) if kind is FedAdagrad else (lr, b1, b2, tau)
    # a vector and a number in it, of which each moves by itself
    found = walk(kind(*args), np.array([start, 1.0]), [np.array([goal, 1.0]) for goal in goals])
    np.testing.assert_allclose([x[0] for x in found], reddi(kind, start, goals, lr, b1, b2, tau), rtol=0, atol=1e-12)
    assert [x[1] for x in found] == [1.0] * len(goals)


@given(
    start=FLOATS, goals=st.lists(FLOATS, min_size=1, max_size=8), lr=st.floats(0.125, 1.5), beta=st.floats(0, 0.95),
)  # fmt: skip
def test_server_momentum_is_exact_up_to_rounding(start, goals, lr, beta):
    x, v, largest, expected = Fraction(start), Fraction(0), Fraction(1), []
    for goal in goals:
        v = Fraction(beta) * v + Fraction(goal) - x
        x += Fraction(lr) * v
        largest = max(largest, abs(x), abs(v))
        expected.append(x)
    # four roundings a round, each magnified by no more than lr / (1 - beta) <= 30 in those that follow
    bound = 4 * len(goals) * 30 * largest * Fraction(2) ** -52
    for found, exact in zip(walk(FedAvgM(lr, beta), start, goals), expected, strict=True):
        assert abs(Fraction(float(found)) - exact) <= bound


def test_what_it_does_by_default():
    goals = [1.0, 3.0, -2.0]
    assert walk(FedAvgM(), 0.0, goals) == walk(FedAvgM(1.0, 0.9), 0.0, goals)
    assert walk(FedAdagrad(), 0.0, goals) == walk(FedAdagrad(0.01, 0.0, 1e-3), 0.0, goals)
    for kind in (FedAdam, FedYogi):
        assert walk(kind(), 0.0, goals) == walk(kind(0.01, 0.9, 0.99, 1e-3), 0.0, goals)


def test_server_momentum_without_momentum_is_averaging():
    goals = [1.0, 3.0, -2.0]
    assert walk(FedAvgM(1.0, 0.0), 0.0, goals) == goals
    assert walk(FedAvgM(0.5, 0.0), 0.0, goals) == [0.5, 1.75, -0.125]


@ALL
def test_in_an_experiment_it_moves_the_mean(kind):
    with (
        experiment(Net(bowls(THREE)), aggregator=FedAverage(), agg_optimizer=kind()) as exp,
        experiment(Net(bowls(THREE)), aggregator=FedAverage()) as plain,
    ):
        start = exp.params()
        exp.run(1)
        plain.run(1)
        assert exp.params() == kind().advance(start, plain.params(), RoundContext())


# what has no gradient, and precisions ----------------------------------------------------------------------


@ALL
def test_whole_numbers_and_buffers_are_those_of_the_mean(kind):
    def params(w, running, seen):
        return Params.from_arrays({"w": np.float64(w), "running": np.float32(running), "seen": np.int64(seen)})

    optimizer, goal = kind(), params(1, 5, 9)
    ctx = RoundContext(buffers=frozenset({"running", "elsewhere"}))
    for _ in range(2):
        found = optimizer.advance(params(0, 0, 0), goal, ctx)
        assert (found["running"], found["seen"]) == (5, 9)
    assert all(list(each) == ["w"] for each in optimizer.state_dict().values())


@ALL
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_it_computes_in_the_models_precision_and_in_single_for_half(kind, dtype):
    import ml_dtypes

    model = np.dtype(getattr(ml_dtypes, dtype, dtype))
    wide = np.dtype("float64" if dtype == "float64" else "float32")
    start, goal = np.array([1.0, 2.0, -3.0], model), np.array([1.25, 2.5, -3.5], model)
    optimizer = kind()
    found = walk(optimizer, start, [goal, goal])
    assert found[0].dtype == model
    assert {each["w"].dtype for each in optimizer.state_dict().values()} == {wide}
    first = walk(kind(), start.astype(wide), [goal.astype(wide)])[0]
    assert found[0].tolist() == first.astype(model).tolist()
    second = kind()
    second.load_state_dict(deepcopy(_after(kind, start.astype(wide), goal.astype(wide))))
    again = walk(second, found[0].astype(wide), [goal.astype(wide)])[0]
    assert found[1].tolist() == again.astype(model).tolist()


def _after(kind: type, start: Any, goal: Any) -> dict[str, Any]:
    optimizer = kind()
    walk(optimizer, start, [goal])
    return optimizer.state_dict()


# what is remembered ----------------------------------------------------------------------------------------


@ALL
def test_it_goes_on_from_its_state_with_the_same_bits(kind):
    goals = [np.array(pair, np.float32) for pair in ([1, 2], [0.3, -1], [5, 0], [0.1, 0.2])]
    start = np.zeros(2, np.float32)
    whole = walk(kind(), start, goals)
    first = kind()
    half = walk(first, start, goals[:2])
    state = first.state_dict()
    walk(first, half[-1], goals[2:])  # does not change what was given away
    second = kind()
    second.load_state_dict(state)
    rest = walk(second, half[-1], goals[2:])
    assert [x.tolist() for x in [*half, *rest]] == [x.tolist() for x in whole]
    second.load_state_dict({})
    assert [x.tolist() for x in walk(second, start, goals)] == [x.tolist() for x in whole]
    assert kind().state_dict() == {}


@ALL
@pytest.mark.parametrize("other", [{"v": np.zeros(3)}, {"w": np.zeros(2)}], ids=["another name", "another shape"])
def test_what_it_has_learnt_about_another_model_is_refused(kind, other):
    optimizer = kind()
    walk(optimizer, np.zeros(3), [np.ones(3)])
    model = Params.from_arrays(other)
    before = optimizer.state_dict()
    with pytest.raises(ParamsError, match="learnt about 'w', which the model does not have in that shape") as told:
        optimizer.advance(model, model, RoundContext())
    assert "set_agg_optimizer" in told.value.cure
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_a_breakpoint_by_its_name(name, fedplug_dir: Path):
    with experiment(Net(bowls(THREE)), aggregator="fedaverage", agg_optimizer=name) as whole:
        whole.run(4)
    with experiment(Net(bowls(THREE)), aggregator="fedaverage", agg_optimizer=name, save_breakpoints=True) as exp:
        exp.run(2)
    with Experiment.load_breakpoint(transport=Net(bowls(THREE)), progress="quiet") as again:
        assert type(again.agg_optimizer()) is NAMES[name]
        again.run(2)
        assert again.params() == whole.params()


@ALL
def test_a_round_that_failed_has_taught_it_nothing(kind):
    net = Net(bowls(THREE), lose={("q", 1)})
    with (
        experiment(net, aggregator=FedAverage(), agg_optimizer=kind()) as exp,
        experiment(Net(bowls(THREE)), aggregator=FedAverage(), agg_optimizer=kind()) as whole,
    ):
        exp.run(1)
        with pytest.raises(RoundError, match="lost on the way"):
            exp.run(1)
        net.lose.clear()
        exp.run(2)
        whole.run(3)
        assert exp.params() == whole.params()


# arguments and names ---------------------------------------------------------------------------------------

WRONG = [
    *((kind, {"lr": lr}, "lr must be a number > 0") for kind in NAMES.values() for lr in (0, -1, math.nan, math.inf)),
    *((kind, {"lr": lr}, "lr must be a number > 0") for kind in NAMES.values() for lr in (True, "1", None)),
    *((FedAvgM, {"beta": beta}, r"beta must be a number >= 0 and < 1") for beta in (1, -0.1)),
    *((kind, {"beta_1": 1}, "beta_1 must be a number >= 0 and < 1") for kind in (FedAdagrad, FedAdam, FedYogi)),
    *((kind, {"beta_2": -1e-9}, "beta_2 must be a number >= 0 and < 1") for kind in (FedAdam, FedYogi)),
    *((kind, {"tau": 0}, "tau must be a number > 0") for kind in (FedAdagrad, FedAdam, FedYogi)),
]


@pytest.mark.parametrize(("kind", "args", "message"), WRONG)
def test_an_argument_out_of_range_is_refused(kind, args, message):
    with pytest.raises(UsageError, match=message):
        kind(**args)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_by_its_name_and_written_down(name):
    kind = NAMES[name]
    assert PluginHost.discover(only=["scaffold"]).component("agg_optimizer", name) is kind
    config = dict.fromkeys(config_of(kind()), 0.25)
    assert config_of(make(kind, config)) == config
