"""The benchmarks of peers compare each round with the plain loop, and notice a model or a node that is not the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # the benchmarks are no installed package

from benchmarks.peers import pairs as pairs_module
from benchmarks.peers.pairs import Pairs, Workload, division, order
from benchmarks.plain_loop import CNN, MLP, PlainLoop


@pytest.fixture(autouse=True)
def small(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 784)).astype(np.float32), rng.integers(0, 10, 40)
    monkeypatch.setattr(pairs_module, "fashion_mnist", lambda: images)
    workload = Workload(MLP, nodes=4, sampled=2, pairs=3, quick_pairs=2, warm_up=1)
    monkeypatch.setitem(pairs_module.WORKLOADS, "S1", workload)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def another_framework(pairs, number, nodes, params):
    """Federated averaging in other words: float32 sums of what the nodes changed."""
    model, total = MLP(), {name: torch.zeros_like(value) for name, value in params.items()}
    for node in nodes:
        model.load_state_dict(params)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        picked = pairs.data.picked(number, node)
        optimizer.zero_grad()
        loss = torch.nn.CrossEntropyLoss()
        loss(model(torch.from_numpy(pairs.data.x)[picked]), torch.from_numpy(pairs.data.y)[picked]).backward()
        optimizer.step()
        for name, value in model.state_dict().items():
            total[name] += (value - params[name]) / len(nodes)
    return {name: params[name] + total[name] for name in params}


def test_rounds_that_agree_are_measured():
    pairs = Pairs("S1", quick=True)
    params = MLP().state_dict()
    pairs.begin(params)
    for number in range(1, pairs.rounds + 1):
        assert pairs.number == number
        params = another_framework(pairs, number, (3, number % 3), params)
        pairs.stop()
        pairs.compare(params, (3, number % 3))
    row = pairs.row("Another", "torch", "in other words")
    assert 0 < row.details["difference"] < 1e-5
    assert row.details["rounds"] == len(row.details["ratios"][0]) == 2
    assert row.version == torch.__version__
    assert row.cpu > 0
    assert row.wall > 0


@pytest.mark.parametrize(
    ("damage", "nodes", "problem"),
    [
        (1e-3, (0, 1), "differs from the plain loop"),
        (float("nan"), (0, 1), "differs from the plain loop"),
        (0.0, (0, 2), "differs from the plain loop"),
        (0.0, (1, 1), "not 2 nodes"),
        (0.0, (0,), "not 2 nodes"),
    ],
    ids=["other values", "not a number", "other nodes than told", "one node twice", "too few nodes"],
)
def test_a_round_that_is_not_the_same_is_refused(damage, nodes, problem):
    pairs = Pairs("S1", quick=True)
    params = MLP().state_dict()
    pairs.begin(params)
    found = another_framework(pairs, 1, (0, 1), params)
    found["two.bias"] = found["two.bias"] + damage
    pairs.stop()
    with pytest.raises(AssertionError, match=problem):
        pairs.compare(found, nodes)


def test_each_sample_has_one_node_and_each_round_an_order_of_its_own():
    rows = division(4, 40)
    assert sorted(np.concatenate(rows)) == list(range(40))
    assert all(np.array_equal(a, b) for a, b in zip(rows, division(4, 40), strict=True))
    orders = [order(1, 0, 10), order(2, 0, 10), order(1, 1, 10)]
    assert all(sorted(each) == list(range(10)) for each in orders)
    assert len({tuple(each) for each in orders}) == 3


def test_the_models_have_the_sizes_of_the_workloads():
    assert sum(value.numel() for value in MLP().parameters()) == 50_890
    assert sum(value.numel() for value in CNN().parameters()) == 1_199_882
    assert CNN()(torch.zeros(2, 784)).shape == (2, 10)


def test_the_plain_loop_is_the_weighted_mean_of_what_nodes_come_to():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 784)).astype(np.float32), rng.integers(0, 10, 8)
    loop = PlainLoop(x, y, {"a": np.arange(6), "b": np.arange(6, 8)})
    start = {name: value.clone() for name, value in MLP().state_dict().items()}
    orders = {"a": np.arange(6)[::-1].copy(), "b": np.arange(2)}
    alone = {}
    for node, mine in orders.items():
        loop.train(start, loop.rows[node][torch.from_numpy(mine)])
        alone[node] = {name: value.clone() for name, value in loop.model.state_dict().items()}
    mean = loop.round(start, orders)
    for name, value in mean.items():
        expected = (6 * alone["a"][name].double() + 2 * alone["b"][name].double()) / 8
        assert torch.equal(value, expected.float())
        assert not torch.equal(value, start[name])
