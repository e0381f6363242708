"""From what `training_data` returns to batches of rows: what is taken, what is refused and why, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from fedplug import DataManager
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import DatasetError, PlanError, UnknownNameError, UsageError
from fedplug.core.node_dataset import NodeDataset
from fedplug.core.processes import ProcessedSource
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Trainer
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import PlanSetup
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.datasets.registry import DatasetCache, inspect_file
from fedplug_sklearn import FedSGDClassifier, FedSGDRegressor, SkLearnDataManager
from fedplug_sklearn.data import Rows, Weighted, parts_of, wrap

SEED = SeedTree.root(0)
SPARSE = [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.lil_matrix, sp.csr_array, sp.csc_array, sp.coo_array]


def drawn(source, *, shuffle=True, **args):
    return list(source.epoch(LoaderArgs.merge({"batch_size": 4, "shuffle": shuffle}, args), SEED))


class Classes(FedSGDClassifier):
    """What it is told to return from training_data."""

    made: DataManager

    def training_data(self):
        return self.made


class Numbers(FedSGDRegressor):
    made: DataManager

    def training_data(self):
        return self.made


def rows_for(plan_class, manager, dataset=None, **model_args) -> Rows:
    """What the loop of this plan would draw from."""
    plan = plan_class()
    plan.made = manager
    plan.setup(PlanSetup(model_args=model_args, training_args=TrainingArgs(), dataset=dataset))
    return plan.make_data().dataset


# features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, np.uint16, np.bool_, ">f8", ">i4"]
)
def test_numbers_of_every_dtype_stay_as_they_are(dtype):
    array = np.arange(12).reshape(4, 3).astype(dtype)
    rows = wrap(DataManager(array))
    assert np.shares_memory(rows.data, array)
    assert rows.data.dtype == array.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_pass_holds_no_more_memory_than_the_data_that_were_given(dtype):
    array = np.ones((100, 7), dtype)
    source = wrap(DataManager(array, np.zeros(100)))
    assert source.data.nbytes == array.nbytes
    assert {data.dtype for data, _ in drawn(source)} == {np.dtype(dtype)}
    assert all(np.shares_memory(data, array) for data, _ in drawn(source, shuffle=False))


def test_images_are_flattened_to_rows():
    images = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(wrap(DataManager(images)).data, images.reshape(2, -1))


@pytest.mark.parametrize("kind", SPARSE)
def test_every_sparse_format_becomes_csr_with_the_same_numbers(kind):
    dense = np.array([[0, 2.5, 0], [0, 0, 0], [1, 0, -3]])
    rows = wrap(DataManager(kind(dense), np.arange(3)))
    assert rows.data.format == "csr"
    np.testing.assert_array_equal(rows.data.toarray(), dense)
    np.testing.assert_array_equal(rows.subset(np.array([2, 0])).data.toarray(), dense[[2, 0]])


def test_entries_of_a_sparse_matrix_that_stand_twice_are_added():
    twice = sp.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(1, 2))
    assert wrap(DataManager(twice)).data.toarray().tolist() == [[0, 3]]


def test_a_table_of_one_kind_of_numbers_keeps_it():
    assert wrap(DataManager(pd.DataFrame({"a": [1, 2], "b": [3, 4]}, dtype=np.int16))).data.dtype == np.int16


def test_a_table_of_mixed_and_nullable_numbers_becomes_float64_column_by_column():
    table = pd.DataFrame(
        {
            "int": [1, 2],
            "float": np.array([0.5, 1.5], np.float32),
            "bool": [True, False],
            "Int64": pd.array([3, 4], dtype="Int64"),
            "Float64": pd.array([0.25, 4], dtype="Float64"),
            "boolean": pd.array([False, True], dtype="boolean"),
            "Sparse": pd.arrays.SparseArray([0.0, 7.0]),
        }
    )
    data = wrap(DataManager(table)).data
    assert data.dtype == np.float64
    assert data.tolist() == [[1, 0.5, 1, 3, 0.25, 0, 0], [2, 1.5, 0, 4, 4, 1, 7]]


def test_columns_of_one_name_are_two_columns():
    assert wrap(DataManager(pd.DataFrame([[1, 2.5], [3, 4.5]], columns=["a", "a"]))).data.tolist() == [
        [1, 2.5],
        [3, 4.5],
    ]


def test_rows_of_pandas_go_by_their_place_and_not_by_their_index():
    frame = pd.DataFrame({"a": [10.0, 20.0, 30.0]}, index=[2, 0, 1])
    target = pd.Series([1, 2, 3], index=[1, 2, 0])
    rows = wrap(DataManager(frame, target))
    assert rows.data[:, 0].tolist() == [10, 20, 30]
    assert rows.target.tolist() == [1, 2, 3]


def test_columns_that_are_no_numbers_are_named_but_not_all_of_many():
    frame = pd.DataFrame(
        {"a": [1.0], "city": ["Paris"], "when": pd.to_datetime(["2020"]), "kind": pd.Categorical(["x"])}
    )
    with pytest.raises(DatasetError, match="Not all columns are numeric: city, when, kind") as caught:
        wrap(DataManager(frame))
    assert "get_dummies" in caught.value.cure
    with pytest.raises(DatasetError, match="c0, c1, c2, c3, c4, and 2 more"):
        wrap(DataManager(pd.DataFrame({f"c{i}": ["text"] for i in range(7)})))


def test_columns_with_missing_values_are_named_with_how_many_they_have():
    table = pd.DataFrame(
        {"a": [1.0, np.nan], "b": [1, 2], "c": pd.array([None, None], dtype="Int64"), "d": [1, np.inf]}
    )
    with pytest.raises(DatasetError, match=r"not finite in 3 columns: a \(1\), c \(2\), d \(1\)\.") as caught:
        wrap(DataManager(table))
    assert "the same at all nodes" in caught.value.cure


@pytest.mark.parametrize(
    "data",
    [
        np.array([[1, np.nan], [2, -np.inf]]),
        np.array([[1, np.nan], [2, np.inf]], np.float16),
        np.ma.array([[1, 7], [2, 7]], mask=[[False, True], [False, True]]),
        np.ma.array([[1.0, np.nan], [2.0, 7.0]], mask=[[False, False], [False, True]]),
        sp.csr_matrix([[1, np.nan], [2, np.inf]]),
    ],
)
def test_without_names_the_number_of_the_column_is_told(data):
    with pytest.raises(DatasetError, match=r"not finite in 1 column: 1 \(2\)\."):
        wrap(DataManager(data))


def test_a_masked_array_without_a_hole_is_an_array():
    rows = wrap(DataManager(np.ma.array([[1, 2]], mask=False), np.ma.array([3])))
    assert (type(rows.data), type(rows.target)) == (np.ndarray, np.ndarray)


@pytest.mark.parametrize(
    ("data", "words", "cure"),
    [
        ([[1.0, 2.0]], "cannot train on a list", "NumPy array, a pandas DataFrame or a SciPy sparse matrix"),
        ({"x": np.zeros((2, 2))}, "cannot train on a dict", "NumPy array"),
        ((np.zeros((2, 2)),), "cannot train on a tuple", "NumPy array"),
        ("data.csv", "cannot train on a str", "NumPy array"),
        (np.zeros(3), r"has shape \(3,\)", r"reshape(-1, 1)"),
        (pd.Series([1.0, 2.0]), r"has shape \(2,\)", r"reshape(-1, 1)"),
        (sp.coo_array(np.ones(3)), r"has shape \(3,\)", "two axes"),
        (np.array([["a", "b"]]), "The ndarray holds text, not numbers", "training_data"),
        (np.array([["a", 1]], object), "The ndarray holds text, not numbers", "training_data"),
        (np.array([[1, 2]], object), "The ndarray holds object, not numbers", "training_data"),
        (np.array([[1j]]), "The ndarray holds complex128, not numbers", "training_data"),
        (sp.csr_matrix(np.array([[1j]])), "The csr_matrix holds complex128, not numbers", "training_data"),
        (pd.DataFrame(index=[1, 2]), "has no columns to learn from", "training_data"),
    ],
)
def test_what_cannot_be_rows_of_numbers_is_refused_with_a_cure(data, words, cure):
    with pytest.raises(DatasetError, match=words) as caught:
        wrap(DataManager(data))
    assert cure in caught.value.cure


# targets -------------------------------------------------------------------------------------------------------

LABELS = [1, 0, 2]


@pytest.mark.parametrize(
    "target",
    [
        np.array(LABELS),
        np.array(LABELS, np.uint8),
        np.array(LABELS, np.float32),
        np.array(LABELS)[:, np.newaxis],
        np.array(LABELS, object),
        LABELS,
        pd.Series(LABELS, index=[7, 7, 7]),
        pd.Series(LABELS, dtype="Int64"),
        pd.Series(LABELS, dtype="category"),
        pd.DataFrame({"label": LABELS}),
        pd.DataFrame({"label": pd.array(LABELS, dtype="Float64")}),
    ],
)
def test_labels_in_every_form_become_whole_numbers_in_their_order(target):
    rows = rows_for(Classes, DataManager(np.zeros((3, 2)), target), n_features=2, n_classes=3)
    assert rows.target.dtype == np.int64
    assert rows.target.tolist() == LABELS


@pytest.mark.parametrize("target", [np.array([True, False]), pd.Series([True, False], dtype="boolean")])
def test_truth_values_are_the_classes_1_and_0(target):
    rows = rows_for(Classes, DataManager(np.zeros((2, 1)), target), n_features=1, n_classes=2)
    assert rows.target.tolist() == [1, 0]


@pytest.mark.parametrize("target", [np.array([1, 3], np.int8), np.array([1, 3], np.float32), pd.Series([1, 3])])
def test_a_regression_takes_every_number_as_float64(target):
    rows = rows_for(Numbers, DataManager(np.zeros((2, 1)), target), n_features=1)
    assert rows.target.dtype == np.float64
    assert rows.target.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("target", "words", "cure"),
    [
        (np.array([[0, 1], [1, 0]]), r"The target has shape \(2, 2\)", "target.argmax(1)"),
        (pd.DataFrame({"no": [0, 1], "yes": [1, 0]}), r"The target has shape \(2, 2\)", "target.argmax(1)"),
        (np.array(3), r"The target has shape \(\)", "array"),
        (np.array(["b", "m"]), "The target holds text, not numbers", "{name: number}"),
        (pd.Series(["b", "m"]), "The target holds text, not numbers", "{name: number}"),
        (pd.Series(["b", None], dtype="string"), "The target holds text, not numbers", "{name: number}"),
        (pd.Series([1, None], dtype="Int64"), r"missing or not finite in 1 of 2 samples \(first: row 1\)", "Drop"),
        (pd.Series([np.nan, np.inf]), r"missing or not finite in 2 of 2 samples \(first: row 0\)", "Drop"),
        (np.array([1, None], object), r"missing or not finite in 1 of 2 samples \(first: row 1\)", "Drop"),
        (np.ma.array([1, 1], mask=[True, False]), r"missing or not finite in 1 of 2 samples \(first: row 0\)", "Drop"),
        (np.arange(3), "The data has 2 samples, the target 3", "same order"),
    ],
)
def test_what_cannot_be_a_target_is_refused_with_a_cure(target, words, cure):
    with pytest.raises(DatasetError, match=words) as caught:
        wrap(DataManager(np.zeros((2, 1)), target))
    assert cure in caught.value.cure


@pytest.mark.parametrize("word", ["melanoma", "Ms Jones"])
def test_no_value_of_the_data_is_told_where_text_is_refused(word):
    for manager in (
        DataManager(np.zeros((1, 1)), np.array([word])),
        DataManager(np.array([[word]])),
        DataManager(pd.DataFrame({"a": [word]})),
    ):
        with pytest.raises(DatasetError) as caught:
            wrap(manager)
        assert word not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ([0, 1, 5, 5], r"the class 5 \(2 of 4 samples have such\), but with n_classes=3 they are 0 to 2"),
        ([0.0, -1.0, 2.0, 1.0], r"the class -1 \(1 of 4 samples have such\), but with n_classes=3 they are 0 to 2"),
        ([1, 2, 3, 1], r"the class 3 \(1 of 4"),
        ([0, 0.5, 1, 2], r"holds 0\.5, but classes are whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_value(target, words):
    manager = DataManager(np.zeros((4, 1)), np.array(target))
    with pytest.raises(DatasetError, match=words):
        rows_for(Classes, manager, n_features=1, n_classes=3)


def test_the_number_of_features_and_the_target_are_checked():
    with pytest.raises(DatasetError, match="The data has 2 features, but model_args say n_features=3"):
        rows_for(Numbers, DataManager(np.zeros((4, 2)), np.zeros(4)), n_features=3)
    for plan_class, sizes in ((Numbers, {}), (Classes, {"n_classes": 2})):
        with pytest.raises(DatasetError, match="no target to learn") as caught:
            rows_for(plan_class, DataManager(np.zeros((4, 2))), n_features=2, **sizes)
        assert "DataManager(features, labels)" in caught.value.cure


def test_training_data_must_return_a_data_manager():
    with pytest.raises(PlanError, match="must return a DataManager, but returned ndarray"):
        rows_for(Numbers, np.zeros((2, 2)), n_features=2)


def test_a_trainer_checks_plain_pairs_as_a_node_does():
    plan = Classes()
    plan.setup(PlanSetup(model_args={"n_features": 1, "n_classes": 2}, training_args=TrainingArgs()))
    with pytest.raises(DatasetError, match="holds the class 2"):
        Trainer(plan.make_backend(), {"train": (np.zeros((2, 1)), np.array([0, 2]))}).train()
    with pytest.raises(DatasetError, match="2 features"):
        Trainer(plan.make_backend(), {"train": (np.zeros((2, 2)), np.array([0, 1]))}).train()


# weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [[1, 0, 2.5], np.array([[1], [0], [2.5]]), pd.Series([1, 0, 2.5], index=[3, 1, 2])])
def test_weights_go_with_their_rows(weight):
    rows = wrap(SkLearnDataManager(np.arange(3.0)[:, np.newaxis], np.arange(3), sample_weight=weight))
    (data, target), *_ = rows.batches(LoaderArgs(2), np.array([2, 0, 1]))
    assert isinstance(data, Weighted)
    assert (data.x[:, 0].tolist(), data.weight.tolist(), target.tolist()) == ([2, 0], [2.5, 1], [2, 0])
    assert rows.subset(np.array([2])).weight.tolist() == [2.5]


def test_parts_of_a_batch_are_its_rows_and_their_weights_if_any():
    assert parts_of(Weighted("rows", "weights")) == ("rows", "weights")
    rows = np.zeros((1, 1))
    assert parts_of(rows) == (rows, None)


@pytest.mark.parametrize(
    ("weight", "words", "cure"),
    [
        ([1.0, 2.0], "The data has 3 samples, sample_weight 2", "one weight per sample"),
        ([1.0, -0.5, 1.0], "negative value -0.5", "0 or more"),
        ([1.0, np.nan, 1.0], "The sample_weight is missing or not finite in 1 of 3", "Drop"),
        (["a", "b", "c"], "The sample_weight holds text", "a number for each sample"),
        ("column", r"The sample_weight has shape \(\)", "array"),
    ],
)
def test_what_cannot_be_weights_is_refused_with_a_cure(weight, words, cure):
    with pytest.raises(DatasetError, match=words) as caught:
        wrap(SkLearnDataManager(np.zeros((3, 1)), np.zeros(3), sample_weight=weight))
    assert cure in caught.value.cure


# batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_a_pass_covers_every_sample_once_in_the_order_of_the_seed(kind):
    source = wrap(DataManager(kind(np.arange(10.0)[:, np.newaxis]), np.arange(10)))
    order = SEED.generator().permutation(10).tolist()
    got = drawn(source)
    assert [data.shape[0] for data, _ in got] == [4, 4, 2]
    assert np.concatenate([target for _, target in got]).tolist() == order
    assert sp.vstack([sp.csr_matrix(data) for data, _ in got]).toarray()[:, 0].tolist() == order


@pytest.mark.parametrize("drop_last", [False, True])
def test_without_shuffle_the_order_is_the_samples_own_and_drop_last_leaves_the_rest_out(drop_last):
    source = wrap(DataManager(np.arange(10.0)[:, np.newaxis], np.arange(10)))
    got = drawn(source, shuffle=False, drop_last=drop_last)
    assert np.concatenate([target for _, target in got]).tolist() == list(range(8 if drop_last else 10))


def test_no_target_is_none():
    source = wrap(DataManager(np.zeros((5, 1))))
    assert all(target is None for _, target in drawn(source))
    assert source.labels() is None
    assert source.subset(np.array([1])).target is None


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_a_split_shares_all_rows_out_with_their_targets_and_weights(kind, stratify):
    number = np.arange(30)
    labels = (number % 3 == 0).astype(np.int64)
    source = wrap(SkLearnDataManager(kind(number[:, np.newaxis]), labels, sample_weight=number))
    parts = source.split(0.3, SEED, stratify=stratify)
    assert [len(part) for part in parts] == [21, 9]
    for part in parts:
        rows = part.weight.astype(int)
        assert sp.csr_matrix(part.data).toarray()[:, 0].tolist() == rows.tolist() == sorted(rows)
        assert part.target.tolist() == labels[rows].tolist()
    assert sorted([*parts[0].weight, *parts[1].weight]) == number.tolist()
    if stratify:
        assert parts[1].target.sum() == 3


def test_unknown_loader_arguments_are_named_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="'batchsize'") as caught:
        wrap(DataManager(np.zeros((3, 1)))).check_args(LoaderArgs.merge({"batchsize": 2}))
    assert "Did you mean 'batch_size'?" in caught.value.cure
    with pytest.raises(UnknownNameError, match="'num_workers'"):
        wrap(DataManager(np.zeros((3, 1)))).check_args(LoaderArgs.merge({"num_workers": 2}))


def test_loader_arguments_of_the_plan_are_kept():
    plan = Numbers()
    plan.made = DataManager(np.zeros((3, 1)), np.zeros(3), batch_size=7, shuffle=False)
    plan.setup(PlanSetup(model_args={"n_features": 1}, training_args=TrainingArgs()))
    assert plan.make_data().loader_args == {"batch_size": 7, "shuffle": False}


def test_rows_that_were_wrapped_once_are_not_wrapped_again():
    rows = wrap(DataManager(np.zeros((3, 1)), np.zeros(3)))
    assert wrap(DataManager(rows)) is rows
    assert wrap(DataManager(rows)).target is rows.target


def test_a_method_of_the_plan_may_change_the_batches():
    source = ProcessedSource(
        wrap(DataManager(np.ones((5, 1)), np.zeros(5))), [lambda batches: ((2 * x, y) for x, y in batches)]
    )
    assert {float(value) for data, _ in drawn(source) for value in data.ravel()} == {2.0}


# the node's data set and tables ---------------------------------------------------------------------------------


def csv_dataset(folder: Path, target: str) -> NodeDataset:
    path = folder / "patients.csv"
    path.write_text("age,label,weight\n40,1,70.5\n50,0,80.5\n60,1,90\n")
    record, _ = inspect_file(path, tags=["#p"], target=target)
    return DatasetCache().get(record)


@pytest.mark.parametrize(("owner", "named"), [("label", ()), ("", ("label",)), ("weight", ("label",))])
def test_a_csv_file_gives_all_columns_but_the_target_in_their_order(tmp_path, owner, named):
    dataset = csv_dataset(tmp_path, owner)
    rows = rows_for(Classes, DataManager(dataset, *named), dataset, n_features=2, n_classes=2)
    assert rows.data.tolist() == [[40, 70.5], [50, 80.5], [60, 90]]
    assert rows.target.tolist() == [1, 0, 1]


def test_a_csv_file_whose_owner_named_no_target_needs_a_name(tmp_path):
    with pytest.raises(UsageError, match="named no target") as caught:
        DataManager(csv_dataset(tmp_path, ""))
    assert 'DataManager(self.dataset, "label")' in caught.value.cure


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(DatasetError, match="no column 'lable'") as caught:
        DataManager(csv_dataset(tmp_path, "label"), "lable")
    assert "age, label, weight" in caught.value.cure


def test_a_missing_value_in_a_csv_file_is_told_with_its_place(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("a,b,label\n1,NA,0\n2,3,1\n")
    dataset = DatasetCache().get(inspect_file(path, tags=["#p"], target="label")[0])
    with pytest.raises(DatasetError, match=r"not finite in 1 column: 1 \(1\)"):
        rows_for(Classes, DataManager(dataset), dataset, n_features=2, n_classes=2)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
def test_a_data_set_of_one_array_and_its_target_is_rows_of_that_array(shape):
    x = np.arange(float(np.prod(shape))).reshape(shape)
    dataset = MemoryDataset("m", {"x": x, "y": [0, 1, 1]}, target="y")
    rows = wrap(DataManager(dataset))
    np.testing.assert_array_equal(rows.data, x.reshape(3, -1))
    assert rows.target.tolist() == [0, 1, 1]


def test_a_named_column_of_a_table_is_the_target_and_no_feature():
    frame = pd.DataFrame({"a": [1.0, 2.0], "label": [0, 1], "b": [3, 4]})
    rows = wrap(DataManager(frame, "label"))
    assert rows.data.tolist() == [[1, 3], [2, 4]]
    assert rows.target.tolist() == [0, 1]
    weighted = wrap(SkLearnDataManager(frame, "label", sample_weight=[1, 2]))
    assert weighted.data.tolist() == [[1, 3], [2, 4]]
    assert "label" in frame.columns


@pytest.mark.parametrize("data", [np.zeros((2, 2)), sp.csr_matrix((2, 2)), [[1, 2]]])
def test_a_name_needs_a_table(data):
    with pytest.raises(UsageError, match=r"The target is the name 'label', but a .+ has no columns"):
        DataManager(data, "label")


def test_a_table_without_the_named_column_is_told():
    with pytest.raises(DatasetError, match="has no column 'label'") as caught:
        DataManager(pd.DataFrame({"a": [1], "labels": [0]}), "label")
    assert "a, labels" in caught.value.cure
