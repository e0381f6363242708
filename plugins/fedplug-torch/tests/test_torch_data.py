from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from fedplug import DataManager
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import DatasetError, UnknownNameError
from fedplug.core.rng import SeedTree
from fedplug_torch.data import DatasetData, TensorData, wrap

SEED = SeedTree.root(0)


class Both(NamedTuple):
    a: Any
    b: Any


class Squares(Dataset):
    def __init__(self, count=10):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index * index


class Alone(Squares):
    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)])}


def drawn(source, *, shuffle=True, **args):
    return list(source.epoch(LoaderArgs.merge({"batch_size": 4, "shuffle": shuffle}, args), SEED))


@pytest.mark.parametrize(
    ("array", "as_data", "as_target"),
    [
        (np.zeros(3), torch.float32, torch.float32),
        (np.zeros(3, np.float32), torch.float32, torch.float32),
        (np.zeros(3, np.float16), torch.float16, torch.float16),
        (np.zeros(3, np.int64), torch.int64, torch.int64),
        (np.zeros(3, np.int32), torch.int32, torch.int64),
        (np.zeros(3, np.uint8), torch.uint8, torch.int64),
        (np.zeros(3, np.uint16), torch.int64, torch.int64),
        (np.zeros(3, bool), torch.bool, torch.int64),
        (np.zeros(3, ">f8"), torch.float32, torch.float32),
        (np.zeros(3, ">i4"), torch.int32, torch.int64),
        (pd.Series([1, 2, 3]), torch.float32, torch.int64),
        (torch.zeros(3, dtype=torch.float64), torch.float64, torch.float64),
    ],
)
def test_dtypes(array, as_data, as_target):
    source = wrap(DataManager(array, array))
    assert (source.data.dtype, source.target.dtype) == (as_data, as_target)


def test_values_survive():
    values = np.array([[1.5, -2.0], [3.0, 4.25]])
    for given in (values, values.astype(">f4"), values[::-1][::-1], np.asfortranarray(values), pd.DataFrame(values)):
        assert wrap(DataManager(given)).data.tolist() == values.tolist()


def test_read_only_arrays_are_copied_so_that_a_plan_cannot_harm_them():
    array = np.ones((3, 2), np.float32)
    array.flags.writeable = False
    source = wrap(DataManager(array))
    source.data.add_(1)
    assert array.max() == 1


def test_a_table_of_several_kinds_of_numbers():
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    assert wrap(DataManager(table, table["a"])).data.tolist() == [[1, 0.5, 1], [2, 1.5, 0]]


def test_a_column_of_text_is_named():
    with pytest.raises(DatasetError, match="Column 'city' is not numeric"):
        wrap(DataManager(pd.DataFrame({"a": [1, 2], "city": ["Paris", "Rome"]})))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.array(["a", "b"]), "dtype <U1 cannot"),
        (np.array([1 + 1j]), "complex128 cannot"),
        ([1.0, 2.0], "A float cannot be turned into tensors"),
        ("data.csv", "A str cannot be turned into tensors"),
        (torch.tensor(3.0), "not an array of samples"),
    ],
)
def test_what_cannot_be_a_tensor_is_named(data, words):
    with pytest.raises(DatasetError, match=words):
        wrap(DataManager(data))


def test_data_and_target_must_fit():
    with pytest.raises(DatasetError, match="3 samples, the target 2"):
        wrap(DataManager(np.zeros(3), np.zeros(2)))


def test_batches_of_tensors_follow_the_order_and_take_everything():
    source = wrap(DataManager(np.arange(10.0)[:, None], np.arange(10)))
    order = SEED.generator().permutation(10)
    got = drawn(source)
    assert [len(x) for x, _ in got] == [4, 4, 2]
    assert torch.cat([y for _, y in got]).tolist() == order.tolist()
    assert torch.cat([x[:, 0] for x, _ in got]).tolist() == order.tolist()
    assert [len(x) for x, _ in drawn(source, drop_last=True)] == [4, 4]


