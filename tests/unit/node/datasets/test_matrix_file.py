from __future__ import annotations

import gzip
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import DatasetError
from fedplug.node.datasets import matrix_file
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.matrix_file import read_matrix

WHAT = "Data set 'rna': 'expression.tsv'"


def read(tmp_path, text, name="a.tsv"):
    file = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_matrix(Folder(tmp_path, WHAT), PurePath(name), WHAT)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz"])
@pytest.mark.parametrize(
    "text",
    [
        "gene\ts1\ts2\nTP53\t1.5\t-2\nMYC\tNA\t1e3\n",
        "gene,s1,s2\r\nTP53,1.5,-2\r\nMYC,,1e3\r\n",
        '"s1";"s2"\n"TP53";1.5;-2\n"MYC";NA;1e3',  # as write.table of R writes it: no name above the names of rows
        "\ufeffgene\ts1\ts2\nTP53\t1.5\t-2\n\nMYC\tNaN\t1000\n",
    ],
)
def test_names_and_numbers_are_read(tmp_path, text, name):
    found = read(tmp_path, text, name)
    assert (found.rows, found.columns) == (("TP53", "MYC"), ("s1", "s2"))
    np.testing.assert_array_equal(found.values, np.array([[1.5, -2], [np.nan, 1000]], np.float32))
    assert found.turned().rows == ("s1", "s2")
    np.testing.assert_array_equal(found.turned().values, found.values.T)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows of numbers"),
        ("gene\ts1\n", "has no rows of numbers"),
        ("gene\ts1\ts2\nA\t1\n", "row 2 has 2 cells, but the header names 3 columns"),
        ("gene\ts1\ts2\nA\t1\t2\nB\t1\t2\t3\n", "row 3 has 4 cells"),
        ("gene\ts1\nA\thigh\n", "row 2 holds text in its cell 2"),
        ("gene\ts1\nA\t1_0\n", "row 2 holds text in its cell 2"),
        ("gene\ts1\nA\t1\nA\t2\n", "has two rows called 'A'"),
        ("gene\ts1\ts1\nA\t1\t2\n", "has two columns called 's1'"),
        ('gene\ts1\n"A\t1\n', "is broken near line"),
        (b"gene\ts1\nA\xff\t1\n", "line 2 is not UTF-8"),
        (b"gene\ts1\nA\0\t1\n", "line 2 holds a zero byte"),
    ],
)
def test_a_broken_table_is_refused_with_its_row(tmp_path, text, said):
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, text)
    assert said in refused.value.message
    assert str(tmp_path) not in str(refused.value)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix_file, "MAX_LINE", 2**20)
    with pytest.raises(DatasetError, match="line 2 is longer than 1,048,576 bytes"):
        read(tmp_path, "gene\ts1\n" + "1" * 2**23, "a.tsv.gz")


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=True, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_every_number_comes_back(tmp_path_factory, rows):
    text = "id,a,b,c\n" + "".join(f"r{i}," + ",".join(map(repr, row)) + "\n" for i, row in enumerate(rows))
    found = read(tmp_path_factory.getbasetemp(), text, "numbers.csv")
    np.testing.assert_array_equal(found.values, np.array(rows, np.float32))
