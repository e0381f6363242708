from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedplug.core.errors import TrainingArgsError, UnknownNameError
from fedplug.core.training_args import TrainingArgs


def problems_of(values) -> tuple[str, ...]:
    with pytest.raises(TrainingArgsError) as caught:
        TrainingArgs.from_dict(values)
    return caught.value.problems


def test_defaults_are_one_epoch_and_a_learning_rate():
    args = TrainingArgs()
    assert (args.epochs, args.num_updates, args.optimizer_args, args.threads) == (1, None, {"lr": 1e-3}, 1)
    assert TrainingArgs.from_dict(None) == TrainingArgs.from_dict({}) == args


def test_num_updates_alone_leaves_epochs_open():
    args = TrainingArgs.from_dict({"num_updates": 7})
    assert (args.num_updates, args.epochs) == (7, None)


def test_dict_round_trips_and_shares_nothing():
    given = {"optimizer_args": {"lr": 0.1, "betas": (0.9, 0.99)}, "loader_args": {"batch_size": 8}, "test_ratio": 0.5}
    args = TrainingArgs.from_dict(given)
    plain = args.dict()
    assert plain["optimizer_args"]["betas"] == [0.9, 0.99]
    assert TrainingArgs.from_dict(plain) == args
    plain["loader_args"]["batch_size"] = 1
    given["loader_args"]["batch_size"] = 2
    assert args.loader_args == {"batch_size": 8}


def test_arguments_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingArgs().epochs = 3


def test_unknown_key_names_the_nearest():
    (problem,) = problems_of({"epoch": 3})
    assert "'epoch' is not a training argument; did you mean 'epochs'?" in problem


@pytest.mark.parametrize(("key", "home"), [("lr", "optimizer_args"), ("batch_size", "loader_args")])
def test_a_key_of_an_inner_dict_is_sent_home(key, home):
    assert problems_of({key: 1}) == (f"{key!r} is not a training argument; it belongs into {home}",)


def test_all_problems_are_reported_at_once():
    found = problems_of(
        {
            "epoch": 1,
            "epochs": 0,
            "num_updates": 2.0,
            "test_ratio": 1,
            "dry_run": 1,
            "log_interval": True,
            "loader_args": {"batch_size": 0, "shuffle": "no"},
            "optimizer_args": {"lr": -1},
        }
    )
    for word in ("'epoch'", "epochs must", "num_updates", "test_ratio", "dry_run", "log_interval", "batch_size",
                 "shuffle", "'lr'"):  # fmt: skip
        assert any(word in problem for problem in found), word
    assert len(found) == 9


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer_args": {"x": object()}}, "optimizer_args['x'] must be plain data"),
        ({"optimizer_args": {"x": [1, {"y": np.float32(1)}]}}, "optimizer_args['x'][1]['y'] must be plain data"),
        ({"optimizer_args": {"x": float("nan")}}, "plain data"),
        ({"optimizer_args": {"x": 2**70}}, "64 bits"),
        ({"loader_args": {3: 1}}, "keys must be text"),
        ({"loader_args": None}, "loader_args must be dict, got None"),
        ({"epochs": 10**400}, "epochs must be whole number >= 1"),
        ({"random_seed": -1}, "random_seed must be whole number >= 0"),
        ({"test_on_local_updates": True}, "test_on_local_updates need test_ratio > 0"),
        ({"log_interval": -1}, "log_interval must be whole number >= 0"),
        ([1], "expected a dict"),
    ],
)
def test_a_wrong_value_is_named(values, words):
    assert any(words in problem for problem in problems_of(values))


def test_deeply_nested_values_end_in_an_error_and_not_in_recursion():
    deep: dict = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert any("plain data" in problem for problem in problems_of({"optimizer_args": deep}))


def test_a_float_subclass_becomes_a_float():
    assert type(TrainingArgs.from_dict({"optimizer_args": {"lr": np.float64(0.5)}}).optimizer_args["lr"]) is float


def test_help_has_every_key_and_its_default():
    text = TrainingArgs.help()
    for field in dataclasses.fields(TrainingArgs):
        assert f"{field.name}: " in text
    assert "default {'lr': 0.001}" in text


def test_metrics_may_be_one_name_or_many_in_any_case():
    assert TrainingArgs.from_dict({"test_metric": "Accuracy"}).test_metric == ["accuracy"]
    assert TrainingArgs.from_dict({"test_metric": ("ACCURACY", "f1_score", "accuracy")}).test_metric == [
        "accuracy",
        "f1_score",
    ]
    for wrong in ([], "", [1], 3):
        assert any(
            "test_metric must be name or list of names or None" in p for p in problems_of({"test_metric": wrong})
        )


