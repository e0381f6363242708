"""Local differential privacy: what a step is, what it costs, and what is refused."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import RDPAccountant
from torch import nn

from fedplug import DataManager, Params
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import PlanError, PlanRunError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.noise import NoiseStream, derive_key
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.core.privacy import update_norm
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import hook
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.node.training import run_task
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.data import TensorData
from fedplug_torch.privacy import require_opacus, spent_epsilon
from fedplug_torch.private_backend import PrivateTorchBackend

HOST = PluginHost.discover()
KEY = b"n" * 32
N = 37  # no multiple of the batch size: the last batch of an ordinary pass is smaller


class Arrays(NodeDataset):
    def __init__(self, count=N):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(count, 4)).astype(np.float32)
        self.path, self.type, self.name, self.target = Path("<memory>"), "arrays", "d", "y"
        self._arrays = {"x": x, "y": (x[:, 0] > x[:, 1]).astype(np.int64)}

    def arrays(self):
        return self._arrays


class Net(TorchTrainingPlan):
    def init_model(self):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.GroupNorm(2, 6), nn.Linear(6, 2))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)


class Flat(Net):
    """Many parameters, and no gradient: what moves them is noise."""

    def init_model(self):
        return nn.Linear(4, 5000, bias=False)

    def training_step(self, data, target):
        return self.model()(data).mean() * 0.0


def bundle(plan_class) -> PlanBundle:
    """Bundle a class together with the classes of this file that it derives from."""
    parts = [textwrap.dedent(inspect.getsource(each)) for each in reversed(plan_class.__mro__) if issubclass(each, Net)]
    dependencies = (*plan_class.default_dependencies(), *plan_class().init_dependencies())
    return PlanBundle(plan_class.__name__, "\n\n".join(parts), dependencies)


def start(plan_class=Net) -> Params:
    torch.manual_seed(1)
    plan = plan_class()
    plan.setup(PlanSetup(), with_optimizer=False)
    return plan.get_params()


def run(
    plan_class=Net, dp=None, *, params=None, state=None, key=KEY, acked=-1, number=0, heard=None, dataset=None, **args
):
    args = {"loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "dp_args": dp, **args}
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=number, node_id="paris"), dataset_id="d", plan_class=plan_class.__name__,
        training_args=args, seed=5, acked_round=acked,
    )  # fmt: skip
    heard = [] if heard is None else heard
    return run_task(
        request, bundle(plan_class), params or start(plan_class), {}, dataset or Arrays(), HOST, heard.append,
        state=state, noise_key=key,
    )  # fmt: skip


def local(sigma=1.0, clip=1.0, **more):
    return {"type": "local", "sigma": sigma, "clip": clip, **more}


def moved(params: Params, begin: Params) -> np.ndarray:
    return np.concatenate([(params[n].astype(float) - begin[n]).ravel() for n in params])


# the same as without -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        {"epochs": 3},
        {"num_updates": 7, "optimizer_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}},
        {"epochs": 2, "fedprox_mu": 0.3, "grad_clip": 0.2},
    ],
    ids=["plain", "momentum", "hooks"],
)
def test_without_noise_clipping_and_sampling_local_privacy_changes_nothing(args):
    plain_reply, plain, _ = run(**args)
    reply, private, _ = run(dp=local(0, 1e9, poisson=False), **args)
    # The mean of the samples' gradients is summed in another order: at most a few dozen roundings of values below 4
    # for each of at most 15 steps, and steps of this size do not enlarge them.
    assert private.allclose(plain, atol=15 * 32 * 4 * 2.0**-24 * 0.1)
    assert update_norm(start(), plain) > 0.05
    assert reply.steps == plain_reply.steps
    assert reply.metrics["loss"] == pytest.approx(plain_reply.metrics["loss"], abs=1e-5)


def test_without_noise_and_clipping_central_privacy_changes_nothing_at_the_node():
    assert run(dp={"sigma": 0, "clip": 1e9})[1] == run()[1]


# the step ----------------------------------------------------------------------------------------------------


def by_hand(params: Params, rows: np.ndarray, clip: float, divisor: float, lr: float) -> dict[str, np.ndarray]:
    """Algorithm 1 of Abadi et al., a sample at a time, without noise."""
    model = Net.init_model(None)
    model.load_state_dict({n: torch.tensor(params[n]) for n in params})
    data = Arrays().arrays()
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        F.cross_entropy(
            model(torch.tensor(data["x"][row : row + 1])), torch.tensor(data["y"][row : row + 1])
        ).backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        for name, p in model.named_parameters():
            sums[name] += p.grad.double() * min(1.0, clip / norm)
    return {n: params[n] - lr * (total / divisor).numpy() for n, total in sums.items()}


def test_a_step_is_the_sum_of_clipped_gradients_of_a_poisson_sample_over_its_expected_size():
    begin = start()
    key = b"p" * 32
    _, params, _ = run(dp=local(0, 0.2), num_updates=1, optimizer_args={"lr": 1.0}, key=key)
    rows = np.flatnonzero(NoiseStream(derive_key(key, b"sampling")).uniform(N) < 8 / N)
    expected = by_hand(begin, rows, 0.2, 8.0, 1.0)
    # float32 against float64, and Opacus's 1e-6 beside the norm: a relative 5e-6 of sums below 10 * 0.2 / 8
    assert all(np.abs(params[n] - expected[n]).max() < 5e-6 for n in expected)
    assert len(rows) not in (0, 8)


def test_no_sample_moves_the_sum_by_more_than_the_clip():
    begin = start()
    for clip in (0.01, 0.1):
        _, params, _ = run(
            dp=local(0, clip, poisson=False), loader_args={"batch_size": 1}, num_updates=1, optimizer_args={"lr": 1.0}
        )
        norm = np.linalg.norm(moved(params, begin))
        assert 0.9 * clip < norm < clip + 50 * 2.0**-24  # 50 parameters below 1 are rounded once each


@pytest.mark.parametrize(("poisson", "divisor"), [(True, 8.0), (False, 8.0)])
def test_noise_has_the_variance_stated(poisson, divisor):
    sigma, clip, lr, count = 1.7, 0.4, 0.5, 20_000
    args = {"num_updates": 3, "optimizer_args": {"lr": lr}}
    _, params, _ = run(Flat, local(sigma, clip, poisson=poisson), **args)
    z = moved(params, start(Flat)) / (lr * sigma * clip / divisor * math.sqrt(3))
    # The sum of squares of ``count`` standard normals is chi-square: mean count, variance 2 * count. Five deviations;
    # float32 adds a relative 1e-5 at most.
    assert abs((z**2).sum() - count) < 5 * math.sqrt(2 * count)
    assert abs(z.mean()) < 5 / math.sqrt(count)


def test_empty_samples_are_steps_with_noise():
    steps, count = 60, 20_000
    reply, params, _ = run(
        Flat,
        local(1.0, 1.0),
        num_updates=steps,
        loader_args={"batch_size": 1},
        dataset=Arrays(4),
        optimizer_args={"lr": 1},
    )
    stream = NoiseStream(derive_key(KEY, b"sampling"))
    sizes = [(stream.uniform(4) < 0.25).sum() for _ in range(steps)]
    assert sizes.count(0) > 5
    assert reply.steps == steps
    z = moved(params, start(Flat)) / math.sqrt(steps)  # with fewer noises it would be shorter
    # float32 rounds a value of about 8 in each step: a relative 1e-6
    assert abs((z**2).sum() - count) < 5 * math.sqrt(2 * count)


def test_each_sample_is_drawn_with_the_sample_rate():
    plan = Net()
    args = TrainingArgs.from_dict({"dp_args": local()})
    plan.setup(PlanSetup(training_args=args, noise_key=KEY))
    data = TensorData(torch.arange(50.0).reshape(50, 1), torch.arange(50))
    drawn = PrivateTorchBackend(plan).draw(data, LoaderArgs(10), SeedTree.root(0))
    batches = [next(drawn) for _ in range(2000)]
    counts = np.bincount(torch.cat([target for (_, target), _ in batches]).numpy(), minlength=50)
    assert all(len(target) == size for (_, target), size in batches)
    # Each of 50 counts is binomial with 2000 trials of 0.2; five deviations for each, and for their sum.
    assert np.abs(counts - 400).max() < 5 * math.sqrt(2000 * 0.16)
    assert abs(counts.sum() - 20_000) < 5 * math.sqrt(100_000 * 0.16)
    assert torch.equal(batches[0][0][0][:, 0].long(), batches[0][0][1])
    assert run(dp=local(), epochs=2)[0].steps == 2 * math.ceil(N / 8)


def test_hooks_act_on_gradients_that_are_private_already():
    begin = start()
    _, params, _ = run(dp=local(1000, 1000), num_updates=1, grad_clip=0.25, fedprox_mu=1.0, optimizer_args={"lr": 1.0})
    # huge noise, then shortened: had the noise come last, the step would be of the order of 1e5
    assert np.linalg.norm(moved(params, begin)) == pytest.approx(0.25, rel=1e-4)


# randomness --------------------------------------------------------------------------------------------------


def test_a_repeated_request_has_the_same_bits_and_another_key_has_not():
    first, again = run(dp=local())[1], run(dp=local())[1]
    assert first == again
    assert run(dp=local(), key=b"m" * 32)[1] != first


def test_noise_differs_where_only_the_data_differ():
    other = Arrays()
    other._arrays["y"] = 1 - other._arrays["y"]
    kw = {"num_updates": 1, "optimizer_args": {"lr": 1.0}}
    noises = []
    for data in (Arrays(), other):
        plain = run(dp=local(0.0), dataset=data, **kw)[1]
        noises.append(moved(run(dp=local(1.0), dataset=data, **kw)[1], plain))
    # Equal noise would cancel in the difference of the two, and show the gradients bare.
    assert np.abs(np.corrcoef(*noises)[0, 1]) < 0.6
    assert np.linalg.norm(noises[0] - noises[1]) > 0.1


def test_without_a_key_there_is_no_training():
    with pytest.raises(UsageError, match="needs a key for its noise"):
        run(dp=local(), key=b"")


# the account -------------------------------------------------------------------------------------------------


def reference(history, delta=1e-5) -> float:
    accountant = RDPAccountant()
    for sigma, rate, steps in history:
        for _ in range(steps):
            accountant.step(noise_multiplier=sigma, sample_rate=rate)
    return accountant.get_epsilon(delta)


def test_epsilon_is_that_of_the_reference_over_rounds():
    book = StateBook()
    one = run(dp=local(1.1), state=book, epochs=2)[0]
    first = [(1.1, 8 / N, 2 * 5)]
    assert one.metrics["dp_epsilon"] == pytest.approx(reference(first), rel=1e-12)
    assert one.metrics["dp_sample_rate"] == 8 / N
    assert one.metrics["dp_delta"] == 1e-5
    book = StateBook(book.result())
    two = run(dp=local(0.9, delta=1e-4), state=book, acked=0, number=1, num_updates=3, loader_args={"batch_size": 16})[
        0
    ]
    assert two.metrics["dp_epsilon"] == pytest.approx(reference([*first, (0.9, 16 / N, 3)], 1e-4), rel=1e-12)
    assert two.state == "kept"
    # The round is lost and asked for anew: the account goes back with the state.
    book = StateBook(StateBook().result())
    assert run(dp=local(1.1), state=book, epochs=2)[0].metrics == one.metrics


def test_an_ordinary_pass_is_one_gaussian_mechanism_whatever_its_number_of_steps():
    reply, _, _ = run(dp=local(2.0, poisson=False), epochs=3)
    assert reply.steps == 15
    assert reply.metrics["dp_sample_rate"] == 1.0
    assert reply.metrics["dp_epsilon"] == pytest.approx(reference([(2.0, 1.0, 3)]), rel=1e-12)
    cut = run(dp=local(2.0, poisson=False), num_updates=7)[0]  # a pass of five steps, and one that is cut short
    assert cut.metrics["dp_epsilon"] == pytest.approx(reference([(2.0, 1.0, 2)]), rel=1e-12)
    # The formula, without Opacus: the divergence of N(1, s^2) from N(0, s^2) by the trapezoidal rule, then theorem 21
    # of Balle et al. (2020), at the orders where the best one lies.
    t = np.linspace(-60, 80, 400_001)
    bounds = []
    for a in np.arange(2.0, 12.0, 0.1):
        log = (-a * (t - 1) ** 2 - (1 - a) * t**2) / 8
        divergence = 3 * (np.log(np.trapezoid(np.exp(log), t)) - 0.5 * math.log(8 * math.pi)) / (a - 1)
        bounds.append(divergence - (math.log(1e-5) + math.log(a)) / (a - 1) + math.log((a - 1) / a))
    assert reply.metrics["dp_epsilon"] == pytest.approx(min(bounds), rel=1e-3)


def test_the_ends_of_the_account():
    assert spent_epsilon([], 1e-5) == 0
    assert spent_epsilon([[1.0, 0.1, 3], [0.0, 0.1, 1]], 1e-5) == math.inf
    assert spent_epsilon([[1e4, 0.01, 1]], 1e-2) == 0  # at the largest order of all, and not below 0
    many = [[1.0, 0.1, 10], [1.5, 0.1, 20], [1.5, 1.0, 1]]
    assert spent_epsilon(many, 1e-6) == pytest.approx(reference(many, 1e-6), rel=1e-12)


def test_where_no_epsilon_can_be_stated_none_is_and_it_is_told():
    heard: list = []
    metrics = run(dp=local(0.0), heard=heard)[0].metrics
    assert "dp_epsilon" not in metrics
    assert metrics["dp_delta"] == 1e-5
    assert any(
        "No epsilon can be stated" in line.text and "sigma is 0" in line.text for line in heard if hasattr(line, "text")
    )
    heard.clear()
    book = StateBook()  # the state of earlier rounds is lost, or they had no privacy
    assert "dp_epsilon" not in run(dp=local(), state=book, acked=3, number=4, heard=heard)[0].metrics
    assert any("left no account" in line.text for line in heard if hasattr(line, "text"))
    later = StateBook(book.result())
    assert "dp_epsilon" not in run(dp=local(), state=later, acked=4, number=5)[0].metrics


def test_the_optimizer_goes_on_with_what_it_kept():
    class Adam(Net):
        def init_optimizer(self, optimizer_args):
            return torch.optim.Adam(self.model().parameters(), **optimizer_args)

    whole = run(Adam, local(0, 1e9, poisson=False), epochs=2, keep_optimizer_state=True)
    book = StateBook()
    _, half, _ = run(Adam, local(0, 1e9, poisson=False), epochs=1, keep_optimizer_state=True, state=book)
    book = StateBook(book.result())
    reply, _, _ = run(
        Adam,
        local(0, 1e9, poisson=False),
        params=half,
        epochs=1,
        keep_optimizer_state=True,
        state=book,
        acked=0,
        number=1,
    )
    assert reply.state == "kept"
    assert book.values("optimizer")["class"] == "Adam"
    steps = [value for name, value in book.result().arrays.items() if name.endswith("/step")]
    assert {float(step) for step in steps} == {10.0}
    assert whole[0].steps == 10


# the plan's model --------------------------------------------------------------------------------------------


def test_names_stay_and_nothing_of_opacus_is_left(monkeypatch):
    kept = []
    monkeypatch.setattr(PrivateTorchBackend, "discharge", lambda self, do=PrivateTorchBackend.discharge: (
        kept.append(self._hooked is not None), do(self), kept.append(self.model))[0])  # fmt: skip
    _, params, _ = run(dp=local())
    assert list(params) == list(start())
    assert kept[0] is True
    model = kept[1]
    assert not any(
        hasattr(p, name) for p in model.parameters() for name in ("grad_sample", "summed_grad", "_forward_counter")
    )
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_data_may_be_a_torch_dataset_or_nested():
    class Nested(Net):
        def training_data(self):
            return DataManager({"in": [self.dataset.column("x")]}, self.dataset.column("y"))

        def training_step(self, data, target):
            return F.cross_entropy(self.model()(data["in"][0]), target)

    class Mapped(Net):
        def init_dependencies(self):
            return ["from torch.utils.data import Dataset"]

        def training_data(self):
            class Items(Dataset):  # noqa: F821
                def __init__(self, x, y):
                    self.x, self.y = torch.tensor(x), torch.tensor(y)

                def __len__(self):
                    return len(self.x)

                def __getitem__(self, index):
                    return self.x[index], self.y[index]

            return DataManager(Items(self.dataset.column("x"), self.dataset.column("y")))

    expected = run(dp=local(), epochs=2)[1]
    assert run(Nested, local(), epochs=2)[1] == expected
    assert run(Mapped, local(), epochs=2)[1] == expected


def test_a_layer_that_takes_no_part_gets_noise_too():
    class Spare(Net):
        def init_model(self):
            return nn.ModuleDict({"used": nn.Linear(4, 2), "spare": nn.Linear(3, 3)})

        def training_step(self, data, target):
            return F.cross_entropy(self.model()["used"](data), target)

    begin = start(Spare)
    quiet, noisy = run(Spare, local(0.0))[1], run(Spare, local(1.0))[1]
    assert np.array_equal(quiet["spare.weight"], begin["spare.weight"])
    assert not np.array_equal(noisy["spare.weight"], begin["spare.weight"])


# refusals ----------------------------------------------------------------------------------------------------


class BatchNormed(Net):
    def init_model(self):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


class PlainBatchNorm(Net):
    def init_model(self):
        return nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False, track_running_stats=False), nn.Linear(6, 2)
        )


class InPlace(Net):
    def init_model(self):
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("plan_class", "reason", "cure"),
    [
        (
            BatchNormed,
            "BatchNorm cannot support training with differential privacy\\.\nReplace",
            "BatchNorm by GroupNorm",
        ),
        (
            PlainBatchNorm,
            "1 is a BatchNorm1d, which makes the output for a sample depend on the others",
            "ModuleValidator",
        ),
        (InPlace, "1 is a ReLU that works in place", "inplace=True"),
    ],
    ids=["opacus", "no-parameters", "in-place"],
)
def test_models_that_cannot_be_protected_are_refused_at_the_researcher_and_at_the_node(plan_class, reason, cure):
    plan = plan_class()
    plan.setup(PlanSetup(), with_optimizer=False)
    was = plan.model().training
    with pytest.raises(PlanError, match=reason) as caught:
        plan.check_args(TrainingArgs.from_dict({"dp_args": local()}))
    assert cure.lower() in caught.value.cure.lower()
    assert plan.model().training == was
    with pytest.raises(PlanRunError, match=reason):
        run(plan_class, local())
    plan.check_args(TrainingArgs.from_dict({"dp_args": {"sigma": 1, "clip": 1}}))  # central asks nothing of it


def test_the_fix_that_is_named_works():
    class Fixed(BatchNormed):
        def init_model(self):
            return opacus.validators.ModuleValidator.fix(
                nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
            )

        def init_dependencies(self):
            return ["import opacus"]

    import opacus

    globals()["opacus"] = opacus
    assert "dp_epsilon" in run(Fixed, local())[0].metrics


def test_without_opacus_the_cure_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "opacus"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "opacus", None)
    for call in (lambda: run(dp=local()), start_checked):
        with pytest.raises(UsageError, match="needs Opacus") as caught:
            call()
        assert "pip install 'fedplug-torch[dp]'" in caught.value.cure
    assert run(dp={"sigma": 1, "clip": 1})[0].steps == 5  # central needs nothing


def start_checked():
    plan = Net()
    plan.setup(PlanSetup(), with_optimizer=False)
    plan.check_args(TrainingArgs.from_dict({"dp_args": local()}))


class Penalty(Net):
    def training_step(self, data, target):
        penalty = sum(p.square().sum() for p in self.model().parameters())
        return F.cross_entropy(self.model()(data), target) + 0.01 * penalty


class Rows(Net):
    def training_step(self, data, target):
        out = self.model()[3](self.model()[0](data.reshape(-1, 4).repeat(2, 1)))
        return F.cross_entropy(out[: len(target)], target)


class OwnBackend(Net):
    def make_backend(self):
        from fedplug_torch.backend import TorchBackend

        return TorchBackend(self)


class TwoModels(Net):
    def make_trainer(self, backend, data, **options):
        from fedplug.core.trainer import MultiModelTrainer

        return MultiModelTrainer(2, backend=backend, data=data, **options)


class Counting(Net):
    def init_model(self):
        model = nn.Sequential(nn.Linear(4, 2), nn.Identity())
        model[1].register_buffer("seen", torch.zeros(()))
        return model

    def training_step(self, data, target):
        self.model()[1].seen += data.sum()
        return F.cross_entropy(self.model()(data), target)


class Twice(Net):
    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)

    @hook("on_batch_backward")
    def again(self, ctx):
        ctx.backend.backward(ctx.backend.forward(*ctx.data_batch))

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook"]


class Outbox(Net):
    @hook("on_fit_end")
    def send(self, ctx):
        ctx.outbox["mine"] = Params.from_arrays({"a": [1.0]})

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook", "from fedplug import Params"]


class Post(Net):
    def postprocess(self, params):
        return params


class Before(Net):
    """Writes rows of the data into the weights before the training."""

    def training_data(self):
        with torch.no_grad():
            self.model()[0].weight[:] = torch.tensor(self.dataset.column("x")[:6])
        return super().training_data()


class During(Net):
    def training_step(self, data, target):
        self.model()[0].weight.data[0] = data[0]  # torch counts no version of this
        return super().training_step(data, target)


class Afterwards(Net):
    def testing_step(self, data, target):
        self.model()[3].bias.data[:] = data[0, :2]
        return {"m": 1.0}


class AtTheEnd(Net):
    @hook("on_fit_end")
    def write(self, ctx):
        ctx.backend.set_params(Params.from_arrays({n: a + 1 for n, a in ctx.backend.get_params().items()}))

    def init_dependencies(self):
        return ["from fedplug.core.trainer import hook", "from fedplug import Params"]


class OwnReading(Net):
    def get_params(self, allocate=None):
        return super().get_params(allocate).map(lambda a: a + 1 if self.node_id() and self._trained else a)

    _trained = False

    def read_optimizer(self):
        self._trained = True
        return super().read_optimizer()


@pytest.mark.parametrize(
    ("plan_class", "dp", "reason"),
    [
        (Penalty, local(), "A part of the loss does not come from the samples"),
        (Rows, local(), "one gradient for each sample of a batch, but a layer gave"),
        (OwnBackend, local(), "made a backend that does not protect"),
        (TwoModels, local(), "trains one model"),
        (Counting, local(), "Training has changed '1.seen'"),
        (Twice, local(), "takes one gradient of each batch"),
        (Post, local(), "but postprocess changes the parameters after the training"),
        (Before, local(), "Something else than the optimizer's steps has changed '0.weight'"),
        (During, local(), "Something else than the optimizer's steps has changed '0.weight'"),
        (Afterwards, local(), "Something else than the optimizer's steps has changed '3.bias'"),
        (AtTheEnd, local(), "Something else than the optimizer's steps has changed '0.weight'"),
        (OwnReading, local(), "Something else than the optimizer's steps has changed '0.weight'"),
        (Outbox, local(), "would send 'mine' beside the parameters"),
        (Outbox, {"sigma": 1, "clip": 1}, "would send 'mine' beside the parameters"),
        (BatchNormed, {"sigma": 1, "clip": 1}, "'1.num_batches_tracked' is int64"),
    ],
)
def test_what_the_noise_would_not_cover_is_refused(plan_class, dp, reason):
    args = {"loader_args": {"batch_size": 64}} if plan_class is Rows else {}
    if plan_class is Afterwards:
        args = {"test_ratio": 0.2, "test_on_local_updates": True}
    if plan_class is OwnReading:
        args = {"keep_optimizer_state": True}
    with pytest.raises((UsageError, PlanRunError), match=reason) as caught:
        run(plan_class, dp, **args)
    assert caught.value.cure


def test_central_privacy_covers_whatever_has_changed_the_parameters():
    for plan_class in (Post, Before, During, AtTheEnd):
        begin = start(plan_class)
        _, params, _ = run(plan_class, {"sigma": 1, "clip": 0.01})
        assert 0 < update_norm(begin, params) <= 0.01


class Kept(Net):
    def tag_parameters(self, name):
        return {"persistent"} if name.startswith("3.") else set()


def test_parameters_that_a_node_goes_on_from_are_where_private_training_begins():
    book = StateBook()
    params = run(Kept, local(), state=book)[1]
    reply, _, _ = run(Kept, local(), params=params, state=StateBook(book.result()), acked=0, number=1)
    assert reply.state == "kept"
    assert "dp_epsilon" in reply.metrics


def test_a_training_that_comes_to_nothing_is_not_called_a_change():
    _, params, _ = run(dp=local(1.0, 1e6), num_updates=1, optimizer_args={"lr": 1e38})
    assert not all(np.isfinite(params[name]).all() for name in params)


def test_the_cures_for_buffers_work():
    kept = {"share_persistent_buffers": False}
    assert run(Counting, local(), params=without_buffers(Counting), **kept)[0].steps == 5
    assert run(BatchNormed, {"sigma": 1, "clip": 1}, params=without_buffers(BatchNormed), **kept)[0].steps == 5


def without_buffers(plan_class) -> Params:
    plan = plan_class()
    plan.setup(
        PlanSetup(training_args=TrainingArgs.from_dict({"share_persistent_buffers": False})), with_optimizer=False
    )
    return plan.get_params()


def test_importing_opacus_leaves_the_programs_logging_alone(monkeypatch, tmp_path):
    (tmp_path / "opacus.py").write_text("import logging; logging.basicConfig(level=1, force=True)")  # as it does
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "opacus", raising=False)
    root = logging.getLogger()
    before = list(root.handlers), root.level
    require_opacus()
    assert sys.modules["opacus"].__file__ == str(tmp_path / "opacus.py")
    assert (list(root.handlers), root.level) == before
