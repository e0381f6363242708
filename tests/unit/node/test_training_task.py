from __future__ import annotations

import gc
import random
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan, Params
from fedplug.core.errors import (
    DatasetError,
    ParamsError,
    PlanRunError,
    TrainingArgsError,
    TrainingCancelledError,
    UnknownNameError,
)
from fedplug.core.local_state import StateBook
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainRequest
from fedplug.core.metrics import TEST_AUX
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.params import allocate
from fedplug.core.plan_source import PlanBundle, bundle_plan
from fedplug.core.plugins import PluginHost
from fedplug.node.training import run_task

KEY = TaskKey(experiment_id="e", round=2, node_id="paris")
START = Params.from_arrays({"w": np.zeros(3), "b": np.zeros(())})


class Columns(NodeDataset):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.path, self.type, self.name, self.target = Path("data.csv"), "csv", "measurements", "y"
        self._arrays = {name: rng.normal(size=50) for name in ("a", "b", "c")}
        self._arrays["y"] = self._arrays["a"] - 2 * self._arrays["b"] + 0.3

    def arrays(self):
        return self._arrays


class Linear(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(3), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.table(without=["y"]), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["w"] + self.model()["b"] - target
        return (error**2).mean(), {"w": 2 * data.T @ error / len(data), "b": 2 * error.mean()}


BUNDLE = bundle_plan(Linear)
HOST = PluginHost.discover()


def run(bundle=BUNDLE, params=START, dataset=None, emit=None, seed=1, data_seed=1, cancelled=None, give=None, **args):
    args.setdefault("loader_args", {"batch_size": 8})
    request = TrainRequest(
        key=KEY, dataset_id="d", plan_class=bundle.class_name, training_args=args, seed=seed, data_seed=data_seed
    )
    heard = [] if emit is None else emit
    return run_task(
        request, bundle, params, {}, dataset or Columns(), HOST, heard.append, cancelled=cancelled, allocate=give
    )


def variant(*edits: tuple[str, str]) -> PlanBundle:
    """Return the bundle of `Linear` with parts of its text replaced."""
    source = BUNDLE.source
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return PlanBundle(BUNDLE.class_name, source, (*BUNDLE.dependencies, "import random"))


STEP = "        error = data"


def test_the_reply_says_what_was_done():
    reply, params, aux = run(epochs=2)
    assert reply.key == KEY
    assert (reply.sample_count, reply.steps, reply.state, aux) == (50, 14, "none", {})
    assert set(reply.metrics) == {"loss"}
    assert set(reply.timing) == {"train", "train_cpu", "setup"}
    assert all(value >= 0 for value in reply.timing.values())
    assert params.spec == START.spec
    assert params != START


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    one, two, other = run()[1], run()[1], run(seed=2)[1]
    assert one == two != other


def test_the_start_is_the_global_model():
    start = Params.from_arrays({"w": np.ones(3), "b": np.array(5.0)})
    assert run(params=start, optimizer_args={"lr": 0.0})[1] == start


@pytest.mark.parametrize("train", [True, False])
def test_nothing_of_a_task_is_left_for_the_collector_of_circles(train):
    dataset = Columns()
    gone = weakref.ref(dataset)  # the plan has it, and the trainer has the plan
    request = TrainRequest(
        key=KEY,
        dataset_id="d",
        plan_class="Linear",
        training_args={"test_ratio": 0.2},
        seed=1,
        data_seed=1,
        train=train,
    )
    gc.collect()
    gc.disable()
    try:
        run_task(request, BUNDLE, START, {}, dataset, HOST, lambda sign: None)
        del dataset
        assert gone() is None
    finally:
        gc.enable()


HOLDING = (
    "    def training_data(self):",
    """    @hook("on_fit_start")
    def take(self, ctx):
        ctx.set("held", "a file", "run", on_release=self.give_back)

    def give_back(self, held):
        print(f"{held} is given back")

    def training_data(self):""",
)


def holding(*edits: tuple[str, str]) -> PlanBundle:
    """Return `Linear` holding something for the whole run, and saying when that is given back."""
    made = variant(HOLDING, *edits)
    return PlanBundle(made.class_name, made.source, (*made.dependencies, "from fedplug.core.trainer import hook"))


GIVE_BACK = ('print(f"{held} is given back")', 'raise OSError(f"{held} is stuck")')
FAIL = (STEP, '        raise ValueError("no more")\n' + STEP)


def test_what_a_plan_holds_for_the_run_is_given_back_when_its_task_is_done(capsys):
    run(holding())
    assert capsys.readouterr().out == "a file is given back\n"
    with pytest.raises(PlanRunError, match="no more"):
        run(holding(FAIL))
    assert capsys.readouterr().out == "a file is given back\n"


def test_what_cannot_be_given_back_is_an_error_of_the_plan_and_hides_no_other():
    with pytest.raises(PlanRunError, match="a file is stuck"):
        run(holding(GIVE_BACK))
    with pytest.raises(PlanRunError, match="no more") as caught:
        run(holding(GIVE_BACK, FAIL))
    assert caught.value.__notes__ == ["While this was handled, a hook raised OSError: a file is stuck"]


def test_the_parameters_are_built_once_in_the_memory_that_is_given():
    memory = []

    def give(nbytes):
        memory.append(allocate(nbytes))
        return memory[-1]

    params = run(give=give)[1]
    assert len(memory) == 1
    assert np.shares_memory(params["w"], memory[0])


def test_progress_comes_at_the_first_and_last_step_and_every_interval():
    heard = []
    run(emit=heard, epochs=2, log_interval=5)
    assert all(isinstance(message, Progress) and message.key == KEY for message in heard)
    assert [(m.step, m.total_steps, m.epoch, m.samples) for m in heard] == [
        (1, 14, 1, 8), (5, 14, 1, 40), (10, 14, 2, 74), (14, 14, 2, 100),
    ]  # fmt: skip
    assert all(m.phase == "train" and m.metrics["loss"] > 0 for m in heard)


def test_held_out_samples_are_tested_before_and_after_and_not_trained_on():
    heard = []
    reply, *_ = run(emit=heard, test_ratio=0.25, test_on_global_updates=True, test_on_local_updates=True, epochs=20,
                    optimizer_args={"lr": 0.05})  # fmt: skip
    assert reply.sample_count == 38
    assert set(reply.metrics) == {"loss", "test_global_loss", "test_local_loss"}
    assert reply.metrics["test_local_loss"] < reply.metrics["test_global_loss"] / 10
    tests = [m for m in heard if m.phase != "train"]
    assert [(m.phase, m.samples) for m in tests] == [("test-global", 12), ("test-local", 12)]
    assert tests[0] is heard[0]
    assert tests[1] is heard[-1]


def held_out(**kwargs) -> float:
    reply, *_ = run(test_ratio=0.2, test_on_global_updates=True, num_updates=1, **kwargs)
    return reply.metrics["test_global_loss"]


def test_the_split_stays_from_round_to_round_unless_asked_otherwise():
    assert held_out(seed=1) == held_out(seed=2)
    assert held_out(seed=1) != held_out(seed=1, data_seed=2)
    assert held_out(seed=1, shuffle_testing_dataset=True) != held_out(seed=2, shuffle_testing_dataset=True)


def test_a_ratio_that_holds_out_nothing_is_logged_and_does_not_fail():
    heard = []
    reply, *_ = run(emit=heard, test_ratio=0.01, test_on_local_updates=True)
    assert set(reply.metrics) == {"loss"}
    (line,) = [m for m in heard if isinstance(m, LogLine)]
    assert line.key == KEY
    assert "nothing was tested" in line.text


def test_manager_args_win_over_loader_args():
    bundle = variant(('self.dataset.column("y"))', 'self.dataset.column("y"), batch_size=25)'))
    assert run(bundle)[0].steps == 2


def test_global_streams_are_seeded_before_the_plan_runs_and_restored():
    bundle = variant(
        (
            "        return DataManager(",
            "        self.drawn = np.random.random() + random.random()\n        return DataManager(",
        ),
        (STEP, "        self.model()['b'][...] = self.drawn\n" + STEP),
    )
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    args = {"num_updates": 1, "optimizer_args": {"lr": 0.0}}
    draws = [float(run(bundle, seed=seed, **args)[1]["b"]) for seed in (1, 1, 2)]
    fixed = [float(run(bundle, seed=seed, random_seed=5, **args)[1]["b"]) for seed in (1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert fixed[0] == fixed[1] == np.random.RandomState(5).random() + random.Random(5).random()
    assert (random.random(), np.random.random()) == expected


def test_the_streams_are_restored_after_a_failure():
    state = random.getstate()
    with pytest.raises(PlanRunError):
        run(variant((STEP, "        random.random()\n        1 / 0\n" + STEP)))
    assert random.getstate() == state


def test_the_plan_knows_where_it_is():
    bundle = variant(
        (
            STEP,
            "        assert (self.node_id(), self.round(), self.dataset.name) == ('paris', 2, 'measurements')\n" + STEP,
        )
    )
    assert run(bundle)[0].steps == 7


# failures --------------------------------------------------------------------------------------------------


def test_an_exception_names_method_line_and_text():
    bundle = variant((STEP, "        raise ValueError('no luck')\n" + STEP))
    with pytest.raises(PlanRunError) as caught:
        run(bundle)
    line = bundle.code.splitlines().index("        raise ValueError('no luck')") + 1
    assert caught.value.message == (
        f"Training plan 'Linear' failed in training_step, line {line}: raise ValueError('no luck')\nValueError: no luck"
    )
    assert "raise ValueError('no luck')" in caught.value.details
    assert f"line {line}, in training_step" in caught.value.details
    assert "fedplug" not in caught.value.details.replace("<training plan", "")  # no path of the node


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("        return {", "        1 / 0\n        return {"), "failed in init_model, line"),
        (
            ("        return DataManager(", "        1 / 0\n        return DataManager("),
            "failed in training_data, line",
        ),
        (
            ("    def init_model", "    def __init__(self):\n        1 / 0\n    def init_model"),
            "failed in __init__, line",
        ),
        ((STEP, "        raise SystemExit(3)\n" + STEP), "SystemExit: 3"),
        ((STEP, "        raise KeyError\n" + STEP), r"raise KeyError\nKeyError$"),
        (
            (
                "    def init_model",
                "    class Net:\n        def f(self):\n            return 1 / 0\n    def init_model",
            ),
            None,
        ),
    ],
)
def test_every_method_is_named(edit, words):
    edits = [edit]
    if words is None:
        edits.append((STEP, "        self.Net().f()\n" + STEP))
        words = r"failed in Net.f, line \d+: return 1 / 0 \(called by training_step\)\nZeroDivisionError"
    with pytest.raises(PlanRunError, match=words):
        run(variant(*edits))


