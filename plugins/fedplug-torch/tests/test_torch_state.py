"""Parts of a module, and an optimizer's state: read, kept and written back to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Params
from fedplug.core.errors import ParamsError, PlanError
from fedplug.core.local_state import StateBook
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug_torch import TorchTrainingPlan, norm_layer_names, optimizer_state
from fedplug_torch import params as torch_params


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Sequential(nn.LayerNorm(3)))
        self.subnet = nn.Linear(3, 4, bias=False)
        self.tied = nn.Linear(4, 3, bias=False)
        self.tied.weight = self.body[0].weight
        self.group = nn.GroupNorm(1, 4)

    def forward(self, x):
        return self.group(self.subnet(self.body(x)))


class BnPlan(TorchTrainingPlan):
    def init_model(self):
        return Net()

    def tag_parameters(self, name):
        return {"local", "persistent"} if name in self.norm_layer_names() else set()

    def training_data(self):
        return DataManager(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


def ready(plan_class=BnPlan, seed=0, **args):
    torch.manual_seed(seed)
    plan = plan_class()
    plan.setup(PlanSetup(training_args=TrainingArgs.from_dict(args)))
    return plan


NORM = {
    "body.1.weight", "body.1.bias", "body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked",
    "body.2.0.weight", "body.2.0.bias", "group.weight", "group.bias",
}  # fmt: skip


def test_norm_layers_are_found_by_kind_and_not_by_name():
    assert norm_layer_names(Net()) == NORM
    assert norm_layer_names(Net(), (nn.GroupNorm,)) == {"group.weight", "group.bias"}
    assert norm_layer_names(nn.BatchNorm1d(2, affine=False)) == {"running_mean", "running_var", "num_batches_tracked"}


def test_check_32_the_global_model_has_no_norm_layer_and_the_node_keeps_its_own():
    one, two = ready(), ready(seed=1)
    assert set(one.parameter_tags().local) == NORM
    assert list(one.get_params()) == ["body.0.weight", "body.0.bias", "subnet.weight"]
    with torch.no_grad():
        for name, value in one.model().state_dict().items():
            value.add_(1) if name in NORM else None
    two.set_params(one.get_params())
    state = two.model().state_dict()
    assert torch.equal(state["body.0.weight"], one.model().body[0].weight)
    assert torch.equal(state["tied.weight"], one.model().body[0].weight)
    assert torch.equal(state["group.bias"], torch.zeros(4))
    two.write_persistent(one.read_persistent())
    assert all(torch.equal(a, b) for a, b in zip(
        one.model().state_dict().values(), two.model().state_dict().values(), strict=True))  # fmt: skip
    with pytest.raises(ParamsError, match=r"'body\.1\.weight' is not part of the model"):
        two.set_params(torch_params.read(one.model()))


def test_buffers_may_stay_at_the_node():
    class Plain(BnPlan):
        tag_parameters = TorchTrainingPlan.tag_parameters

    tags = ready(Plain, share_persistent_buffers=False).parameter_tags()
    assert set(tags.local) == {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
    assert tags.persistent == tags.local
    assert ready(Plain).parameter_tags().shared == (), "no tag at all"


@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.SGD(params, lr=0.1),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        lambda params: torch.optim.Adam(params, lr=0.1, amsgrad=True),
        lambda params: torch.optim.Adagrad(params, lr=0.1),
        lambda params: torch.optim.RMSprop(params, lr=0.1, centered=True, momentum=0.5),
        lambda params: torch.optim.ASGD(params, lr=0.1),
    ],
    ids=["SGD", "momentum", "Adam", "Adagrad", "RMSprop", "ASGD"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(make, dtype):
    def model():
        torch.manual_seed(3)
        return nn.Linear(3, 2, dtype=dtype)

    def steps(model, optimizer, count):
        for index in range(count):
            optimizer.zero_grad()
            model(torch.full((1, 3), 1.0 + index, dtype=dtype)).pow(2).sum().backward()
            optimizer.step()

    whole = model()
    optimizer = make(whole.parameters())
    steps(whole, optimizer, 3)
    stopped = model()
    stopped.load_state_dict(whole.state_dict())
    book = StateBook()
    book.keep("optimizer", *optimizer_state.read(optimizer))
    found = StateBook(book.result())
    again = make(stopped.parameters())
    optimizer_state.write(again, found.arrays("optimizer"), found.values("optimizer"))
    steps(whole, optimizer, 2)
    steps(stopped, again, 2)
    assert torch_params.read(whole) == torch_params.read(stopped)


def test_settings_come_from_the_round_and_not_from_the_state():
    layer = nn.Linear(2, 1)
    old = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    old.step()
    new = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.8)
    optimizer_state.write(new, *optimizer_state.read(old))
    assert (new.param_groups[0]["lr"], new.param_groups[0]["momentum"]) == (0.1, 0.8)
    assert torch.equal(new.state[layer.bias]["momentum_buffer"], torch.ones(1))


def test_the_state_of_another_optimizer_is_refused():
    adam = torch.optim.Adam(nn.Linear(2, 1).parameters())
    with pytest.raises(ParamsError, match="its class was 'SGD', now 'Adam'"):
        optimizer_state.write(adam, *optimizer_state.read(torch.optim.SGD(nn.Linear(2, 1).parameters())))
    with pytest.raises(ParamsError, match="its shapes was"):
        optimizer_state.write(adam, *optimizer_state.read(torch.optim.Adam(nn.Linear(3, 1).parameters())))


def test_a_state_that_cannot_be_kept_is_named():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.state[layer.bias]["seen"] = {1, 2}
    with pytest.raises(PlanError, match="cannot be kept: its 'optimizer/1/seen' is a set") as caught:
        optimizer_state.read(optimizer)
    assert "keep_optimizer_state=False" in caught.value.cure


def test_a_state_of_lists_of_tensors_is_kept_too():
    def closure(layer, optimizer):
        optimizer.zero_grad()
        loss = (layer(torch.arange(6.0).reshape(3, 2)) - 1).pow(2).sum()
        loss.backward()
        return loss

    one, two = nn.Linear(2, 1), nn.Linear(2, 1)
    first = torch.optim.LBFGS(one.parameters(), lr=0.1, max_iter=3)
    first.step(lambda: closure(one, first))
    two.load_state_dict(one.state_dict())
    second = torch.optim.LBFGS(two.parameters(), lr=0.1, max_iter=3)
    optimizer_state.write(second, *optimizer_state.read(first))
    first.step(lambda: closure(one, first))
    second.step(lambda: closure(two, second))
    assert torch_params.read(one) == torch_params.read(two)


def test_bfloat16_is_kept_too():
    pytest.importorskip("ml_dtypes")
    tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    packed = torch_params.pack({"a": tensor})
    assert isinstance(packed, Params)
    book = StateBook()
    book.keep("x", packed)
    assert torch.equal(torch_params.unpack(StateBook(book.result()).arrays("x"))["a"], tensor)
