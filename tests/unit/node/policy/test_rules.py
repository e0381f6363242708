"""Requests against the rules of a node, and the accounts of its data sets."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.data import LoaderArgs
from fedplug.core.errors import RefusedError, StoreError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard, TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugin_checks import PluginRecord
from fedplug.core.rdp import ORDERS, epsilon
from fedplug.core.training_args import TrainingArgs
from fedplug.node.policy.budget import Budget, cost
from fedplug.node.policy.file import parse_policy
from fedplug.node.policy.rules import check_request
from fedplug.node.policy.terms import Accounted, Terms
from fedplug.node.store import NodeStore

CARD = DatasetCard(dataset_id="ds-1", name="patients", type="csv", tags=("t",), shape=(100, 5))
SOURCE = (
    "class P(NumpyTrainingPlan):\n    def training_data(self):\n        import scipy.linalg as la\n        return la\n"
)
LOCAL = {"type": "local", "sigma": 1.0, "clip": 1.0}


def task(args=None, number=0, attempt=0, aux=(), source=SOURCE, helpers=None, train=True):
    key = TaskKey(experiment_id="e", round=number, node_id="n", attempt=attempt)
    request = TrainRequest(
        key=key, dataset_id="ds-1", plan_class="P", training_args=args or {}, aux=tuple(aux), train=train
    )
    lines = ("import numpy as np", "from fedplug_torch import TorchTrainingPlan")
    return TaskReceived(request, PlanBundle("P", source, lines, helpers or {}), Params.from_arrays({}))


def policy(text, tmp_path=None):
    found, problems = parse_policy(text, None if tmp_path is None else tmp_path / "node.toml")
    assert problems == []
    return found


def refusal(text, tmp_path, given=None, card=CARD, plugins=()):
    with pytest.raises(RefusedError) as caught:
        check_request(policy(text, tmp_path), given or task(), card, plugins)
    assert caught.value.code == "policy"
    assert caught.value.cure
    assert str(tmp_path) not in str(caught.value)
    return caught.value.message


def test_without_rules_everything_passes():
    assert check_request(policy(""), task(aux=["any"]), CARD) == Terms()


@pytest.mark.parametrize(
    ("rule", "args", "said"),
    [
        ("batch_size = { min = 40 }", {}, "batch_size must be at least 40; the request comes to 32"),
        ("batch_size = { min = 8 }", {"loader_args": {"batch_size": 4}}, "comes to 4"),
        ("epochs = { max = 2 }", {"epochs": 3}, "epochs must be at most 2; the request comes to 3"),
        ("epochs = { max = 2 }", {"num_updates": 13, "loader_args": {"batch_size": 20}}, "the request comes to 2.6"),
        ("num_updates = { max = 10 }", {"epochs": 3, "loader_args": {"batch_size": 25}}, "the request comes to 12"),
        ("lr = { min = 1e-4 }", {"optimizer_args": {"lr": 0.0}}, "lr must be at least 0.0001; the request comes to 0"),
        ("fedprox_mu = { max = 0.1 }", {"fedprox_mu": 1.0}, "the request comes to 1"),
        ("fedprox_mu = { min = 0.1 }", {}, "the request comes to 0"),
        ("share_persistent_buffers = false", {}, "must be False; the request comes to True"),
        ('"optimizer_args.momentum" = { max = 0.5 }', {"optimizer_args": {"momentum": 0.9}}, "comes to 0.9"),
        ("optimizer_args.momentum = { max = 0.5 }", {"optimizer_args": {"momentum": 0.9}}, "comes to 0.9"),
        ("sigma = { min = 2 }", {"dp_args": LOCAL}, "sigma must be at least 2; the request comes to 1"),
        ("test_ratio = [0.0, 0.2]", {"test_ratio": 0.5}, "must be 0.0 or 0.2"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_line(tmp_path, rule, args, said):
    message = refusal(f"[training.arguments]\n\n{rule}\n", tmp_path, task(args))
    assert said in message
    assert "node.toml, line 3" in message


def test_an_argument_that_stands_in_several_groups_must_fit_in_each(tmp_path):
    args = {"loader_args": {"lr": 0.1}, "optimizer_args": {"lr": 1e-12}}
    assert "comes to 1e-12" in refusal("[training.arguments]\nlr = { min = 1e-4 }\n", tmp_path, task(args))


def test_a_default_is_checked_wherever_the_rule_looks_for_it(tmp_path):
    for name in ("batch_size", "loader_args.batch_size", '"loader_args.batch_size"'):
        text = f"[training.arguments]\n{name} = {{ min = 33 }}\n"
        assert "comes to 32" in refusal(text, tmp_path)
    assert "comes to 0.001" in refusal("[training.arguments]\noptimizer_args.lr = { max = 1e-4 }\n", tmp_path)


def held(terms, batch_size, samples, **args):
    """Hold terms against a plan that gives a batch size of its own to its `DataManager`."""
    terms.check(TrainingArgs.from_dict(args), LoaderArgs(batch_size), samples)


def test_the_bounds_themselves_are_allowed_and_the_plan_is_held_to_them():
    rules = policy("[training.arguments]\nbatch_size = { min = 30, max = 32 }\nmomentum = { min = 1 }\n")
    terms = check_request(rules, task(), CARD)
    held(terms, 30, 100)
    with pytest.raises(RefusedError, match=r"arguments\.batch_size.*from 30 to 32; the request comes to 1\."):
        held(terms, 1, 100)


def test_a_plan_cannot_lengthen_its_training_by_smaller_batches_or_more_samples(tmp_path):
    rules = policy("[training.arguments]\nnum_updates = { max = 4 }\n", tmp_path)
    terms = check_request(rules, task({"epochs": 1}), CARD)
    held(terms, 32, 100, epochs=1)
    for batch_size, samples in ((1, 100), (32, 400)):
        with pytest.raises(RefusedError, match=r"num_updates \(node.toml, line 2\).*at most 4"):
            held(terms, batch_size, samples, epochs=1)


def test_rows_count_that_are_trained_on(tmp_path):
    text = "[training]\nminimum_rows = 90\n"
    assert "of 100 rows the request leaves 80 to train on" in refusal(text, tmp_path, task({"test_ratio": 0.2}))
    terms = check_request(policy(text, tmp_path), task({"test_ratio": 0.1}), CARD)
    held(terms, 32, 90)
    with pytest.raises(RefusedError, match=r"trains on 89 samples.*minimum_rows \(node.toml, line 2\)"):
        held(terms, 32, 89)


def test_an_account_binds_the_plan_to_its_batches_and_to_its_rows():
    terms = Terms(account=Accounted(10, 100, "rule privacy.epsilon"))
    held(terms, 10, 100)
    for batch_size, samples in ((11, 100), (10, 99), (10, 101)):
        with pytest.raises(RefusedError, match=r"charged for .* \(rule privacy\.epsilon\)"):
            held(terms, batch_size, samples)


def test_terms_reach_a_worker_as_they_are():
    rules = policy('[training.arguments]\nbatch_size = { min = 8 }\ntest_metric = ["accuracy", 1, true]\n')
    terms = check_request(rules, task(), CARD)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(terms), type=Terms) == terms


def test_rules_for_one_data_set_replace_the_general_ones(tmp_path):
    text = "[training]\nminimum_rows = 200\nrounds = 1\n[datasets.patients]\nminimum_rows = 0\n"
    check_request(policy(text, tmp_path), task(), CARD)
    assert "line 2" in refusal(text, tmp_path, card=DatasetCard(**{**_plain(CARD), "name": "other"}))
    text = "[training]\nminimum_rows = 0\n[datasets.patients]\nminimum_rows = 101\n"
    assert "datasets.patients.minimum_rows (node.toml, line 4)" in refusal(text, tmp_path)


def _plain(card):
    return {name: getattr(card, name) for name in card.__struct_fields__}


def test_extra_arrays_plugins_and_imports_are_refused_by_name_and_place(tmp_path):
    text = '[training]\nextra_arrays = ["scaffold*"]\n'
    check_request(policy(text), task(aux=["scaffold.c"]), CARD)
    assert "'other'" in refusal(text, tmp_path, task(aux=["scaffold.c", "other"]))
    torch = PluginRecord("torch", "fedplug-torch", "1", module="fedplug_torch")
    message = refusal('[training]\nplugins = ["sklearn"]\n', tmp_path, plugins=[torch])
    assert "plugin 'torch' (line 2)" in message
    check_request(policy('[training]\nplugins = ["torch"]\n'), task(), CARD, [torch])
    text = '[training]\nimports = ["numpy", "fedplug_torch"]\n'
    assert "imports scipy.linalg (line 7)" in refusal(text, tmp_path)
    text = '[training]\nimports = ["numpy", "fedplug_torch", "scipy"]\n'
    check_request(policy(text), task(), CARD)
    assert "imports os" in refusal(text, tmp_path, task(helpers={"mine": "import os\n"}))
    check_request(policy(text), task(source="class P: import mine\n", helpers={"mine": "import mine.b\n"}), CARD)
    for trick in (
        "__import__('os')", "eval('1')", "run = exec", "__builtins__['x']", "().__class__.__base__.__subclasses__()",
        "f.__globals__", "np.__loader__.load_module('os')", "np.__spec__",
    ):  # fmt: skip
        assert "could import anything" in refusal(text, tmp_path, task(source=f"class P:\n    x = {trick}\n"))
    for unread in ("class P: (", "open('x')\n" * 3000 + "eval('1')\n", "x = " + "-" * 100_000 + "1"):
        assert "nobody can tell what it imports" in refusal(text, tmp_path, task(source=unread))


def test_privacy_that_is_required(tmp_path):
    text = "[privacy]\nrequired = true\n"
    assert "privacy.required (node.toml, line 2)" in refusal(text, tmp_path)
    assert "central" in refusal(text, tmp_path, task({"dp_args": {"sigma": 1.0, "clip": 1.0}}))
    check_request(policy(text), task({"dp_args": LOCAL}), CARD)
    check_request(policy(text + "accept_central = true\n"), task({"dp_args": {"sigma": 1.0, "clip": 1.0}}), CARD)


# budgets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store():
    with NodeStore.in_memory() as store:
        yield store


def test_rounds_are_counted_once_a_task_and_refused_when_they_are_used_up(store):
    budget = Budget(store, policy("[training]\nrounds = 2\n"))
    budget.charge(task(number=0), CARD)
    budget.charge(task(number=0), CARD)
    budget.charge(task(number=5, train=False), CARD)
    budget.charge(task(number=0, attempt=1), CARD)
    with pytest.raises(RefusedError, match=r"has given 2 rounds, and may give 2") as caught:
        budget.charge(task(number=1), CARD)
    assert caught.value.code == "budget"
    budget.charge(task(number=0), CARD)
    budget.charge(task(number=1), DatasetCard(**{**_plain(CARD), "name": "other"}))
    assert [(each.dataset, each.rounds) for each in budget.report()] == [("other", 1), ("patients", 2)]


def test_epsilon_is_charged_before_and_refused_when_the_next_round_would_exceed_it(store):
    args = {"dp_args": LOCAL, "loader_args": {"batch_size": 10}, "epochs": 1}
    one = epsilon([(1.0, 0.1, 10)], 1e-5)
    limit = epsilon([(1.0, 0.1, 30)], 1e-5) + 1e-9
    budget = Budget(store, policy(f"[privacy]\nepsilon = {limit!r}\n"))
    for number in range(3):
        assert budget.charge(task(args, number), CARD) == Accounted(10, 100, "rule privacy.epsilon")
        spent = budget.report()[0].epsilon
        assert spent == epsilon([(1.0, 0.1, 10 * (number + 1))], 1e-5) >= one
    with pytest.raises(RefusedError, match=r"has spent epsilon .* of .*; this round would bring it to"):
        budget.charge(task(args, 3), CARD)
    assert budget.report()[0].rounds == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "has no differential privacy"),
        ({"dp_args": {"sigma": 5.0, "clip": 1.0}}, "the researcher adds the noise"),
        ({"dp_args": {**LOCAL, "sigma": 0.0}}, "has no noise"),
    ],
)
def test_a_training_that_would_spend_without_bound_is_refused_by_its_reason(store, args, said):
    budget = Budget(store, policy("[privacy]\nepsilon = 100\n"))
    with pytest.raises(RefusedError, match=said):
        budget.charge(task(args), CARD)
    assert budget.report() == []


def test_without_a_limit_the_account_is_kept_and_says_that_there_is_no_bound(store):
    budget = Budget(store, policy(""))
    budget.charge(task({"dp_args": LOCAL}), CARD)
    assert 0 < budget.report()[0].epsilon < math.inf
    budget.charge(task(number=1), CARD)
    account = budget.report()[0]
    assert account.epsilon == math.inf
    assert account.plain()["epsilon"] is None
    assert "without noise" in account.cells()[2]


def test_a_key_pays_for_one_request_only(store):
    budget = Budget(store, policy(""))
    once = task({"dp_args": LOCAL})
    for _ in range(3):
        budget.charge(once, CARD)
    spent = budget.report()[0]
    assert spent.rounds == 1
    for other in (task({"dp_args": LOCAL, "epochs": 2}), task({"dp_args": LOCAL}, source=SOURCE + "# another plan\n")):
        budget.charge(other, CARD)
    assert budget.report()[0].rounds == 3
    assert budget.report()[0].epsilon > spent.epsilon


def test_what_cannot_be_compared_is_charged_each_time(store):
    budget = Budget(store, policy(""))
    given = task()
    given = replace(given, request=msgspec.structs.replace(given.request, model_args={"x": object()}))
    budget.charge(given, CARD)
    budget.charge(given, CARD)
    assert budget.report()[0].rounds == 2


def test_a_charge_can_neither_be_changed_nor_taken_back(store):
    Budget(store, policy("")).charge(task(), CARD)
    for statement in ("DELETE FROM charges", "UPDATE charges SET steps = 0"):
        with pytest.raises((StoreError, sqlite3.Error)), store.transaction() as db:
            db.execute(statement)
    assert store.read("SELECT count(*) FROM charges") == [(1,)]


def test_a_budget_outlives_the_process(tmp_path):
    rules = policy("[training]\nrounds = 1\n")
    with NodeStore.create(tmp_path / "n") as store:
        Budget(store, rules).charge(task(), CARD)
    with NodeStore.open(tmp_path / "n") as store, pytest.raises(RefusedError):
        Budget(store, rules).charge(task(number=1), CARD)


def test_what_a_training_costs_follows_its_length():
    def of(**args):
        return cost(TrainingArgs.from_dict({"dp_args": LOCAL, "loader_args": {"batch_size": 30}, **args}), 100)

    assert of(epochs=2) == ("local", 1.0, 0.3, 8)
    assert of(num_updates=5) == ("local", 1.0, 0.3, 5)
    assert of(epochs=3, batch_maxnum=2) == ("local", 1.0, 0.3, 6)
    assert of(dry_run=True) == ("local", 1.0, 0.3, 1)
    assert of(epochs=2, dp_args={**LOCAL, "poisson": False}) == ("local", 1.0, 1.0, 2)


STEPS = st.tuples(st.sampled_from([0.6, 1.0, 2.5, 20.0]), st.sampled_from([0.001, 0.02, 0.3, 1.0]), st.integers(0, 500))


@given(st.lists(STEPS, max_size=6), st.randoms(use_true_random=False))
def test_epsilon_does_not_depend_on_order_and_never_falls(history, random):
    whole = epsilon(history, 1e-5)
    shuffled = list(history)
    random.shuffle(shuffled)
    assert epsilon(shuffled, 1e-5) == whole
    assert all(epsilon(history[:end], 1e-5) <= whole for end in range(len(history)))
    assert epsilon(history, 1e-6) >= whole


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@given(st.lists(STEPS.filter(lambda step: step[2]), min_size=1, max_size=3))
def test_epsilon_is_that_of_opacus_at_the_same_orders(history):
    from opacus.accountants import RDPAccountant

    oracle = RDPAccountant()
    oracle.history = list(history)
    assert epsilon(history, 1e-5) == pytest.approx(oracle.get_epsilon(1e-5, alphas=list(ORDERS)), rel=1e-9, abs=1e-9)


def test_no_noise_has_no_bound_and_no_step_costs_nothing():
    assert epsilon([], 1e-5) == 0
    assert epsilon([(1.0, 0.5, 0), (0.0, 0.0, 9)], 1e-5) == 0
    assert epsilon([(0.0, 0.5, 1)], 1e-5) == math.inf
    assert epsilon([(1e-200, 0.5, 1)], 1e-5) == math.inf
    assert epsilon([(1e-3, 0.01, 1)], 1e-5) > 100