def test_a_wrong_return_names_the_plan():
    with pytest.raises(PlanRunError, match=r"Training plan 'Linear': training_step must return \(loss"):
        run(variant((STEP, "        return None\n" + STEP)))


def test_a_loss_that_is_not_finite_names_the_step():
    edits = (
        (STEP, "        self.n = getattr(self, 'n', 0) + 1\n" + STEP),
        ("(error**2).mean()", "(error**2).mean() / (self.n != 3)"),
    )
    with np.errstate(all="ignore"), pytest.raises(PlanRunError, match="became inf in step 3"):
        run(variant(*edits))


@pytest.mark.parametrize("when", ["global", "local"])
def test_a_test_that_raises_is_told_and_the_training_goes_on(when, caplog):
    """Neither the update nor the figures of the other test change; it is told once, by a sign and not by a logger."""
    flags = {"test_ratio": 0.25, "test_on_global_updates": True, "test_on_local_updates": True}

    def tested(body):
        head = "    n = 0\n\n    def testing_step(self, data, target):\n"
        step = (STEP, "        self.n += 1\n" + STEP)
        signs = []
        return *run(
            variant(step, ("    def training_data", head + body + "    def training_data")), emit=signs, **flags
        ), signs

    well, right, _, _ = tested("        return {'score': 1.0}\n\n")
    before_training = "self.n == 0" if when == "global" else "self.n > 0"
    raising = (
        f"        if {before_training}:\n            raise ValueError('bad day')\n        return {{'score': 1.0}}\n\n"
    )
    reply, params, _, signs = tested(raising)
    assert params == right
    assert f"test_{when}_score" in well.metrics
    assert reply.metrics == {name: v for name, v in well.metrics.items() if not name.startswith(f"test_{when}_")}
    (line,) = [sign for sign in signs if isinstance(sign, LogLine)]
    assert (line.level, line.key) == ("error", KEY)
    told = (
        f"The test on {when} updates failed, and its figures are missing. Training plan 'Linear' failed in testing_step"
    )
    assert re.fullmatch(re.escape(told) + r", line \d+: raise ValueError\('bad day'\)\nValueError: bad day", line.text)
    assert not caplog.records


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ("self.model.parameters()", "model is a method: write self.model().parameters"),
        ("self.training_args.items()", "training_args is a method: write self.training_args().items"),
        ("self.dataset.column.mean()", "column is a method: write self.dataset.column(...).mean"),
        ("self.training_step.weights", ""),
        ("self.model().parameters()", ""),
    ],
)
def test_a_method_that_was_not_called_is_told(wrong, cure):
    with pytest.raises(PlanRunError, match="AttributeError") as caught:
        run(variant((STEP, f"        {wrong}\n" + STEP)))
    assert caught.value.cure == cure


