"""Acceptance checks of data, results, saving and methods: 28 to 35 and 45, on a NumPy model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedplug.core.errors import CodecError, DatasetError, ParamsError, UsageError
from fedplug.core.params import Params
from fedplug.core.trainer import Trainer, control_variates, fedprox, gradient_clipping

_spec = importlib.util.spec_from_file_location("trainer_kit", Path(__file__).with_name("trainer_kit.py"))
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)


class Loader:
    """Like torch's: batches of a data set of its own."""

    batch_size, drop_last, dataset = 5, False, range(12)

    def __iter__(self):
        return ((kit.X[i : i + 5], kit.Y[i : i + 5]) for i in range(0, 12, 5))


@pytest.mark.parametrize(
    "data", [kit.source(), (kit.X, kit.Y), {"x": kit.X, "y": kit.Y}, Loader()], ids=["source", "pair", "dict", "loader"]
)
def test_check_28_forms_of_data(data):
    t = kit.trainer(batch=5, data={"train": data, "test": data})
    result = t.train()
    assert (result.num_samples, result.steps) == (12, 3)
    assert t.evaluate(batch_size=5).num_samples == 12
    parsed = t.parse_data({"train": data})
    assert (parsed["num_train_data"], parsed["num_val_data"]) == (12, 0)
    assert (parsed["train_data"] is None) == isinstance(data, Loader)
    assert t.ctx.train_loader is (data if isinstance(data, Loader) else None)


@pytest.mark.parametrize(
    ("data", "problem"), [([1], "dict by split"), ({"train": 3}, "split 'train' is a int"), ({"train": "x"}, "a str")]
)
def test_check_28_other_data_is_an_error(data, problem):
    with pytest.raises(UsageError, match=problem):
        kit.trainer(data=data)


def test_check_28_a_parser_of_ones_own():
    class Mine(Trainer):
        def parse_data(self, data):
            return {"train_data": kit.source(), "train_loader": None, "num_train_data": data}

    assert Mine(kit.numpy_backend(), 12, seed=1).train().num_samples == 12
    with pytest.raises(DatasetError, match="says 11 samples, but the data has 12"):
        Mine(kit.numpy_backend(), 11).train()


def test_check_29_a_missing_split():
    lines = []
    t = kit.trainer(data={"val": kit.source()}, log=lines.append)
    with pytest.raises(DatasetError, match=r"no data in split 'train'\.\nIt has: val"):
        t.train()
    assert t.evaluate().metrics == {}
    assert lines == ["There is no data in split 'test': nothing was tested."]


def test_check_30_a_result_is_of_its_own_run():
    t = kit.trainer()
    t.hooks_in_train.add(lambda ctx: ctx.outbox.update(extra=ctx.num_steps), "on_fit_end", name="extra")
    t.hooks_in_eval.add(lambda ctx: ctx.metrics.update(mine=1.0), "on_fit_end", name="mine")
    first = t.train()
    assert (first.num_samples, first.steps, dict(first.aux)) == (12, 4, {"extra": 4})
    assert isinstance(first.params, Params)
    assert set(t.evaluate().metrics) == {"loss", "mine"}
    t.reset_hook_in_train("on_fit_end")
    again = t.train()
    assert (dict(again.metrics), dict(again.aux)) == ({}, {})


