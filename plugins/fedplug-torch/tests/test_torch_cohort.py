"""The parts of stacked training: which nodes step together, where their parameters lie, and what is written down."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedplug import DataManager
from fedplug.core.cohort import CohortError
from fedplug.core.data import ArrayData
from fedplug_torch import whole_data
from fedplug_torch.cohort_batches import Rows, Run, repeated, schedule
from fedplug_torch.cohort_graph import simplify, take_steps
from fedplug_torch.cohort_memory import RowPool
from fedplug_torch.data import TensorData
from fedplug_torch.tape import Tape, TapeError, program

CPU = torch.device("cpu")


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(1, 4))
def test_every_node_draws_each_of_its_batches_once_and_in_order(sizes, most) -> None:
    drawn = [[] for _ in sizes]
    for run, count in repeated(schedule(sizes), most):
        assert 0 <= run.low < run.high <= len(sizes)
        assert 1 <= count <= most
        for node in range(run.low, run.high):
            drawn[node] += [run.size] * count
    assert drawn == sizes


def test_nodes_of_one_kind_step_together_and_odd_ones_go_ahead() -> None:
    assert list(schedule([[8, 8], [8, 8]])) == [Run(0, 2, 8)] * 2
    # the second node has a smaller batch first, and then joins the others
    assert list(schedule([[8, 8], [3, 8, 8]])) == [Run(1, 2, 3), Run(0, 2, 8), Run(0, 2, 8)]
    assert list(repeated([Run(0, 2, 8)] * 5 + [Run(0, 2, 3)], 4)) == [
        (Run(0, 2, 8), 4), (Run(0, 2, 8), 1), (Run(0, 2, 3), 1),
    ]  # fmt: skip


def test_memory_is_taken_again_when_no_row_of_it_is_looked_at_any_more() -> None:
    pool = RowPool()
    first = pool.take(3, 100)
    assert first.shape == (3, 128)
    assert all(row.ctypes.data % 64 == 0 for row in first)
    first[:] = 7
    view = np.frombuffer(first[1, :100], np.uint8)
    address = first.ctypes.data
    del first
    gc.collect()
    second = pool.take(3, 100)
    assert second.ctypes.data != address  # a row is still looked at
    second[:] = 9
    assert (view == 7).all()
    del view
    gc.collect()
    assert pool.take(2, 100).ctypes.data == address


def test_rows_of_shared_and_of_own_data_are_drawn_alike() -> None:
    x, y = torch.arange(24.0).reshape(12, 2), torch.arange(12)
    picked = [np.array([3, 1]), np.array([7, 11])]
    shared = TensorData({"a": x}, y)
    own = [TensorData({"a": x[:6]}, y[:6]), TensorData({"a": x[6:]}, y[6:])]
    run = Run(0, 2, 2)
    together = Rows([shared, shared], CPU).draw(run, picked)
    apart = Rows(own, CPU).draw(run, [picked[0], picked[1] - 6])
    assert all(map(torch.equal, together, apart))
    assert together[0].tolist() == [[[6, 7], [2, 3]], [[14, 15], [22, 23]]]
    data, target = Rows([TensorData(x)], CPU).one(0, picked[0])
    assert target is None
    assert data.tolist() == [[6, 7], [2, 3]]


def test_data_that_cannot_be_stacked_are_refused() -> None:
    with pytest.raises(CohortError, match=r"no tensors in memory \(ArrayData\)"):
        Rows([ArrayData(np.zeros((2, 2)))], CPU)
    with pytest.raises(CohortError, match="have different shapes"):
        Rows([TensorData(torch.zeros(2, 2)), TensorData(torch.zeros(2, 3))], CPU)


def recorded(function, *inputs, constants=()):
    with Tape(inputs, constants, {"convolution": "convolutions are slower"}) as tape:
        out = function(*inputs)
    graph = tape.result([out] if isinstance(out, torch.Tensor) else list(out))
    simplify(graph, tape.constants)
    return graph, tape.constants


def test_a_record_is_played_back_with_other_values() -> None:
    ones = torch.ones(2)

    def function(a, b):
        return ((a.view(2, 3).view(2, 3) * 1 + b).relu() @ b.t() + b.sum()) * ones

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    play = program(*recorded(function, a, b, constants=[ones]))
    assert torch.allclose(play(b, a)[0], function(b, a))


def test_what_is_idle_repeated_or_constant_is_left_out() -> None:
    def function(a):
        return a.detach().view(2, 3).exp() + a.exp() + torch.zeros_like(a) + torch.full((3,), 2.0) * 3

    graph, constants = recorded(function, torch.randn(2, 3))
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sorted(names) == ["aten.add.Tensor"] * 3 + ["aten.exp.default"]
    assert len(constants) >= 2


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a: a.add_(1), "writes into a parameter, a buffer or the batch"),
        (lambda a: a[0].zero_(), "writes into a parameter, a buffer or the batch"),
        (lambda a: a + torch.rand(3), "draws random numbers"),
        (torch.nn.functional.dropout, "draws random numbers"),
        (lambda a: torch.nn.functional.conv1d(a.view(1, 2, 3), torch.ones(1, 2, 1)), "convolutions are slower"),
        (lambda a: a + ELSEWHERE, "neither the model's nor the batch's"),
    ],
)
def test_what_would_make_a_record_false_is_refused(function, reason) -> None:
    with pytest.raises(TapeError, match=reason):
        recorded(function, torch.randn(2, 3))


ELSEWHERE = torch.ones(3)


def test_sgd_is_taken_into_the_last_product_and_reads_no_parameter_that_has_moved() -> None:
    def function(left, right, bias, x):
        """Losses, and as gradients a product, one that is made of the other parameter, and a parameter itself."""
        return (x @ left).sum((1, 2)), (x.transpose(1, 2) @ x)[:, :3, :3], right.transpose(1, 2) @ left, left[:, 0]

    values = [torch.randn(2, 3, 3), torch.randn(2, 3, 3), torch.randn(2, 3)]
    x = torch.randn(2, 5, 3)
    graph, constants = recorded(function, *values, x)
    expected = [value.clone() for value in values]
    take_steps(graph, [(1.0, -0.1), (0.9, -0.2), (1.0, 0.3)])
    gradients = function(*expected, x)[1:]
    wanted = [
        expected[0] - 0.1 * gradients[0], 0.9 * expected[1] - 0.2 * gradients[1], expected[2] + 0.3 * expected[0][:, 0]
    ]  # fmt: skip
    program(graph, constants)(*values, x)
    for found, value in zip(values, wanted, strict=True):
        torch.testing.assert_close(found, value)


def test_shared_arrays_are_not_copied_unless_they_must_be_converted(monkeypatch) -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 1], np.int8)
    x.flags.writeable = False
    found: Any = whole_data.whole(DataManager({"a": (x,)}, y))
    assert found.data["a"][0].data_ptr() == x.ctypes.data
    assert found.target.dtype == torch.int64
    assert found.target.tolist() == [0, 1, 1]
    monkeypatch.setattr(whole_data, "_MOST_CONVERTED", 100)
    assert whole_data.whole(DataManager(np.zeros((25, 1)))) is not None
    assert whole_data.whole(DataManager(np.zeros((26, 1)))) is None
