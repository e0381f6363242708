from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedplug.core.errors import DatasetError
from fedplug.node.datasets import parquet_file
from fedplug.node.datasets.parquet_file import ParquetType
from fedplug.node.datasets.registry import DatasetCache, inspect_file
from fedplug.testing import check_dataset_type


@pytest.fixture
def write(tmp_path):
    def do(**columns):
        path = tmp_path / "wards.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    return do


def add(path, **more):
    return inspect_file(path, tags=["t"], **more)


def test_it_obeys_the_laws_of_types():
    assert {result.outcome for result in check_dataset_type(ParquetType())} == {"pass"}


def test_numbers_truth_values_and_text_are_read_with_what_is_missing(write):
    path = write(
        age=pa.array([61, None, 35]), size=pa.array([1.5, float("nan"), None], pa.float32()), sick=[True, False, True],
        sex=pa.array(["f", None, "m"]).dictionary_encode(), ward=pa.array([1, 2, 3], pa.int8()),
    )  # fmt: skip
    record, _ = add(path, target="sick")
    assert record.type == "parquet"
    assert dict(zip(record.columns, record.dtypes, strict=True)) == {
        "age": "float64", "size": "float64", "sick": "bool", "sex": "str", "ward": "int64",
    }  # fmt: skip
    assert record.missing == {"age": 1, "size": 2, "sex": 1}
    data = DatasetCache().get(record)
    np.testing.assert_array_equal(data.column("age"), [61, np.nan, 35])
    np.testing.assert_array_equal(data.column("sex"), ["f", "", "m"])
    assert data.table(["ward", "sick"]).tolist() == [[1, 1], [2, 0], [3, 1]]


def test_only_the_columns_that_are_wanted_are_read_under_the_names_of_plans(write, monkeypatch):
    path = write(**{"Alter.J": [61, 47], "b": [1, 2], "Tag": pa.array([1, 2], pa.date32())})
    record, _ = add(path, columns=["age"], mapping={"age": "Alter.J"})
    assert record.columns == ("age",)
    np.testing.assert_array_equal(DatasetCache().get(record).column("age"), [61, 47])
    monkeypatch.setattr(parquet_file, "MAX_CELLS", 2)
    add(path, columns=["b"])  # the others count for nothing
    with pytest.raises(DatasetError, match="more than 2 cells"):
        add(path, columns=["b", "Alter.J"])


def test_what_plans_cannot_use_is_left_out_and_said_or_refused_if_it_is_asked_for(write):
    path = write(a=[1, 2], day=pa.array([1, 2], pa.date32()), many=[[1], [2]])
    record, notes = add(path)
    assert record.columns == ("a",)
    assert "Column 'day' is left out: plans cannot use date32[day]." in notes
    with pytest.raises(DatasetError, match="'day' holds date32"):
        add(path, columns=["day"])


def test_no_rows_and_a_foreign_file_are_refused_without_the_path(write, tmp_path):
    with pytest.raises(DatasetError, match="no rows"):
        add(write(a=pa.array([], pa.int64())))
    path = write(a=list(range(1000)))
    whole = path.read_bytes()
    for broken in (b"a,b\n1,2\n", whole[:-9], whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(broken)
        with pytest.raises(DatasetError) as caught:
            add(path)
        assert str(tmp_path) not in str(caught.value)
