"""Metrics: what they are called, which arguments they take, what they refuse, and how sums are checked and merged."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

from fedplug import Component, Metric, MetricTypes, Params, hookimpl
from fedplug.core.errors import PlanError, UnknownNameError, UpdateRejectedError, UsageError
from fedplug.core.metrics import findings, make_metrics, merged
from fedplug.core.metrics.sums import MOST_NUMBERS, check_layout, check_sums
from fedplug.core.plugins import PluginHost


def made(name, **args):
    (metric,) = make_metrics([name], args).values()
    return metric


def value(name, outputs, targets, **args):
    metric = made(name, **args)
    return metric.value(metric.state(np.array(outputs), np.array(targets)))


def test_every_type_has_a_metric_of_its_name():
    names = [each.value for each in MetricTypes]
    assert len(names) == 10
    assert list(make_metrics(names)) == names
    assert all(isinstance(metric, Metric) for metric in make_metrics(names).values())


def test_the_older_name_means_the_same():
    assert MetricTypes.MEAN_SQUARE_ERROR is MetricTypes.MEAN_SQUARED_ERROR
    assert list(make_metrics(["mean_square_error"])) == ["mean_squared_error"]


def test_an_unknown_metric_is_told_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"no metric named 'f1score'\.\nDid you mean 'f1_score'\?"):
        make_metrics(["f1score"])


def test_an_unknown_argument_is_told_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"accuracy, auc named 'n_clases'\.\nDid you mean 'n_classes'\?"):
        make_metrics(["accuracy", "auc"], {"n_clases": 3})
    with pytest.raises(UnknownNameError, match=r"argument of test_metric auc named 'threshold'"):
        make_metrics(["accuracy", "auc"], {"auc": {"threshold": 0.2}})


def test_each_metric_gets_the_arguments_that_it_knows():
    both = make_metrics(["accuracy", "auc"], {"n_classes": 3, "bins": 16, "threshold": 0.3, "auc": {"bins": 8}})
    assert (both["accuracy"].n_classes, both["accuracy"].threshold) == (3, 0.3)
    assert (both["auc"].n_classes, both["auc"].bins) == (3, 8)


@pytest.mark.parametrize(
    ("name", "args", "problem"),
    [
        ("accuracy", {"n_classes": 1}, "n_classes must be a whole number >= 2, got 1"),
        ("accuracy", {"n_classes": True}, "n_classes must be a whole number >= 2, got True"),
        ("accuracy", {"threshold": "half"}, "threshold must be a number, got 'half'"),
        ("accuracy", {"logits": 1}, "logits must be True or False, got 1"),
        ("f1_score", {"average": "samples"}, "average must be one of binary, weighted, macro, micro, got 'samples'"),
        ("recall", {"pos_label": 2}, "pos_label must be 0 or 1, got 2"),
        ("recall", {"pos_label": 1, "average": "macro"}, "no positive class in an average of the kind 'macro'"),
        ("recall", {"pos_label": 1, "n_classes": 3}, "pos_label is for two classes, but there are 3"),
        ("auc", {"bins": 1}, "bins must be a whole number from 2 to 262144, got 1"),
        ("auc", {"auc": 5}, r"test_metric_args\['auc'\] must be a dict of arguments, got 5"),
    ],
)
def test_arguments_are_checked(name, args, problem):
    with pytest.raises(UsageError, match=problem):
        make_metrics([name], args)


def test_several_columns_tell_the_number_of_classes():
    outputs = [[0.1, 2.0, 0.3], [9.0, 1.0, 0.0]]
    assert value("accuracy", outputs, [1, 2]) == {"accuracy": 0.5}
    assert value("confusion_matrix", outputs, [1, 2]) == {"confusion_matrix": [[0, 0, 0], [0, 1, 0], [1, 0, 0]]}


def test_a_single_output_is_compared_with_the_threshold():
    scores, targets = [0.5, 0.6, 0.2, 0.45], [0, 1, 0, 1]
    assert value("accuracy", scores, targets) == {"accuracy": 0.75}
    assert value("accuracy", scores, targets, threshold=0.4) == {"accuracy": 0.75}
    assert value("accuracy", [-3.0, 2.0, -0.1, 0.2], targets, logits=True) == {"accuracy": 1.0}
    assert value("accuracy", [-3.0, 2.0, -0.1, 0.2], targets, threshold=0) == {"accuracy": 1.0}
    with pytest.raises(PlanError, match=r"output -3 is no probability.*\n.*logits.*or a threshold of your own"):
        value("accuracy", [-3.0, 2.0, -0.1, 0.2], targets)


def test_whole_numbers_as_output_are_classes_already():
    assert value("accuracy", [2, 1, 0], [2, 1, 1], n_classes=3) == {"accuracy": 2 / 3}
    assert value("accuracy", [2.0, 1.0, 0.0], [2, 1, 1], n_classes=3) == {"accuracy": 2 / 3}
    assert value("accuracy", [True, False], [1.0, 1.0]) == {"accuracy": 0.5}


def test_each_place_of_an_image_is_a_sample():
    outputs = np.zeros((2, 3, 4, 5))
    outputs[:, 1] = 1
    targets = np.ones((2, 4, 5), int)
    targets[0, 0, 0] = 2
    assert value("accuracy", outputs, targets) == {"accuracy": 39 / 40}


@pytest.mark.parametrize(
    ("outputs", "targets", "problem"),
    [
        ([[0.1, 0.9]], [2], "The target holds the class 2, but with 2 classes they are 0 to 1"),
        ([[0.1, 0.9]], [-1], "The target holds the class -1"),
        ([[0.1, 0.9]], [0.5], "The target holds 0.5, but classes are whole numbers"),
        ([[0.1, 0.9]], [math.nan], "The target holds nan, but classes are whole numbers"),
        ([[0.1, 0.9]], ["yes"], "The target holds <U3, but classes are whole numbers"),
        ([[0.1, math.nan]], [1], "The model's output holds NaN"),
        ([[0.1, 0.9], [0.2, 0.8]], [[0, 1], [1, 0]], r"one class number as target.*\n.*targets.argmax\(1\)"),
        ([0.1, 0.9, 0.3], [1, 0], r"The model's output has shape \(3,\) and the target \(2,\)"),
        ([3, 1], [1, 1], "The model's output holds the class 3, but with 2 classes"),
        (["a", "b"], [1, 1], "The model's output holds <U1, not numbers"),
    ],
)
def test_what_is_no_class_is_told(outputs, targets, problem):
    for name in ("accuracy", "f1_score", "confusion_matrix"):
        with pytest.raises(PlanError, match=problem):
            value(name, outputs, targets)


def test_another_number_of_columns_than_n_classes_is_told():
    for name in ("accuracy", "auc"):
        with pytest.raises(PlanError, match=r"n_classes is 3, but the model's output"):
            value(name, [[0.1, 0.9]], [1], n_classes=3)


def test_auc_takes_probabilities_or_logits():
    targets = [0, 1, 0, 1]
    assert value("auc", [0.1, 0.9, 0.2, 0.8], targets) == {"auc": 1.0, "auc_error_bound": 0.0}
    assert value("auc", [-5.0, 3.0, -2.0, 1.0], targets, logits=True)["auc"] == 1.0
    columns = np.array([[5.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0]])
    assert value("auc", columns, targets)["auc"] == 1.0
    assert value("auc", [[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.2, 0.8]], targets, logits=False)["auc"] == 1.0
    assert value("auc", [0.1, 0.1, 0.1, 0.1], targets) == {"auc": 0.5, "auc_error_bound": 0.5}
    with pytest.raises(PlanError, match=r'output 3 is no probability.*\nSet test_metric_args=\{"logits": True\}'):
        value("auc", [0.5, 3.0, 0.2, 1.0], targets)
    with pytest.raises(PlanError, match="holds infinity"):
        value("auc", [[math.inf, 0.0]], [1])
    assert value("auc", [[-math.inf, 0.0], [0.0, -3.0]], [1, 0])["auc"] == 1.0  # a log-softmax may say so


def test_regression_does_not_broadcast():
    assert value("mean_squared_error", [[1.0], [2.0]], [1.0, 4.0]) == {"mean_squared_error": 2.0}
    assert value("mean_absolute_error", 3.0, [1.0]) == {"mean_absolute_error": 2.0}  # a batch of one, squeezed
    with pytest.raises(PlanError, match=r"output has shape \(2, 2\), the target \(2,\); they must agree"):
        value("mean_squared_error", [[1.0, 1.0], [2.0, 2.0]], [1.0, 4.0])
    with pytest.raises(PlanError, match="The target holds NaN or infinity"):
        value("r2_score", [1.0, 2.0], [1.0, math.inf])
    with pytest.raises(PlanError, match="too large to be summed"):
        value("mean_squared_error", [1e200, 2.0], [1.0, 2.0])


def test_targets_without_spread_have_no_r2():
    for name in ("r2_score", "explained_variance"):
        assert math.isnan(value(name, [1.0, 2.0], [3.0, 3.0])[name])
    assert value("r2_score", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == {"r2_score": 1.0}
    assert value("explained_variance", [2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == {"explained_variance": 1.0}
    assert value("r2_score", [2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == {"r2_score": -0.5}


@pytest.mark.parametrize(
    ("name", "args", "state", "problem"),
    [
        ("accuracy", {}, [3, 2], "more right answers than samples"),
        ("accuracy", {}, [1, 2, 3], "more right answers than samples"),
        ("accuracy", {}, [-1, 2], "cannot be counted"),
        ("accuracy", {}, [0.5, 2], "cannot be counted"),
        ("accuracy", {}, [0, 2.0**54], "cannot be counted"),
        ("accuracy", {}, [0, 0], "counts no sample"),
        ("recall", {}, [1, 1, 1, 1], "another number of classes"),
        ("recall", {"n_classes": 3}, [1, 1, 1, 1, 1, 1], "another number of classes"),
        ("recall", {}, [2, 0, 1, 1, 2, 0], "contradict each other"),
        ("recall", {}, [0, 0, 1, 1, 1, 0], "contradict each other"),
        ("confusion_matrix", {}, [1, 2, 3], "another number of classes"),
        ("confusion_matrix", {"n_classes": 3}, [1, 2, 3, 4], "another number of classes"),
        ("auc", {"bins": 2}, [1, 2, 3], "another number of bins or classes"),
        ("auc", {"bins": 2}, [1, 2, 3, 4] * 2, "another number of bins or classes"),
        ("auc", {"bins": 2}, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2], "contradict each other"),
        ("auc", {"bins": 2}, [2, 0, 1, 1] * 3, "contradict each other"),
        ("mean_squared_error", {}, [0, 1], "number of samples is impossible"),
        ("mean_squared_error", {}, [1.5, 1], "number of samples is impossible"),
        ("mean_squared_error", {}, [2, -1], "sum of errors is negative"),
        ("mean_absolute_error", {}, [2], "number of samples is impossible"),
        ("r2_score", {}, [2, 1, 1, 1], "another number of sums"),
        ("r2_score", {}, [2, 9, 1, 1, 1], "contradict each other"),
        ("explained_variance", {}, [2, 1, 1, 9, 1], "contradict each other"),
        ("explained_variance", {}, [2, 0, 1, 0, -1], "contradict each other"),
    ],
)
def test_impossible_states_are_refused(name, args, state, problem):
    with pytest.raises(UpdateRejectedError, match=problem):
        made(name, **args).check(np.array(state, np.float64))


def sums(**more):
    return {"global/metric/accuracy": np.array([3.0, 4.0]), "global/mean/loss": np.array([2.0, 4.0]), **more}


def checked(found, tests=("global",), sizes=None):
    check_sums(found, make_metrics(["accuracy"]), tests, sizes or {})


def test_sums_that_were_asked_for_pass():
    checked(sums())
    checked({"global/mean/loss": np.array([math.nan, 4.0])})  # a plan's own number may be NaN: it shows
    checked({})  # no sample was held out


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"local/metric/accuracy": np.ones(2)}, "'local/metric/accuracy' was not asked for"),
        (sums(**{"global/metric/auc": np.ones(4)}), "'global/metric/auc' was not asked for"),
        (sums(**{"global/other/auc": np.ones(4)}), "'global/other/auc' was not asked for"),
        ({"nonsense": np.ones(2)}, "'nonsense' was not asked for"),
        ({"global/metric/accuracy": np.array([1, math.inf])}, "not finite"),
        ({"global/metric/accuracy": np.array([5.0, 4.0])}, "is impossible: it counts more right answers"),
        ({"global/mean/loss": np.array([5.0, 0.0])}, "of no whole number of samples"),
        ({"global/mean/loss": np.array([5.0, 1.5])}, "of no whole number of samples"),
        ({"global/mean/loss": np.ones(3)}, "of no whole number of samples"),
    ],
)
def test_sums_that_no_test_can_have_are_refused(found, problem):
    with pytest.raises(UpdateRejectedError, match=problem):
        checked(found)


def test_all_metrics_of_a_test_must_be_there():
    both = make_metrics(["accuracy", "recall"])
    with pytest.raises(UpdateRejectedError, match="'global/metric/recall' is missing"):
        check_sums(sums(), both, ["global"], {})


def test_states_of_all_nodes_have_one_size():
    with pytest.raises(UpdateRejectedError, match="has 2 numbers, those of other nodes 3"):
        checked(sums(), sizes={"global/metric/accuracy": 3})


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"global/mean/a": np.zeros(2, np.float32)}, "no vector of float64"),
        ({"global/mean/a": np.zeros((2, 1))}, "no vector of float64"),
        ({"global/mean/a": np.zeros(0)}, "no vector of float64"),
        ({"global/mean/" + "a" * 400: np.zeros(2)}, "no vector of float64"),
        ({"global/mean/a": np.zeros(MOST_NUMBERS + 1)}, "at most 4,096 arrays of 8,388,608 bytes"),
        ({f"global/mean/{i}": np.zeros(1) for i in range(4097)}, "are 4,097 arrays"),
    ],
)
def test_sums_of_another_form_are_refused_before_they_are_fetched(arrays, problem):
    with pytest.raises(UpdateRejectedError, match=problem):
        check_layout(Params.from_arrays(arrays).spec)


def test_findings_are_named_and_both_of_one_name_are_there():
    found = findings(
        {
            "metric/accuracy": np.array([3.0, 4.0]),
            "metric/confusion_matrix": np.array([1.0, 0.0, 1.0, 2.0]),
            "mean/accuracy": np.array([1.0, 4.0]),
            "mean/loss": np.array([2.0, 4.0]),
        },
        make_metrics(["accuracy", "confusion_matrix"]),
    ).named("test_local_")
    assert found.scalars == {
        "test_local_accuracy": 0.75, "test_local_testing_step_accuracy": 0.25, "test_local_loss": 0.5,
    }  # fmt: skip
    assert found.values == {"test_local_confusion_matrix": [[1, 0], [1, 2]]}


def test_merging_adds_what_each_has_and_changes_nothing():
    one, two = {"a": np.array([1.0]), "b": np.array([2.0])}, {"a": np.array([10.0])}
    total = merged([one, two])
    assert {name: array.tolist() for name, array in total.items()} == {"a": [11.0], "b": [2.0]}
    assert one["a"].tolist() == [1.0]


class Sloppy(Metric):
    """Checks nothing, and divides by what it is sent."""

    def state(self, outputs, targets):
        return np.array([len(targets)], float)

    def value(self, state):
        return {"sloppy": 1 / int(state[0])}


def test_metrics_of_plugins_are_known_by_their_name_and_their_failures_are_theirs():
    host = PluginHost.discover(found=[])
    offer = hookimpl(lambda: [Component("sloppy", Sloppy), Component("number", int)])
    host.register(types.SimpleNamespace(fedplug_register_metrics=offer), "mine")
    metrics = make_metrics(["sloppy"], {}, host)
    assert findings({"metric/sloppy": np.array([4.0])}, metrics).scalars == {"sloppy": 0.25}
    with pytest.raises(PlanError, match="The metric 'sloppy' failed in value: ZeroDivisionError"):
        findings({"metric/sloppy": np.array([0.0])}, metrics)
    with pytest.raises(UsageError, match=r"'number' is no class derived from fedplug\.Metric"):
        make_metrics(["number"], {}, host)
    with pytest.raises(UnknownNameError, match="argument of test_metric sloppy named 'bins'"):
        make_metrics(["sloppy"], {"bins": 3}, host)