def test_a_test_can_be_cancelled():
    with pytest.raises(TrainingCancelledError):
        run(cancelled=lambda: True, test_ratio=0.25, test_on_global_updates=True)


def test_a_long_message_is_cut():
    with pytest.raises(PlanRunError) as caught:
        run(variant((STEP, "        raise ValueError('x' * 100_000)\n" + STEP)))
    assert len(caught.value.message) < 1_000
    assert len(caught.value.details) <= 8_000


def test_cancelling_passes_through():
    with pytest.raises(TrainingCancelledError):
        run(cancelled=lambda: True)


@pytest.mark.parametrize(
    ("error", "words", "kwargs"),
    [
        (TrainingArgsError, "'epoch' is not a training argument", {"epoch": 1}),
        (ParamsError, "do not match the model: 'b' is missing", {"params": Params.from_arrays({"w": np.zeros(3)})}),
        (UnknownNameError, "'bacth_size'", {"loader_args": {"bacth_size": 3}}),
        (DatasetError, "make no batch of 64", {"loader_args": {"batch_size": 64, "drop_last": True}}),
        (DatasetError, "has no column 'z'", {"bundle": variant(('column("y")', 'column("z")'))}),
    ],
)
def test_errors_that_are_not_the_plans_stay_what_they_are(error, words, kwargs):
    with pytest.raises(error, match=words):
        run(**kwargs)


