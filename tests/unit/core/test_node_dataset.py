"""Features and labels of a node's data set, taken apart by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedplug import DataManager
from fedplug.core.errors import DatasetError, UsageError
from fedplug.node.datasets.memory import MemoryDataset

AGE, PULSE, ILL = np.array([61.0, 34.0, 45.0]), np.array([80, 65, 71]), np.array([1, 0, 1])


def table(target: str = "ill", **more: Any) -> MemoryDataset:
    return MemoryDataset("patients", {"age": AGE, "pulse": PULSE, "ill": ILL, **more}, tags=("#p",), target=target)


def test_the_data_set_itself_is_all_columns_but_the_target_that_its_owner_named():
    manager = DataManager(table(), batch_size=2)
    np.testing.assert_array_equal(manager.dataset, np.column_stack([AGE, PULSE]))
    np.testing.assert_array_equal(manager.target, ILL)
    assert manager.loader_args == {"batch_size": 2}


def test_the_target_may_be_named_and_is_then_no_feature():
    manager = DataManager(table(), "pulse")
    np.testing.assert_array_equal(manager.dataset, np.column_stack([AGE, ILL]))
    np.testing.assert_array_equal(manager.target, PULSE)


def test_with_labels_of_ones_own_the_owners_target_is_no_feature_all_the_same():
    manager = DataManager(table(), ILL * 2)
    np.testing.assert_array_equal(manager.dataset, np.column_stack([AGE, PULSE]))
    np.testing.assert_array_equal(manager.target, [2, 0, 2])
    images = np.arange(3 * 4).reshape(3, 2, 2)
    scans = MemoryDataset("scans", {"image": images, "ill": ILL}, tags=("#s",), target="ill")
    np.testing.assert_array_equal(DataManager(scans, ILL * 2).dataset, images)


def test_a_single_array_beside_the_target_comes_as_it_is():
    images = np.arange(3 * 4 * 4).reshape(3, 4, 4)
    manager = DataManager(MemoryDataset("scans", {"image": images, "ill": ILL}, tags=("#s",), target="ill"))
    np.testing.assert_array_equal(manager.dataset, images)
    alone = DataManager(MemoryDataset("ages", {"age": AGE, "ill": ILL}, tags=("#a",), target="ill"))
    np.testing.assert_array_equal(alone.dataset, AGE[:, None])


def test_a_data_frame_is_taken_apart_by_the_name_of_a_column():
    frame = pd.DataFrame({"age": AGE, "ill": ILL})
    manager = DataManager(frame, "ill")
    assert list(manager.dataset.columns) == ["age"]
    assert manager.target.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("dataset", "target", "error", "words"),
    [
        (table(target=""), None, UsageError, "named no target"),
        (table(), "weight", DatasetError, "no column 'weight'"),
        (MemoryDataset("m", {"ill": ILL}, tags=("#m",), target="ill"), None, DatasetError, "no column beside 'ill'"),
        (table(name=np.array(["a", "b", "c"])), None, DatasetError, "'name' of data set 'patients' is not numeric"),
        (pd.DataFrame({"age": AGE}), "ill", DatasetError, "no column 'ill'"),
        (AGE[:, None], "ill", UsageError, "a ndarray has no columns"),
    ],
)
def test_what_cannot_be_taken_apart_is_told(dataset, target, error, words):
    with pytest.raises(error, match=words):
        DataManager(dataset, target)