def test_check_31_parameters_are_copies_both_ways():
    t = kit.trainer()
    params = t.train().params
    before = {name: array.copy() for name, array in params.items()}
    t.train()
    assert all((params[name] == before[name]).all() for name in before)
    given = {"w": np.ones(3), "b": np.ones(())}
    t.update(given)
    t.train()
    assert given["w"].tolist() == [1, 1, 1]
    for wrong in ({"w": np.ones(3)}, {**given, "v": np.ones(1)}, {"w": np.ones(2), "b": np.ones(())}):
        with pytest.raises(ParamsError, match=r"'b' is missing|'v' is not part|'w' has shape"):
            t.update(wrong)
    t.update({"w": np.full(3, 7.0)}, strict=False)
    assert t.get_params()["w"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("policy", ["keep", "per_routine"])
def test_check_33_a_training_that_is_resumed_equals_one_that_was_not_interrupted(policy, tmp_path):
    def make():
        return kit.trainer(12, 5, optimizer_args={"lr": 0.05, "momentum": 0.9}, optimizer_state=policy)

    whole, first, second = make(), make(), make()
    whole.train()
    np.random.seed(3)
    expected = whole.train().params
    first.train()
    np.random.seed(4)
    first.save_model(tmp_path / "t", cur_round=3)
    drawn = np.random.random()
    assert second.load_model(tmp_path / "t") == 3
    assert np.random.random() == drawn
    assert second.train().params == expected


def test_check_33_files_that_are_no_checkpoint(tmp_path):
    t = kit.trainer()
    with pytest.raises(UsageError, match="no checkpoint"):
        t.load_model(tmp_path / "missing")
    t.save_model(tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    for broken in (b"", b"x" * 40, data[:-8], data[:12], data[:20] + b"\xff" * 8 + data[28:]):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(CodecError):
            t.load_model(tmp_path / "broken")


def test_check_34_other_arguments_change_the_next_plan():
    t = kit.trainer(12, 3)
    assert t.train().steps == 4
    t.args = t.args.from_dict({**t.args.dict(), "loader_args": {"batch_size": 6}})
    assert t.train().steps == 2


def test_check_35_importing_the_core_imports_no_framework():
    import subprocess
    import sys

    probe = "import sys, fedplug.core.trainer; print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def gradient_steps(mu=0.0, limit=None, correction=None, steps=3, lr=0.05):
    """The same training by hand, on all samples at once."""
    w, b = np.zeros(3), 0.0
    terms = []
    for _ in range(steps):
        loss, g = kit.of({"w": w, "b": b}, kit.X, kit.Y)
        term = mu / 2 * ((w**2).sum() + b**2)
        gw, gb = g["w"] + mu * w, float(g["b"]) + mu * b
        if correction:
            gw, gb = gw + correction["w"], gb + correction["b"]
        if limit:
            scale = min(1.0, limit / np.sqrt((gw**2).sum() + gb**2))
            gw, gb = gw * scale, gb * scale
        terms.append((loss, term))
        w, b = w - lr * gw, b - lr * gb
    return {"w": w, "b": b}, terms


def test_check_45_fedprox_is_the_loss_and_gradient_of_its_equation():
    seen = []
    t = kit.trainer(12, 12, num_updates=3, fedprox_mu=0.7, loader_args={"batch_size": 12, "shuffle": False})
    t.hooks_in_train.add(
        lambda ctx: seen.append((float(ctx.loss_batch), float(ctx.loss_regular), float(ctx.loss_task))),
        "on_batch_backward", name="see", index=0,
    )  # fmt: skip
    result = t.train()
    expected, terms = gradient_steps(mu=0.7)
    assert result.params["w"] == pytest.approx(expected["w"])
    assert result.params["b"] == pytest.approx(expected["b"])
    for (loss, regular, task), (base, term) in zip(seen, terms, strict=True):
        assert (loss, regular, task) == pytest.approx((base, term, base + term))
    assert result.loss == pytest.approx(np.mean([base for base, _ in terms]))
    assert t.ctx.get("fedprox_start") is None
    assert result.leaks == ()
    assert t.ctx.loss_regular_total_train == pytest.approx(12 * sum(term for _, term in terms))


def test_check_45_two_weights_in_one_process_do_not_interfere():
    pair = [kit.trainer(12, 12, num_updates=3, fedprox_mu=mu) for mu in (0.7, 0.1)]
    pair[0].hooks_in_train.add(lambda ctx: pair[1].train(), "on_batch_end", name="inner")
    results = [t.train().params for t in pair[:1]]
    assert results[0]["w"] == pytest.approx(gradient_steps(mu=0.7)[0]["w"])
    fresh = kit.trainer(12, 12, num_updates=3, fedprox_mu=0.1).train().params
    assert fresh["w"] == pytest.approx(gradient_steps(mu=0.1)[0]["w"])


def test_gradient_clipping_and_control_variates_by_hand():
    own, common = (
        {"w": np.array([1.0, 0.0, -1.0]), "b": np.float64(0.5)},
        {"w": np.full(3, 0.25), "b": np.float64(-1.0)},
    )
    correction = {"w": common["w"] - own["w"], "b": common["b"] - own["b"]}
    t = kit.trainer(12, 12, num_updates=3, grad_clip=1.5)
    t.install("scaffold", control_variates())
    assert t.hooks_in_train.names("on_batch_backward") == ("backward", "control_variates", "grad_clip", "step")
    t.ctx.inbox = {"control_variate": common, "own_control_variate": own}
    expected = gradient_steps(limit=1.5, correction=correction)[0]
    found = t.train().params
    assert found["w"] == pytest.approx(expected["w"])
    assert found["b"] == pytest.approx(expected["b"])
    t = kit.trainer(12, 12, num_updates=3)
    t.install("scaffold", control_variates())
    assert t.train().params["w"] == pytest.approx(gradient_steps()[0]["w"])


@pytest.mark.parametrize("make", [lambda: fedprox(0.0), lambda: gradient_clipping(-1.0)])
def test_methods_refuse_what_makes_no_sense(make):
    with pytest.raises(UsageError, match="> 0"):
        make()


def test_a_loss_that_is_weighted_changes_the_gradient():
    t = kit.trainer(12, 12, num_updates=1)
    t.hooks_in_train.add(lambda ctx: setattr(ctx, "loss_task", 0.5 * ctx.loss_task), "on_batch_forward", name="half")
    whole = kit.trainer(12, 12, num_updates=1).train().params
    assert t.train().params["w"] == pytest.approx(whole["w"] / 2)
