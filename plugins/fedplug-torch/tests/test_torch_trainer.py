"""The trainer's acceptance checks where PyTorch has a part in them, by number."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from fedplug import DataManager
from fedplug.core.data import ArrayData
from fedplug.core.errors import PlanError, UsageError
from fedplug.core.trainer import MultiModelTrainer, Phase, Trainer, collect_outputs, control_variates, hook
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.backend import TorchModelBackend

RNG = np.random.default_rng(2)
X = torch.tensor(RNG.normal(size=(20, 4)))
Y = torch.tensor(RNG.integers(0, 3, 20))


def net(extra=()):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), *extra, nn.Linear(5, 3)).double()


def trainer(model=None, batch=8, momentum=0.0, scheduler=None, unit="epoch", data=None, **more):
    options = {k: more.pop(k) for k in ("optimizer_state", "report") if k in more}
    backend = TorchModelBackend(model or net(), nn.CrossEntropyLoss(), scheduler=scheduler, scheduler_unit=unit)
    args = {"loader_args": {"batch_size": batch}, "optimizer_args": {"lr": 0.1, "momentum": momentum}, **more}
    return Trainer(backend, data or {"train": (X, Y), "test": (X, Y)}, args=args, seed=3, **options)


def by_hand(batch=20, steps=3, mu=0.0, limit=0.0, correction=None):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = [p.detach().clone() for p in model.parameters()]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(model(X), Y)
        gap = sum(((p - s) ** 2).sum() for p, s in zip(model.parameters(), start, strict=True))
        losses.append((loss.item(), mu / 2 * gap.item()))
        (loss + mu / 2 * gap).backward()
        for name, p in model.named_parameters():
            p.grad += correction[name] if correction else 0
        if limit:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
    return model, losses


def same(params, model, exact=False):
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(params[name], tensor.numpy(), rtol=0 if exact else 1e-12, atol=0 if exact else 1e-12)


@pytest.mark.parametrize("data", ["pair", "dataset", "loader", "dict"])
def test_check_28_forms_of_data(data):
    dataset = torch.utils.data.TensorDataset(X, Y)
    given = {
        "pair": (X, Y), "dataset": dataset, "dict": {"x": X, "y": Y},
        "loader": torch.utils.data.DataLoader(dataset, batch_size=8, drop_last=True),
    }[data]  # fmt: skip
    t = trainer(data={"train": given, "test": given})
    assert t.train().num_samples == (16 if data == "loader" else 20)
    assert t.evaluate().num_samples == 20  # check 6: the tail too, though the loader drops it


def test_check_22_24_modes_and_gradients_are_restored():
    t = trainer(net([nn.BatchNorm1d(5).double()]))
    plain = trainer(net([nn.BatchNorm1d(5).double()]))
    seen = []

    def inside(ctx):
        assert ctx.model.training
        before = [p.grad.clone() for p in ctx.model.parameters()]
        ctx.trainer.evaluate()
        assert ctx.model.training
        assert torch.is_grad_enabled()
        assert all(torch.equal(a, p.grad) for a, p in zip(before, ctx.model.parameters(), strict=True))

    t.hooks_in_train.add(inside, "on_batch_backward", before="step")
    t.hooks_in_eval.add(
        lambda ctx: seen.append((ctx.model.training, torch.is_grad_enabled())), "on_batch_end", name="s"
    )
    assert t.train().params == plain.train().params
    assert set(seen) == {(False, False)}
    t.ctx.model.eval()
    t.hooks_in_train.replace(inside, lambda ctx: 1 / 0, name="fail")
    with pytest.raises(ZeroDivisionError):
        t.train()
    assert not t.ctx.model.training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in t.ctx.model.parameters())


def test_check_26_batches_and_optimizer_state_are_freed():
    t = trainer(momentum=0.9)
    alive = []

    def look(ctx):
        alive.extend([weakref.ref(ctx.y_prob), weakref.ref(ctx.loss_task), weakref.ref(ctx.optimizer)])

    t.hooks_in_train.add(look, "on_batch_end")
    t.train()
    gc.collect()
    assert [ref() for ref in alive] == [None] * 9


@pytest.mark.parametrize("policy", ["keep", "per_routine"])
@pytest.mark.parametrize("unit", ["batch", "epoch", "round"])
def test_check_33_resumed_equals_uninterrupted(policy, unit, tmp_path):
    def make():
        torch.manual_seed(5)
        model = net([nn.Dropout(0.5)])
        return trainer(
            model, momentum=0.9, epochs=2, optimizer_state=policy, unit=unit,
            scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
        )  # fmt: skip

    whole, first = make(), make()
    torch.manual_seed(6)
    whole.train()
    expected = whole.train().params
    torch.manual_seed(6)
    first.train()
    first.save_model(tmp_path / "t", 4)
    torch.manual_seed(7)
    second = make()
    assert second.load_model(tmp_path / "t") == 4
    found = second.train().params
    assert found == expected


@pytest.mark.parametrize(
    ("unit", "rates"), [("batch", [0.0125, 0.0125]), ("epoch", [0.05, 0.05]), ("round", [0.1, 0.05])]
)
def test_scheduler_steps_per_unit(unit, rates):
    t = trainer(unit=unit, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5))
    seen = []
    t.hooks_in_train.add(lambda ctx: seen.append(ctx.optimizer.param_groups[0]["lr"]), "on_epoch_end", name="rate")
    if unit == "epoch":
        t.hooks_in_train.remove("rate")
        t.hooks_in_train.add(lambda ctx: seen.append(ctx.optimizer.param_groups[0]["lr"]), "on_fit_end", name="rate")
    t.train()
    t.train()
    assert seen == pytest.approx(rates)


def test_check_39_parallel_models_match_separate_trainings():
    base = trainer(epochs=2, momentum=0.9)
    multi = MultiModelTrainer(2, "parallel", base_trainer=base)
    multi.update({name: array * (2 if name[0] == "1" else 1) for name, array in multi.get_params().items()})
    alone = [trainer(epochs=2, momentum=0.9) for _ in range(2)]
    alone[1].update({name: array * 2 for name, array in alone[1].get_params().items()})
    multi.train()
    for slot, one in zip(multi.slots, alone, strict=True):
        assert slot.backend.get_params() == one.train().params


def test_check_45_fedprox_on_torch():
    t = trainer(batch=20, num_updates=3, fedprox_mu=0.7)
    seen = []
    t.hooks_in_train.add(
        lambda ctx: seen.append((ctx.loss_batch.item(), float(ctx.loss_regular), ctx.loss_task.item())),
        "on_batch_end",
        name="s",
    )
    model, losses = by_hand(mu=0.7)
    same(t.train().params, model)
    for (base, regular, task), (loss, term) in zip(seen, losses, strict=True):
        assert (base, regular, task) == pytest.approx((loss, term, loss + term))


def test_clipping_and_control_variates_on_torch():
    shapes = {name: p.shape for name, p in net().named_parameters()}
    own = {name: torch.full(shape, 0.3).double().numpy() for name, shape in shapes.items()}
    common = {name: torch.full(shape, 0.1).double().numpy() for name, shape in shapes.items()}
    correction = {name: torch.tensor(common[name] - own[name]) for name in own}
    t = trainer(batch=20, num_updates=3, grad_clip=0.5)
    t.install("scaffold", control_variates())
    t.ctx.inbox = {"control_variate": common, "own_control_variate": own}
    same(t.train().params, by_hand(limit=0.5, correction=correction)[0])


def test_outputs_of_all_batches():
    t = trainer()
    t.hooks_in_eval.add(collect_outputs, "on_batch_end")
    t.evaluate(batch_size=8)
    assert torch.equal(torch.cat(t.ctx.test_y_true), Y)
    with torch.no_grad():
        assert torch.allclose(torch.cat(t.ctx.test_y_prob), t.ctx.model(X))
    assert torch.allclose(t.ctx.backend.predict(X), torch.cat(t.ctx.test_y_prob))


class Plan(TorchTrainingPlan):
    def init_model(self):
        return net()

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        return DataManager(X, Y)

    def training_step(self, data, target):
        return nn.functional.cross_entropy(self.forward(data), target)

    @hook("on_batch_end")
    def count(self, ctx):
        self.seen = getattr(self, "seen", 0) + 1


def plan():
    made = Plan()
    made.setup(
        PlanSetup(
            training_args=TrainingArgs.from_dict({"loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}})
        )
    )
    return made


def test_methods_of_a_plan_can_be_hooks_and_plans_can_be_many():
    one = plan()
    t = plan_trainer(one, {"train": ArrayData(X, Y)}, seed=3)
    assert ("count", "") in {(row.name, row.plugin) for row in t.describe()}
    alone = t.train().params
    assert one.seen == 3
    assert alone == trainer().train().params
    multi = MultiModelTrainer(2, base_trainer=plan_trainer(plan(), {"train": ArrayData(X, Y)}, seed=3))
    result = multi.train()
    assert result.params["0/0.weight"].tolist() == result.params["1/0.weight"].tolist()
    assert alone["0.weight"].tolist() == result.params["1/0.weight"].tolist()


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="cannot be made from"):
        trainer(optimizer_args={"speed": 1}).train()
    made = Plan()
    made.setup(PlanSetup(), with_optimizer=False)
    backend = made.make_backend()
    with pytest.raises(PlanError, match="without an optimizer"):
        backend.prepare("train")


@pytest.mark.parametrize("frees", [True, False])
def test_a_layer_that_is_freed_or_frozen_during_a_training_is_no_reason_to_fail(frees):
    model = net()
    for parameter in model[0].parameters():
        parameter.requires_grad_(not frees)
    t = trainer(model, batch=20, num_updates=4, fedprox_mu=0.5)
    arrays = {name: np.ones(tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad}
    t.ctx.inbox["control_variate"] = arrays
    for each in control_variates():
        t.add_hook(each)
    before = {}

    @hook("on_batch_start")
    def change(ctx):
        if ctx.cur_epoch_i + ctx.cur_batch_i == 2:
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})
            for parameter in model[0].parameters():
                parameter.requires_grad_(frees)
                parameter.grad = None

    t.add_hook(change)
    t.train()
    moved = {name: not torch.equal(p, before[name]) for name, p in model.named_parameters()}
    # a layer that is freed is none of the optimizer's, which was made before
    assert moved == {"0.weight": False, "0.bias": False, "2.weight": True, "2.bias": True}


class Counted(nn.Linear):
    """Its own ``train`` is called, whatever mode it is in."""

    calls = 0

    def train(self, mode=True):
        self.calls += 1
        return super().train(mode)


def test_a_module_is_put_into_a_mode_where_a_part_of_it_is_in_another_or_has_a_train_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    backend = TorchModelBackend(model, nn.functional.mse_loss)
    backend.make_optimizer({"lr": 0.1})
    model[1].eval()
    backend.prepare(Phase.TRAIN)
    assert model[1].training
    backend.prepare(Phase.EVAL)
    assert not any(part.training for part in model.modules())
    backend.release()
    assert all(part.training for part in model.modules())
    own = Counted(2, 2)
    backend = TorchModelBackend(own, nn.functional.mse_loss)
    backend.make_optimizer({"lr": 0.1})
    before = own.calls
    backend.prepare(Phase.TRAIN)
    backend.release()
    assert own.calls == before + 2
