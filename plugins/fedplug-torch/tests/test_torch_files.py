"""Export and import of PyTorch models: readable by torch and safetensors alone, and hostile until checked."""

from __future__ import annotations

import pickle

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager
from fedplug.core.errors import CodecError, ParamsError, PlanError, UsageError
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug_torch import TorchTrainingPlan

SUFFIXES = [".pt", ".pth", ".bin", ".safetensors"]


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.tied = nn.Linear(4, width, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("seen", torch.tensor(0))
        self.scale = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))

    def forward(self, x):
        return self.norm(self.first(x) + self.tied(x))


class Plan(TorchTrainingPlan):
    def init_model(self, model_args):
        return Net(model_args.get("width", 3))

    def tag_parameters(self, name):
        return {"local"} if name.startswith("norm.") else set()

    def training_data(self):
        return DataManager(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long))

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


def ready(seed=0, **model_args):
    torch.manual_seed(seed)
    plan = Plan()
    plan.setup(PlanSetup(model_args=model_args, training_args=TrainingArgs()), with_optimizer=False)
    with torch.no_grad():
        plan.model().norm.running_mean.add_(seed)
        plan.model().seen.add_(seed)
        plan.model().scale.add_(seed)
    return plan


def same(one: nn.Module, state) -> bool:
    own = one.state_dict()
    return own.keys() == state.keys() and all(
        torch.equal(own[n], state[n]) and own[n].dtype == state[n].dtype for n in own
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_whole_model_comes_back_local_parameters_buffers_and_tied_weights_too(tmp_path, suffix):
    plan, other = ready(1), ready(2)
    path = plan.export_model(tmp_path / f"m{suffix}")
    assert list(tmp_path.iterdir()) == [path]
    other.import_model(path)
    assert same(other.model(), plan.model().state_dict())
    assert other.model().tied.weight is other.model().first.weight
    assert other.get_params() == plan.get_params()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_torch_and_safetensors_read_it_without_fedplug(tmp_path, suffix):
    plan = ready(1)
    path = plan.export_model(tmp_path / f"m{suffix}")
    state = safetensors.torch.load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    net = Net()
    net.load_state_dict(state)
    assert same(net, plan.model().state_dict())


def test_files_of_other_software_are_read(tmp_path):
    net = ready(3).model()
    torch.save(net.state_dict(), tmp_path / "new.pt")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_model(net, tmp_path / "once.safetensors")  # leaves out the second name of tied weights
    for name in ("new.pt", "old.pth", "once.safetensors"):
        plan = ready(1)
        plan.import_model(tmp_path / name)
        assert same(plan.model(), net.state_dict())


def test_the_file_holds_nothing_but_the_model(tmp_path):
    plan = ready(1)
    secret = torch.arange(1_000_000.0)
    plan.model().first.weight.data = secret[:12].view(3, 4)
    assert plan.export_model(tmp_path / "m.pt").stat().st_size < 20_000


def test_a_mismatch_lists_all_that_is_wrong_and_changes_nothing(tmp_path):
    state = ready(1).model().state_dict()
    state["extra"] = torch.zeros(1)
    state["scale"] = state["scale"].float()
    del state["seen"]
    torch.save(state, tmp_path / "m.pt")
    plan = ready(2)
    before = plan.get_params()
    with pytest.raises(ParamsError) as caught:
        plan.import_model(tmp_path / "m.pt")
    assert caught.value.message.splitlines()[1:] == [
        "  - missing: seen",
        "  - unexpected: extra",
        "  - different: scale (float32 [2] in the file, bfloat16 [2] in the model)",
    ]
    assert plan.get_params() == before
    with pytest.raises(ParamsError, match=r"different: first\.weight \(float32 \[3, 4\] in the file"):
        ready(width=5).import_model(ready(1).export_model(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_that_are_not_finite_are_refused(tmp_path, suffix):
    plan, other = ready(1), ready(2)
    with torch.no_grad():
        plan.model().scale[1] = float("inf")
    path = plan.export_model(tmp_path / f"m{suffix}")
    before = other.get_params()
    with pytest.raises(ParamsError, match=r"not finite .*: scale"):
        other.import_model(path)
    assert other.get_params() == before


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, zipped):
    torch.save({"x": Bomb(tmp_path / "exploded")}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="holds more than tensors") as caught:
        ready().import_model(tmp_path / "m.pt")
    assert "torch.save(model.state_dict(), path), or a .safetensors file" in caught.value.cure
    assert "trusted=True" in caught.value.cure
    assert not (tmp_path / "exploded").exists()


def test_a_whole_module_is_read_if_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, Net.__module__, type("M", (), {"Net": Net}))
    net = ready(1).model()
    torch.save(net, tmp_path / "m.pt")
    plan = ready(2)
    with pytest.raises(UsageError, match="holds more than tensors"):
        plan.import_model(tmp_path / "m.pt")
    plan.import_model(tmp_path / "m.pt", trusted=True)
    assert same(plan.model(), net.state_dict())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "state_dict": {}}, "but 'epoch', which is no tensor"),
        ([torch.zeros(1)], "but a list"),
        (torch.zeros(1), "but a Tensor"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path, content, words):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(UsageError, match=f"does not hold tensors by name, {words}"):
        ready().import_model(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_damaged_file_ends_in_one_error(tmp_path, suffix, content, trusted):
    path = ready().export_model(tmp_path / f"m{suffix}")
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(
        CodecError if trusted or content is not None else (CodecError, UsageError), match=f"m\\{suffix}"
    ):
        ready().import_model(path, trusted=trusted)


def test_a_pickle_of_plain_data_is_told(tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises((UsageError, CodecError)):
        ready().import_model(tmp_path / "m.pt")


def test_unknown_suffixes_and_plans_without_a_model_are_told(tmp_path):
    with pytest.raises(UsageError, match="the suffix says the format") as caught:
        ready().export_model(tmp_path / "m.joblib")
    assert ".pt, .pth, .bin, .safetensors" in caught.value.cure
    with pytest.raises(PlanError, match="not available yet"):
        Plan().export_model(tmp_path / "m.pt")