@pytest.mark.parametrize("drop_last", [False, True])
def test_without_shuffle_batches_are_slices_without_a_copy(drop_last):
    source = wrap(DataManager(torch.arange(10.0), torch.arange(10)))
    got = drawn(source, shuffle=False, drop_last=drop_last)
    assert torch.cat([x for x, _ in got]).tolist() == list(range(8 if drop_last else 10))
    assert got[0][0].data_ptr() == source.data.data_ptr()


@pytest.mark.parametrize("shuffle", [True, False])
def test_nested_structures_keep_their_shape(shuffle):
    data = {
        "image": np.zeros((10, 2)),
        "more": [np.arange(10), (np.ones(10),)],
        "both": Both(np.zeros(10), np.ones(10)),
    }
    (x, y), *_ = drawn(wrap(DataManager(data, (np.arange(10), np.arange(10.0)))), shuffle=shuffle)
    assert x["image"].shape == (4, 2)
    assert isinstance(x["more"][1], tuple)
    assert isinstance(x["both"], Both)
    assert x["more"][0].tolist() == y[0].tolist()
    assert (y[0].dtype, y[1].dtype) == (torch.int64, torch.float32)


def test_no_target_is_none():
    assert all(y is None for _, y in drawn(wrap(DataManager(np.zeros((5, 1))))))


def test_subset_and_labels():
    source = wrap(DataManager(np.arange(5.0), np.arange(5)))
    part = source.subset(np.array([4, 0]))
    assert part.data.tolist() == [4.0, 0.0]
    assert part.labels().tolist() == [4, 0]
    assert wrap(DataManager(np.arange(5.0))).labels() is None


def test_tensor_datasets_take_the_fast_path():
    x, y = torch.arange(6.0), torch.arange(6)
    source = wrap(DataManager(TensorDataset(x, y)))
    assert isinstance(source, TensorData)
    assert source.data is x
    part = wrap(DataManager(Subset(TensorDataset(x, y), [5, 1])))
    assert isinstance(part, TensorData)
    assert part.target.tolist() == [5, 1]
    assert wrap(DataManager(TensorDataset(x))).target is None
    assert wrap(DataManager(TensorDataset(x, x, y))).data == (x, x)


def test_a_torch_dataset_goes_through_the_loader_in_the_seeds_order():
    source = wrap(DataManager(Squares()))
    assert isinstance(source, DatasetData)
    order = SEED.generator().permutation(10)
    x, y = zip(*drawn(source), strict=True)
    assert torch.cat(x)[:, 0].tolist() == order.tolist()
    assert torch.cat(y).tolist() == (order**2).tolist()
    assert [len(part) for part in y] == [4, 4, 2]
    train, test = source.split(0.3, SEED)
    assert (len(train), len(test)) == (7, 3)


def test_a_torch_dataset_leaves_the_global_stream_alone():
    torch.manual_seed(3)
    drawn(wrap(DataManager(Squares())))
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_items_that_are_no_pair_are_data_without_target():
    (x, y), *_ = drawn(wrap(DataManager(Alone())), shuffle=False)
    assert x["x"].shape == (4, 1)
    assert y is None


def test_the_loader_gets_its_arguments():
    source = wrap(DataManager(Squares()))
    got = drawn(source, shuffle=False, collate_fn=lambda items: (len(items), "target"))
    assert got == [(4, "target"), (4, "target"), (2, "target")]


def test_unknown_loader_arguments_are_named():
    with pytest.raises(UnknownNameError, match="num_worker'") as caught:
        wrap(DataManager(Squares())).check_args(LoaderArgs.merge({"num_worker": 2}))
    assert "Did you mean 'num_workers'?" in str(caught.value)
    wrap(DataManager(np.zeros(3))).check_args(LoaderArgs.merge({"num_workers": 2}))


def test_a_dataset_with_a_target_beside_it_is_refused():
    with pytest.raises(DatasetError, match="brings its targets along"):
        wrap(DataManager(Squares(), np.zeros(10)))


def test_a_dataset_without_a_length_is_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DatasetError, match="Endless has no length"):
        wrap(DataManager(Endless()))