# tests -----------------------------------------------------------------------------------------------------------

OUTPUT = 'data @ self.model()["w"] + self.model()["b"]'
MEASURED = variant(
    ("    def training_step", f"    def forward(self, data):\n        return {OUTPUT}\n\n    def training_step"),
)
TESTED = {"test_ratio": 0.2, "test_metric": ["mean_squared_error", "r2_score"]}


def run_request(bundle=MEASURED, state=None, emit=None, train=True, **args):
    request = TrainRequest(
        key=KEY, dataset_id="d", plan_class=bundle.class_name, training_args={**TESTED, **args}, seed=1, data_seed=1,
        train=train,
    )  # fmt: skip
    heard = [] if emit is None else emit
    return run_task(request, bundle, START, {}, Columns(), HOST, heard.append, state=state)


def test_sums_of_all_tests_travel_under_the_reserved_name():
    reply, _, aux = run_request(test_on_global_updates=True, test_on_local_updates=True)
    assert reply.aux == (TEST_AUX,)
    sums = aux[TEST_AUX]
    names = [f"{when}/metric/{name}" for when in ("global", "local") for name in TESTED["test_metric"]]
    assert list(sums) == names
    assert all(array.dtype == np.float64 and array.ndim == 1 and array[0] == 10 for array in sums.values())
    for when in ("global", "local"):
        count, total = sums[f"{when}/metric/mean_squared_error"]
        assert reply.metrics[f"test_{when}_mean_squared_error"] == total / count
    assert set(reply.metrics) == {"loss", *(f"test_{n.split('/')[0]}_{n.split('/')[2]}" for n in names)}


def test_without_a_test_nothing_travels():
    reply, _, aux = run_request()
    assert (reply.aux, aux) == ((), {})


def test_a_mere_test_replies_without_parameters_and_leaves_nothing_behind():
    base = StateBook()
    base.keep("mine", {"a": np.ones(2)}, {"b": 1})
    book = StateBook(base.result())
    heard = []
    reply, params, aux = run_request(train=False, state=book, emit=heard, test_on_global_updates=True)
    assert len(params) == 0
    assert book.result() is None
    assert (reply.sample_count, reply.steps, reply.aux, reply.state) == (10, 0, (TEST_AUX,), "none")
    assert set(reply.metrics) == {"test_global_mean_squared_error", "test_global_r2_score"}
    assert set(reply.timing) == {"test", "setup"}
    assert [sign.phase for sign in heard] == ["test-global"]
    trained = run_request(test_on_global_updates=True)
    assert aux == trained[2]


def test_a_mere_test_needs_held_out_samples():
    with pytest.raises(DatasetError, match=r"No sample is held out for testing \(test_ratio=0\.01\)"):
        run_request(train=False, test_ratio=0.01)


def test_a_plan_without_an_output_cannot_be_measured():
    with pytest.raises(PlanRunError, match=r"'Linear': Linear has no method.*\nDefine forward\(self, data\)"):
        run_request(BUNDLE, train=False)
    signs = []
    run_request(BUNDLE, emit=signs, test_on_global_updates=True)
    (line,) = [sign for sign in signs if isinstance(sign, LogLine)]
    assert re.search(r"'Linear': Linear has no method.*\nDefine forward\(self, data\)", line.text)


def test_labels_are_needed_to_stratify():
    with pytest.raises(DatasetError, match="stratify_testing_dataset needs one whole number per sample"):
        run_request(stratify_testing_dataset=True)