def test_privacy_has_defaults_and_ranges():
    args = TrainingArgs.from_dict({"dp_args": {"sigma": 1, "clip": 2}})
    assert args.dp_arguments() == {"type": "central", "sigma": 1.0, "clip": 2.0, "delta": 1e-5, "poisson": True}
    found = problems_of({"dp_args": {"type": "x", "sigma": -1, "delta": 1, "poisson": 1, "sigmoid": 2}})
    for sigma in (1e-300, 9e-7, 1.1e9):
        (problem,) = problems_of({"dp_args": {"sigma": sigma, "clip": 1}})
        assert "dp_args['sigma'] must be 0, or a number from 1e-06 to 1e+09, got" in problem
    for word in ("'type'", "'sigma'", "'clip'", "'delta'", "'poisson'", "did you mean 'sigma'"):
        assert any(word in problem for problem in found), word
    assert problems_of({"clip": 1}) == ("'clip' is not a training argument; it belongs into dp_args",)


def test_arguments_are_read_like_a_dict_and_updated_into_new_ones():
    args = TrainingArgs.from_dict({"epochs": 2, "test_metric": ["accuracy"]})
    assert args["epochs"] == args.get("epochs") == 2
    assert args.get("nothing", 7) == 7
    with pytest.raises(UnknownNameError, match="Did you mean 'epochs'"):
        args["epoch"]
    args["test_metric"].append("recall")
    assert args["test_metric"] == ["accuracy"]
    before = args
    args ^= {"num_updates": 5}
    assert (args["num_updates"], args["epochs"], before["epochs"]) == (5, None, 2)
    assert before.updated({"log_interval": 1})["epochs"] == 2


def test_the_groups_of_arguments_are_a_partition():
    args = TrainingArgs.from_dict({"dp_args": {"sigma": 1, "clip": 2}})
    groups = [
        args.testing_arguments(), args.pure_training_arguments(), {"loader_args": args.loader_arguments()},
        {"optimizer_args": args.optimizer_arguments()}, {"dp_args": args.dp_arguments()},
    ]  # fmt: skip
    merged = {name: value for group in groups for name, value in group.items()}
    assert merged == args.dict()
    assert sum(map(len, groups)) == len(merged)
    assert set(args.testing_arguments()) >= {"test_ratio", "test_metric", "shuffle_testing_dataset"}


def test_the_scheme_describes_every_key():
    scheme = TrainingArgs.default_scheme()
    assert scheme == TrainingArgs.scheme()
    assert list(scheme) == [field.name for field in dataclasses.fields(TrainingArgs)]
    assert scheme["epochs"]["type"] == "int"
    assert scheme["optimizer_args"]["default"] == TrainingArgs.default_value("optimizer_args") == {"lr": 1e-3}
    assert all(entry["help"] for entry in scheme.values())


@pytest.mark.parametrize("name", ["learning_rate", "Lr", "LR", "learning-rate", "LearningRate"])
def test_a_learning_rate_under_another_name_is_not_left_lying(name):
    (found,) = problems_of({"optimizer_args": {name: 5}})
    assert found == f"optimizer_args[{name!r}]: the learning rate is called 'lr'"
    assert TrainingArgs.from_dict({"optimizer_args": {name: 5, "lr": 0.1}}).optimizer_arguments()["lr"] == 0.1


def test_missing_arguments_of_differential_privacy_are_called_missing():
    assert problems_of({"dp_args": {}}) == (
        "dp_args needs 'sigma', 0, or a number from 1e-06 to 1e+09",
        "dp_args needs 'clip', a number > 0",
    )
    assert problems_of({"dp_args": {"sigma": None, "clip": 1}}) == (
        "dp_args['sigma'] must be 0, or a number from 1e-06 to 1e+09, got None (NoneType)",
    )


def test_the_arguments_of_a_request_are_checked_once_and_each_time_ones_own():
    given = {"epochs": 2, "loader_args": {"batch_size": 8, "extra": [1, {"a": 2.0}]}}
    args = [TrainingArgs.from_request(given) for _ in range(3)]
    assert args == [TrainingArgs.from_dict(given)] * 3
    args[1].loader_args["extra"][1]["a"] = 3.0
    assert TrainingArgs.from_request(given) == args[0] != args[1]
    assert given["loader_args"]["extra"] == [1, {"a": 2.0}]


def test_who_only_reads_the_arguments_of_a_request_is_given_what_nobody_else_can_change():
    given = {"optimizer_args": {"lr": 0.5, "betas": [0.9, {"a": 2.0}]}}
    read = TrainingArgs.of_request(given)
    assert read == TrainingArgs.from_dict(given)
    assert TrainingArgs.of_request(dict(given)) is read
    for copied in (TrainingArgs.from_request(given), TrainingArgs.from_request(given)):
        copied.optimizer_args["betas"][1]["a"] = 3.0
        copied.loader_args["batch_size"] = 1
    given["optimizer_args"]["betas"][1]["a"] = 4.0
    assert read.optimizer_args["betas"] == [0.9, {"a": 2.0}]
    assert "batch_size" not in read.loader_args


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0, False)])
def test_values_that_are_equal_and_not_the_same_are_told_apart(one, other):
    for value in (one, other):
        assert repr(TrainingArgs.from_request({"optimizer_args": {"x": value}}).optimizer_args["x"]) == repr(value)


def test_wrong_arguments_of_a_request_are_refused_each_time():
    for values in ({"epochs": 0}, {"epohcs": 1}, {"loader_args": {"x": object()}}):
        for _ in range(2):
            with pytest.raises(TrainingArgsError):
                TrainingArgs.from_request(values)
