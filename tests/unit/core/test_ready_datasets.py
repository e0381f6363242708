from __future__ import annotations

import numpy as np
import pytest

from fedplug import CustomDataset, DataManager, NumpyTrainingPlan, TabularDataset
from fedplug.core.data import ArrayData, LoaderArgs
from fedplug.core.errors import DatasetError, PlanError, UsageError
from fedplug.core.plugins import default_host
from fedplug.core.training_plan import PlanSetup
from fedplug.node.datasets.memory import MemoryDataset


def wards():
    return MemoryDataset(
        "wards",
        {"age": [61, 47, 35], "size": [1.5, 2.5, 2.25], "sex": ["f", "m", "f"], "sick": [1, 0, 1]},
        target="sick",
    )


class Plan(NumpyTrainingPlan):
    made: object = None

    def init_model(self, model_args):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.made, batch_size=2)

    def training_step(self, data, target):
        raise AssertionError


def source_of(dataset, node=None):
    """What the training loop of a plan draws from whose training_data returns ``dataset``."""
    plan = Plan()
    plan.made = dataset
    plan.setup(PlanSetup(dataset=node or wards()))
    return default_host().wrap_data(plan.make_data(), "numpy")


def drawn(source):
    batches = list(source.batches(LoaderArgs(batch_size=2, shuffle=False), None))
    return np.concatenate([data for data, _ in batches]), np.concatenate([target for _, target in batches])


def test_a_table_without_transforms_is_drawn_as_whole_arrays():
    source = source_of(TabularDataset(["age", "size"]))
    assert isinstance(source, ArrayData)
    data, target = drawn(source)
    np.testing.assert_array_equal(data, [[61, 1.5], [47, 2.5], [35, 2.25]])
    np.testing.assert_array_equal(target, [1, 0, 1])


def test_transforms_are_applied_to_each_sample():
    dataset = TabularDataset(["age", "size"], "sex", lambda row: row / 2, {"f": 0, "m": 1}.get)
    source = source_of(dataset)
    data, target = drawn(source)
    np.testing.assert_array_equal(data, [[30.5, 0.75], [23.5, 1.25], [17.5, 1.125]])
    np.testing.assert_array_equal(target, [0, 1, 0])
    np.testing.assert_array_equal(source.labels(), [0, 1, 0])


def test_the_owners_target_is_no_input_and_several_targets_make_a_table():
    node = MemoryDataset("n", {"a": [1, 2], "b": [3, 4], "y": [0, 1]}, target="y")
    data, target = drawn(source_of(TabularDataset(), node))
    np.testing.assert_array_equal(data, [[1, 3], [2, 4]])
    np.testing.assert_array_equal(target, [0, 1])
    data, target = drawn(source_of(TabularDataset("a", ["b", "y"]), node))
    np.testing.assert_array_equal(data, [[1], [2]])
    np.testing.assert_array_equal(target, [[3, 0], [4, 1]])


def test_an_array_of_several_axes_keeps_them():
    node = MemoryDataset("n", {"x": np.arange(12).reshape(3, 2, 2), "y": [0, 1, 0]}, target="y")
    assert drawn(source_of(TabularDataset("x"), node))[0].shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (TabularDataset(["age", "weight"]), "no column 'weight'"),
        (TabularDataset(["age", "sex"]), "'sex' of data set 'wards' is not numeric"),
        (TabularDataset("age", "sex"), "the target, is text"),
        (TabularDataset([]), "nothing to learn from"),
    ],
)
def test_columns_that_cannot_be_are_refused_before_anything_is_drawn(dataset, said):
    with pytest.raises(DatasetError, match=said):
        source_of(dataset)


def test_a_transform_that_is_no_function_is_refused():
    with pytest.raises(UsageError, match="target_transform must be a function"):
        TabularDataset("age", target_transform=3)


class Pairs(CustomDataset):
    def __init__(self, step):
        self.step = step  # does not call the other __init__, as people forget

    def read(self):
        self.rows = self.node.table(["age", "size"])
        self.where = self.path

    def __len__(self):
        return len(self.rows) - self.step

    def get_item(self, index):
        return self.rows[index], self.rows[index + self.step, 0]


def test_a_data_set_of_ones_own_is_read_once_and_drawn_sample_by_sample():
    dataset = Pairs(1)
    data, target = drawn(source_of(dataset))
    np.testing.assert_array_equal(data, [[61, 1.5], [47, 2.5]])
    np.testing.assert_array_equal(target, [47, 35])
    assert dataset.where == wards().path


def test_a_data_set_of_ones_own_must_return_pairs():
    class Wrong(Pairs):
        def get_item(self, index):
            return [1, 2]

    with pytest.raises(PlanError, match=r"Wrong.get_item must return \(data, target\), but returned a list"):
        drawn(source_of(Wrong(1)))


def test_who_looks_at_the_path_too_early_is_told_when_it_is_there():
    with pytest.raises(UsageError, match="not connected with the data of a node yet"):
        _ = Pairs(1).path
