"""FedNova equals its equations, and nodes that make more steps do not pull the model their way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaffold_kit import THREE, TWO, Net, bowls, ends, experiment

from fedplug import Experiment, Params, RoundContext, Update
from fedplug.core.component_config import config_of, make
from fedplug.core.errors import NoUpdatesError, ParamsError, SettingsError, UsageError
from fedplug.core.plugins import PluginHost
from fedplug.testing import parametrize_with_checks
from fedplug_scaffold import FedAverage, FedNova

RHOS = [0.0, 0.5, 0.9, 0.99]


@parametrize_with_checks([FedNova(), FedNova(0.9)])
def test_laws(component, check):
    check(component)


def length(steps: int, rho: float) -> float:
    """``||a||_1`` of a node that makes ``steps`` steps with momentum ``rho``: how far each gradient has moved it.

    The gradient of step s is part of that step and, weaker by ``rho`` each time, of all that follow.
    """
    return sum(rho**later for s in range(steps) for later in range(steps - s))


def equations(start: np.ndarray, rows: Sequence[tuple[np.ndarray, int, int]], rho: float) -> np.ndarray:
    """Wang et al., equations 6 and 7, of ``(end, samples, steps)`` of each node, in float64."""
    total = sum(samples for _, samples, _ in rows)
    shares = [samples / total for _, samples, _ in rows]
    lengths = [length(steps, rho) for _, _, steps in rows]
    effective = sum(p * a for p, a in zip(shares, lengths, strict=True))
    moves = [(start - end) / a for (end, _, _), a in zip(rows, lengths, strict=True) if a]
    parts = [p for p, a in zip(shares, lengths, strict=True) if a]
    return start - effective * sum(p * d for p, d in zip(parts, moves, strict=True))


def updates(rows: Sequence[tuple[np.ndarray, int, int]]) -> list[Update]:
    return [Update(f"n{i}", Params.from_arrays({"w": end}), n, steps) for i, (end, n, steps) in enumerate(rows)]


def nova(start: np.ndarray, rows: Sequence[tuple[np.ndarray, int, int]], rho: float = 0.0) -> np.ndarray:
    return FedNova(rho).aggregate(Params.from_arrays({"w": start}), updates(rows), RoundContext())["w"]


VALUES = st.lists(st.floats(-100, 100), min_size=3, max_size=3).map(np.array)
ROWS = st.lists(st.tuples(VALUES, st.integers(1, 1000), st.integers(0, 40)), min_size=1, max_size=5)


@pytest.mark.parametrize("rho", RHOS)
@given(start=VALUES, rows=ROWS.filter(lambda rows: any(steps for _, _, steps in rows)))
def test_it_is_what_the_equations_say(rho, start, rows):
    longest = max(length(steps, rho) for _, _, steps in rows)
    np.testing.assert_allclose(nova(start, rows, rho), equations(start, rows, rho), rtol=0, atol=1e-12 * 200 * longest)


@pytest.mark.parametrize("rho", [*RHOS, 1e-9])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 50])
def test_the_length_of_a_training_is_the_sum_that_its_formula_stands_for(rho, steps):
    assert FedNova(rho).length(steps) == pytest.approx(length(steps, rho), rel=1e-12)


@given(start=VALUES, rows=ROWS, steps=st.integers(1, 40))
def test_where_all_make_equally_many_steps_it_is_fedaverage(start, rows, steps):
    equal = [(end, samples, steps) for end, samples, _ in rows]
    mean = FedAverage().aggregate(Params.from_arrays({"w": start}), updates(equal), RoundContext())["w"]
    np.testing.assert_allclose(nova(start, equal), mean, rtol=0, atol=1e-12)


def test_a_node_without_a_step_counts_as_one_that_stays_where_it_is():
    start, moved = np.zeros(1), np.ones(1)
    assert nova(start, [(moved, 10, 4), (moved, 30, 0)]).tolist() == [0.25 * 0.25]


def test_nothing_to_average():
    start = np.zeros(1)
    for rows in ([], [(start, 5, 0)], [(start, 0, 3)]):
        with pytest.raises(NoUpdatesError, match="FedNova has nothing to average"):
            nova(start, rows)


def test_an_update_of_another_model_is_refused():
    with pytest.raises(ParamsError, match="do not match the model"):
        nova(np.zeros(2), [(np.zeros(3), 1, 1)])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_very_different_numbers_of_steps_do_not_magnify_rounding(dtype):
    """The mean of the ends, rounded, would be magnified by 250 here."""
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(4)
    start, *ends = (np.asarray(rng.normal(1, 0.001, 200), kind) for _ in range(3))
    rows = [(ends[0], 10, 1), (ends[1], 10, 1000)]
    exact = equations(start.astype(np.float64), [(end.astype(np.float64), n, steps) for end, n, steps in rows], 0.0)
    found = nova(start, rows)
    assert found.dtype == kind
    assert found.tolist() == exact.astype(kind).tolist()


def test_whole_numbers_and_buffers_take_the_mean_weighted_by_samples():
    def params(w, running, seen):
        return Params.from_arrays({"w": np.float64(w), "running": np.float32(running), "seen": np.int64(seen)})

    found = FedNova().aggregate(
        params(0, 0, 0),
        [Update("a", params(1, 1, 4), 30, 1), Update("b", params(1, 5, 8), 10, 3)],
        RoundContext(buffers=frozenset({"running", "elsewhere"})),
    )
    assert found == params(1.5 * (0.75 + 0.25 / 3), 2, 5)


# the bias that it removes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(1, 1), (1, 5), (5, 1), (2, 4)])
@pytest.mark.parametrize("samples", [(1, 1), (3, 1)])
def test_it_ends_at_the_optimum_whatever_the_numbers_of_steps(steps, samples):
    """Two bowls of curvature 1 with minima at 0 and 1, and a rate of 0.01; the optimum is the share of the second.

    A node moves by ``r = 1 - 0.99^steps`` of the way to its minimum. ``r / steps`` is nearly the rate, so FedNova is
    off by at most 0.01 (steps - 1) / 2; FedAverage weighs by ``r`` and goes where more steps are made.
    """
    rate, minima = 0.01, (0.0, 1.0)

    def end_of(aggregator: FedAverage | FedNova) -> float:
        x = Params.from_arrays({"w": 0.5})
        for _ in range(1500):
            ends = [b + (float(x["w"]) - b) * (1 - rate) ** tau for b, tau in zip(minima, steps, strict=True)]
            x = aggregator.aggregate(x, updates(list(zip(ends, samples, steps, strict=True))), RoundContext())["w"]
            x = Params.from_arrays({"w": x})
        return float(x["w"])

    optimum = samples[1] / sum(samples)
    assert end_of(FedNova()) == pytest.approx(optimum, abs=rate * (max(steps) - 1) / 2 + 1e-6)
    moves = [n * (1 - (1 - rate) ** tau) for n, tau in zip(samples, steps, strict=True)]
    end = end_of(FedAverage())
    assert end == pytest.approx(moves[1] / sum(moves), abs=1e-6)
    assert steps[0] == steps[1] or abs(end - optimum) > 0.1


def test_in_an_experiment_it_takes_samples_and_steps_of_the_replies():
    rows = {"p": 2, "q": 5, "z": 3}
    net = Net(bowls(THREE, rows))
    args = {"epochs": 3, "optimizer_args": {"lr": 0.01}}
    with experiment(net, aggregator="fednova", training_args=args) as exp:
        found = [0.0, *ends(exp, 4)]
    for before, after in pairwise(found):
        places = [
            (np.array(b + (before - b) * (1 - 0.01 * a) ** (3 * rows[node])), rows[node], 3 * rows[node])
            for node, (a, b) in THREE.items()
        ]
        assert after == pytest.approx(float(equations(np.array(before), places, 0.0)), abs=1e-12)


# its argument, its name ------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [1, -0.1, 1.5, float("nan"), True, "0.9", None])
def test_a_momentum_that_is_none_is_refused(momentum):
    with pytest.raises(UsageError, match=r"momentum must lie in \[0, 1\)"):
        FedNova(momentum)


def test_with_fedprox_it_is_refused_before_anything_is_sent():
    net = Net(bowls(TWO))
    args = {"num_updates": 2, "fedprox_mu": 0.1}
    with (
        experiment(net, aggregator=FedNova(), training_args=args) as exp,
        pytest.raises(SettingsError, match="FedNova does not know how long a step with fedprox_mu is"),
    ):
        exp.run(1)
    assert net.sent == []


def test_it_is_found_by_its_name_and_written_down():
    assert PluginHost.discover(only=["scaffold"]).component("aggregator", "fednova") is FedNova
    assert config_of(make(FedNova, {"momentum": 0.5})) == {"momentum": 0.5}
    assert config_of(FedNova()) == {"momentum": 0.0}


def test_it_goes_on_from_a_breakpoint(fedplug_dir: Path):
    data = bowls(TWO, {"p": 2, "q": 3})
    args = {"epochs": 2, "optimizer_args": {"lr": 0.01}}
    with experiment(Net(data), aggregator=FedNova(0.5), training_args=args) as whole:
        whole.run(3)
    with experiment(Net(data), aggregator=FedNova(0.5), training_args=args, save_breakpoints=True) as exp:
        exp.run(1)
    with Experiment.load_breakpoint(transport=Net(data), progress="quiet") as again:
        again.run(2)
        assert again.params() == whole.params()
