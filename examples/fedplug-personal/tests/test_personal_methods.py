"""The methods against NumPy loops of a few lines, on NumPy and on torch plans; tolerance 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedplug_personal import Ditto, DittoTrainer, FedEM, FineTuning, MixtureTrainer

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import PlanError
from fedplug.core.local_state import StateBook
from fedplug.core.trainer import Phase
from fedplug.core.trainer.plan_trainer import plan_trainer
from fedplug.core.trainer.result import complete_sums
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug_torch import TorchTrainingPlan
from fedplug_torch.data import wrap

RNG = np.random.default_rng(5)
X, TEST_X = RNG.normal(size=(8, 3)), RNG.normal(size=(5, 3))
Y, TEST_Y = X @ [1.0, -2.0, 0.5] + 3, TEST_X @ [1.0, -2.0, 0.5] + 3
START = {"head.bias": np.array([0.2]), "head.weight": np.array([[0.1, 0.3, -0.2]])}
RATE = 0.05


class NumpyLine(NumpyTrainingPlan):
    def init_model(self, model_args):
        # The stream that a node seeds before it asks for a model.
        return {"head.weight": np.random.normal(size=(1, 3)), "head.bias": np.random.normal(size=1)}  # noqa: NPY002

    def forward(self, data):
        return data @ self.model()["head.weight"][0] + self.model()["head.bias"]

    def training_data(self):
        raise NotImplementedError

    def training_step(self, data, target):
        return self.weighted_step(data, target, np.ones(len(data)))

    def weighted_step(self, data, target, weights):
        error = self.forward(data) - target
        slope = 2 * weights * error / len(data)
        return (weights * error**2).mean(), {"head.weight": slope[None] @ data, "head.bias": slope.sum()}

    def testing_step(self, data, target):
        return {"mse": ((self.forward(data) - target) ** 2).mean()}


class TorchLine(TorchTrainingPlan):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 1, dtype=torch.float64)

        def forward(self, data):
            return self.head(data)[:, 0]

    def init_model(self, model_args):
        return self.Net()

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), **optimizer_args)

    def training_data(self):
        raise NotImplementedError

    def training_step(self, data, target):
        return ((self.forward(data) - target) ** 2).mean()

    def testing_step(self, data, target):
        return {"mse": ((self.forward(data) - target) ** 2).mean()}


class Mixed(FedEM):
    components = 3

    def sample_losses(self, output, target):
        return (output - target) ** 2


BASES = {"numpy": NumpyLine, "torch": TorchLine}
PLANS = {
    (name, method): type(f"{method.__name__}{name}", (method, base), {})
    for name, base in BASES.items()
    for method in (Ditto, FineTuning)
}


class NumpyMixed(Mixed, NumpyLine):
    weighted_step = NumpyLine.weighted_step


class TorchMixed(Mixed, TorchLine):
    pass


MIXED = {"numpy": NumpyMixed, "torch": TorchMixed}


@pytest.fixture(params=sorted(BASES))
def name(request):
    return request.param


def start(plan_class, start=START, *, args=None, model_args=None, state=None):
    plan = plan_class()
    training = {"epochs": 2, "optimizer_args": {"lr": RATE}, "test_ratio": 0.5, **(args or {})}
    book = state if state is not None else StateBook()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    plan.setup(PlanSetup(model_args or {}, TrainingArgs.from_dict(training), node_id="lyon", state=book))
    if start is not None:
        plan.set_params(Params.from_arrays({name: start[name] for name in plan.get_params()}))
    make = (
        (lambda x, y: wrap(DataManager(torch.tensor(x), torch.tensor(y)))) if plan.framework == "torch" else ArrayData
    )
    data = {"train": make(X, Y), "test": make(TEST_X, TEST_Y)}
    return plan, plan_trainer(plan, data, LoaderArgs(4, shuffle=False), 1)


def flat(params):
    return np.append(params["head.weight"][0], params["head.bias"])


def gradient(theta, batch, weights=None):
    x, y = np.column_stack([X, np.ones(8)])[batch], Y[batch]
    weights = np.ones(len(y)) if weights is None else weights[batch]
    return 2 * x.T @ (weights * (x @ theta - y)) / len(y)


def mse(theta):
    return float(((np.column_stack([TEST_X, np.ones(5)]) @ theta - TEST_Y) ** 2).mean())


BATCHES = [slice(0, 4), slice(4, 8)]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


# Ditto -----------------------------------------------------------------------------------------------------


def test_check_46_ditto_equals_algorithm_1_by_hand(name):
    settings = {"ditto_lambda": 0.7, "personal_steps": 3, "personal_optimizer_args": {"lr": 0.02}}
    book, w, v = StateBook(), flat(START), flat(START)
    for number in range(2):
        begin = {"head.weight": w[None, :3], "head.bias": w[3:]}
        plan, trainer = start(PLANS[name, Ditto], begin, model_args=settings, state=book)
        assert isinstance(trainer, DittoTrainer)
        before = trainer.evaluate().metrics
        close([before["mse"], before["mse_of_global"]], [mse(v), mse(w)])
        result = trainer.train()
        sent = w.copy()
        for step in range(4):
            w = w - RATE * gradient(w, BATCHES[step % 2])
        for step in range(3):
            v = v - 0.02 * (gradient(v, BATCHES[step % 2]) + 0.7 * (v - sent))
        close(flat(plan.get_params()), w)
        close(flat(trainer.personal.get_params()), v)
        after = trainer.evaluate().metrics
        close([after["mse"], after["mse_of_global"]], [mse(v), mse(w)])
        # What is reported is the global model's alone.
        assert (result.steps, result.num_samples) == (4, 16)
        assert [(slot.steps, slot.num_samples) for slot in result.slots] == [(4, 16), (3, 12)]
        assert result.params == plan.get_params()
        assert set(result.params) == set(START)
        assert number == 0 or abs(v - w).max() > 0.01
        book = StateBook(book.result())


def test_ditto_sends_the_bits_of_plain_training(name):
    args = {"loader_args": {"batch_size": 4}}
    plain, trainer = start(BASES[name], args=args)
    trainer.train()
    ditto, trainer = start(PLANS[name, Ditto], args=args)
    trainer.evaluate()
    trainer.train()
    assert ditto.get_params() == plain.get_params()


def test_lambda_0_is_local_training_and_a_large_one_stays_at_the_global_model(name):
    _, free = start(PLANS[name, Ditto], model_args={"ditto_lambda": 0})
    free.train()
    close(flat(free.personal.get_params()), flat(free.get_params()))
    _, bound = start(PLANS[name, Ditto], model_args={"ditto_lambda": 1 / RATE})  # one step undoes the last one
    bound.train()
    assert (
        abs(flat(bound.personal.get_params()) - flat(START)).max()
        < 0.5 * abs(flat(free.personal.get_params()) - flat(START)).max()
    )


# the mixture -----------------------------------------------------------------------------------------------


def losses_of(thetas):
    return (np.column_stack([X, np.ones(8)]) @ np.array(thetas).T - Y[:, None]) ** 2


def thetas_of(params):
    return [np.append(params[f"{i}/head.weight"][0], params[f"{i}/head.bias"]) for i in range(3)]


def test_check_44_the_mixture_equals_the_e_and_m_steps_by_hand(name):
    book, values = StateBook(), None
    pi = np.full(3, 1 / 3)
    for _ in range(2):
        plan, trainer = start(MIXED[name], values, state=book)
        assert isinstance(trainer, MixtureTrainer)
        thetas = thetas_of(plan.get_params())
        assert len({tuple(theta) for theta in thetas}) == 3
        close(trainer.weights, pi)
        trainer.train()
        q = pi * np.exp(-losses_of(thetas))
        q /= q.sum(axis=1, keepdims=True)
        pi = q.mean(axis=0)
        for m in range(3):
            for step in range(4):
                thetas[m] = thetas[m] - RATE * gradient(thetas[m], BATCHES[step % 2], q[:, m])
        close(trainer.responsibilities, q)
        close(trainer.weights, pi)
        close(thetas_of(plan.get_params()), thetas)
        outputs = np.column_stack([TEST_X, np.ones(5)]) @ np.array(thetas).T
        close(trainer.evaluate().metrics["loss"], ((outputs @ pi - TEST_Y) ** 2).mean())
        values, book = plan.get_params(), StateBook(book.result())


def test_check_44_the_e_step_evaluates_each_model_once(name):
    _, trainer = start(MIXED[name], None)
    calls = []
    for slot in trainer.slots:
        predict = slot.backend.predict
        slot.backend.predict = lambda data, i=slot.name, predict=predict: (calls.append(i), predict(data))[1]
    trainer.expectation()
    assert calls == ["0", "1", "2"]


def test_check_44_the_weights_reach_the_gradient(name):
    _, trainer = start(MIXED[name], None)
    before = thetas_of(trainer.get_params())
    trainer.weights = np.array([0.0, 0.0, 1.0])
    trainer.train()
    after = thetas_of(trainer.get_params())
    assert (after[0] == before[0]).all()
    assert (after[1] == before[1]).all()
    plain = before[2]
    for step in range(4):
        plain = plain - RATE * gradient(plain, BATCHES[step % 2])
    close(after[2], plain)


def test_shuffled_batches_find_their_own_weights(name):
    plan, trainer = start(MIXED[name], None, args={"epochs": 1})
    trainer.loader = LoaderArgs(3, shuffle=True)
    thetas = thetas_of(plan.get_params())
    trainer.train()
    order = trainer.seed.child("epoch", 0).generator().permutation(8)
    for m in range(3):
        for batch in (order[:3], order[3:6], order[6:]):
            thetas[m] = thetas[m] - RATE * gradient(thetas[m], batch, trainer.responsibilities[:, m])
    close(thetas_of(plan.get_params()), thetas)


def test_a_mixture_refuses_what_makes_no_sense(name):
    with pytest.raises(PlanError, match="components must be a whole number >= 2"):
        start(MIXED[name], None, model_args={"components": 1})

    with pytest.raises(PlanError, match="cannot keep them between rounds"):
        start(MIXED[name], None, args={"keep_optimizer_state": True})

    def tag_parameters(self, parameter):
        return {"local"} if self.matches(parameter, "*.bias") else set()

    tagged = type("Tagged", (MIXED[name],), {"tag_parameters": tag_parameters})
    with pytest.raises(PlanError, match="shares all parameters"):
        start(tagged, None)


# fine-tuning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [[], ["*.bias"]], ids=["all", "bias"])
def test_fine_tuning_equals_steps_by_hand(name, layers):
    settings = {"finetune_steps": 3, "finetune_layers": layers, "finetune_optimizer_args": {"lr": 0.02}}
    plan, trainer = start(PLANS[name, FineTuning], model_args=settings)
    found = trainer.evaluate().metrics
    moves = np.array([0, 0, 0, 1]) if layers else np.ones(4)
    theta = flat(START)
    for step in range(3):
        theta = theta - 0.02 * moves * gradient(theta, BATCHES[step % 2])
    close([found["mse"], found["mse_of_global"]], [mse(theta), mse(flat(START))])
    close(flat(plan.get_params()), flat(START))


def test_fine_tuning_sends_the_bits_of_plain_training(name):
    plain, trainer = start(BASES[name])
    trainer.loader = LoaderArgs(3)
    expected = trainer.train()
    plan, trainer = start(PLANS[name, FineTuning], model_args={"finetune_steps": 5})
    trainer.loader = LoaderArgs(3)
    trainer.evaluate()
    result = trainer.train()
    trainer.evaluate()
    assert plan.get_params() == plain.get_params() == result.params
    assert (result.steps, result.num_samples, result.metrics) == (
        expected.steps,
        expected.num_samples,
        expected.metrics,
    )
    assert trainer.args.num_updates is None


def test_weight_decay_and_momentum_move_no_frozen_layer():
    settings = {
        "finetune_steps": 4, "finetune_layers": ["head.bias"],
        "finetune_optimizer_args": {"momentum": 0.9, "weight_decay": 0.5},
    }  # fmt: skip
    _, trainer = start(PLANS["torch", FineTuning], model_args=settings)
    tuned = trainer.tuned().get_params()
    assert (tuned["head.weight"] == START["head.weight"]).all()
    assert (tuned["head.bias"] != START["head.bias"]).all()


@pytest.mark.parametrize(
    ("method", "bad", "message"),
    [
        (Ditto, {"ditto_lambda": -1}, "ditto_lambda must be a number >= 0, got -1"),
        (Ditto, {"personal_steps": 0}, "personal_steps must be a whole number >= 1 or None, got 0"),
        (FineTuning, {"finetune_layers": "head"}, "finetune_layers must be a list of names, got 'head'"),
        (FineTuning, {"finetune_optimizer_args": 3}, "finetune_optimizer_args must be a dict, got 3"),
    ],
)
def test_settings_are_checked(method, bad, message):
    with pytest.raises(PlanError, match=message):
        start(PLANS["numpy", method], model_args=bad)


def test_the_table_shows_whose_hooks_they_are():
    _, trainer = start(PLANS["numpy", Ditto])
    own = [(row.model, row.trigger, row.name) for row in trainer.describe() if row.plugin == "personal"]
    assert own == [(1, "plan_routine", "personal_steps"), (1, "on_batch_backward", "ditto")]
    assert [row.phase for row in trainer.describe() if row.name == "ditto"] == [Phase.TRAIN.value]


def test_a_kept_optimizer_is_not_the_one_of_fine_tuning():
    args = {"keep_optimizer_state": True, "optimizer_args": {"lr": RATE, "momentum": 0.9}}
    plain, trainer = start(BASES["torch"], args=args)
    trainer.train()
    plan, trainer = start(PLANS["torch", FineTuning], args=args, model_args={"finetune_steps": 5})
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    assert plan.read_optimizer()[0] == plain.read_optimizer()[0]
    assert len(plan.read_optimizer()[0]) == 2


# test_metric -----------------------------------------------------------------------------------------------


MEASURED = {"test_metric": ["mean_squared_error"]}


@pytest.mark.parametrize("method", [Ditto, FineTuning])
def test_metrics_and_their_sums_are_those_of_the_personal_model(name, method):
    _, trainer = start(PLANS[name, method], args=MEASURED)
    trainer.train()
    result = trainer.evaluate()
    found = result.metrics
    close([found["mean_squared_error"], found["mean_squared_error_of_global"]], [found["mse"], found["mse_of_global"]])
    assert abs(found["mse"] - found["mse_of_global"]) > 1e-6
    count, total = complete_sums(result, trainer.metrics)["metric/mean_squared_error"]
    assert (count, total / count) == (5, found["mean_squared_error"])


def test_a_mixture_is_measured_as_a_whole(name):
    _, trainer = start(MIXED[name], None, args=MEASURED)
    trainer.train()
    result = trainer.evaluate()
    close(result.metrics["mean_squared_error"], result.metrics["loss"])  # its loss is the squared error too
    assert complete_sums(result, trainer.metrics)["metric/mean_squared_error"][0] == 5
