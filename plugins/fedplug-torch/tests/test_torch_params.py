from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn

from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.params import Params, allocate
from fedplug_torch import params as torch_params


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.halves = nn.Parameter(torch.randn(2, 5).to(torch.float16))
        self.brains = nn.Parameter(torch.randn(3, 2).to(torch.bfloat16))
        self.doubles = nn.Parameter(torch.randn(()).double())
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("index", torch.arange(5, dtype=torch.int32))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.turned = nn.Parameter(torch.randn(3, 4).t())
        self.empty = nn.Parameter(torch.empty(0, 3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.middle = nn.Linear(3, 3)
        self.out = nn.Linear(3, 7, bias=False)
        self.out.weight = self.embed.weight


def state(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_everything_in_the_state_dict_travels_in_its_order():
    torch.manual_seed(0)
    module = Mixed()
    module.norm(module.first(torch.randn(8, 4)))  # moves the running statistics and their counter
    params = torch_params.read(module)
    assert list(params) == list(module.state_dict())
    assert params["norm.num_batches_tracked"] == 1
    assert params["brains"].dtype.name == "bfloat16"
    assert params["turned"].tolist() == module.turned.tolist()
    other = Mixed()
    assert not equal(state(other), state(module))
    torch_params.write(other, params)
    assert equal(state(other), state(module))
    assert torch_params.read(other) == params
    assert not other.turned.is_contiguous()


def test_reading_copies():
    module = nn.Linear(2, 2)
    before = torch_params.read(module)
    values = before["weight"].copy()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert np.array_equal(before["weight"], values)


def test_writing_copies_and_keeps_gradients_possible():
    module = nn.Linear(2, 2)
    params = Params.from_arrays({"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)})
    weight = module.weight
    torch_params.write(module, params)
    with torch.no_grad():
        module.weight.mul_(5.0)
    assert module.weight is weight
    assert weight.requires_grad
    assert params["weight"].tolist() == [[1, 1], [1, 1]]


def test_reading_into_given_memory():
    memory = allocate(1000)
    params = torch_params.read(nn.Linear(2, 2), lambda nbytes: memory)
    assert np.shares_memory(params["weight"], memory)


def test_tied_weights_are_one_entry_and_stay_tied():
    torch.manual_seed(1)
    module = Tied()
    params = torch_params.read(module)
    assert list(params) == ["embed.weight", "middle.weight", "middle.bias"]
    other = Tied()
    torch_params.write(other, params)
    assert equal(state(other), state(module))
    assert other.out.weight is other.embed.weight


def test_a_module_without_parameters_is_empty():
    params = torch_params.read(nn.ReLU())
    assert len(params) == 0
    torch_params.write(nn.ReLU(), params)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"weight": np.zeros((2, 2), np.float32)}, "'bias' is missing"),
        ({"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}, r"shape \(2, 3\)"),
        ({"weight": np.zeros((2, 2)), "bias": np.zeros(2)}, "dtype float64, expected float32"),
    ],
)
def test_other_params_are_refused_and_change_nothing(arrays, words):
    module = nn.Linear(2, 2)
    before = state(module)
    with pytest.raises(ParamsError, match=words):
        torch_params.write(module, Params.from_arrays(arrays))
    assert equal(before, state(module))


class Doubling(nn.Linear):
    """Makes something else of what it is given."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict({name: 2 * value for name, value in state_dict.items()}, prefix, *rest)


def hooked():
    module = nn.Linear(2, 2)
    module.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *rest: state.update({name: 2 * value for name, value in state.items()})
    )
    return module


@pytest.mark.parametrize(("make", "factor"), [(lambda: nn.Linear(2, 2), 1), (lambda: Doubling(2, 2), 2), (hooked, 2)])
def test_a_module_that_loads_its_state_in_its_own_way_still_does(make, factor):
    module = nn.Sequential(make(), nn.BatchNorm1d(2))
    given = Params.from_arrays({name: np.full_like(value, 3) for name, value in torch_params.read(module).items()})
    torch_params.write(module, given)
    assert (module[0].weight == 3 * factor).all()
    assert (module[0].bias == 3 * factor).all()
    assert module[1].num_batches_tracked == 3
    assert (module[1].running_var == 3).all()


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.z = nn.Parameter(torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.LazyLinear(3), "has no shape yet"),
        (lambda: Extra(2, 2), "'_extra_state' is a dict, no tensor"),
        (Complex, "complex64"),
    ],
)
def test_state_that_cannot_travel_is_named(make, words):
    with pytest.raises(PlanError, match=words):
        torch_params.check(make())


def test_parameters_are_written_and_read_without_work_for_the_collector_of_circles():
    module = Mixed()
    params = torch_params.read(module)
    torch_params.write(module, params)
    gc.collect()
    gc.disable()
    try:
        torch_params.write(module, params)
        assert torch_params.read(module) == params
        assert gc.collect() == 0
    finally:
        gc.enable()
