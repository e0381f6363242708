from __future__ import annotations

import os
import pickle
import re
import zipfile
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import DatasetError, UnknownNameError, UsageError
from fedplug.node.datasets import table_reader
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.datasets.registry import DatasetCache, dataset_type, guess_type, inspect_file, tag_notes
from fedplug.node.datasets.table_reader import read_table


@pytest.fixture
def write(tmp_path):
    """Writes a file of the name given; returns its path."""

    def do(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return do


def add(path, **more):
    return inspect_file(path, tags=["t"], **more)[0]


def opened(path, **more):
    return DatasetCache().get(add(path, **more))


# csv ----------------------------------------------------------------------------------------------------------


def test_types_are_inferred_and_the_card_tells_them_but_neither_rows_nor_paths(write, tmp_path):
    path = write("age,dose,sex\n30,1.5,m\n41,2,f\n")
    record = add(path, target="dose", description="d")
    card = record.card()
    assert card.columns == ("age", "dose", "sex")
    assert card.dtypes == ("int64", "float64", "str")
    assert card.shape == (2, 3)
    assert (card.name, card.type, card.tags, card.description) == ("t", "csv", ("t",), "d")
    assert card.target == "dose"
    told = repr(card).replace(card.dataset_id, "")  # it is drawn at random, and may have any digits
    assert not [secret for secret in (str(tmp_path), path.name, "1.5", "41", "'m'") if secret in told]
    data = DatasetCache().get(record)
    assert data.target == "dose"
    np.testing.assert_array_equal(data.column("age"), np.array([30, 41], np.int64))
    np.testing.assert_array_equal(data.column("sex"), ["m", "f"])
    np.testing.assert_array_equal(data.table(without=["sex", "dose"]), [[30.0], [41.0]])


@pytest.mark.parametrize("missing", ["", "NA", "nan", " ", "null"])
def test_missing_values_of_a_numeric_column_become_nan(write, missing):
    column = opened(write(f"a,b\n1,1\n{missing},1\n3,1\n")).column("a")
    np.testing.assert_array_equal(column, [1.0, np.nan, 3.0])
    assert column.dtype == np.float64


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_the_header(write, mark):
    data = opened(write(f"a{mark}b\n1{mark}2\n"))
    assert list(data.arrays()) == ["a", "b"]


def test_quotes_a_byte_order_mark_empty_lines_and_windows_line_ends_are_understood(write):
    data = opened(write(b'\xef\xbb\xbfa,"b, c"\r\n1,"x, y"\r\n\r\n2,z\r\n'))
    np.testing.assert_array_equal(data.column("a"), [1, 2])
    np.testing.assert_array_equal(data.column("b, c"), ["x, y", "z"])


def test_a_column_that_turns_out_to_be_text_late_keeps_its_cells_as_they_are(write, monkeypatch):
    monkeypatch.setattr(table_reader, "CHUNK", 2)
    table = read_table(write("id,n\n007,1\n008,2\n009,3\nabc,4\n010,5.5\n"), "x")
    np.testing.assert_array_equal(table.columns["id"], ["007", "008", "009", "abc", "010"])
    np.testing.assert_array_equal(table.columns["n"], [1, 2, 3, 4, 5.5])
    assert table.text_rows == {"id": 5}


@pytest.mark.parametrize("cell", ["1_000", "\u0663", "99999999999999999999", "0x10", "1,5"])
def test_what_only_looks_like_a_number_is_text(write, cell):
    table = read_table(write(f'a;b\n"{cell}";1\n'), "x")
    np.testing.assert_array_equal(table.columns["a"], [cell])


def test_very_long_cells_do_not_blow_up_the_column(write):
    table = read_table(write("a\n" + "x" * 5000 + "\n" + "y\n" * 1000), "x")
    assert table.columns["a"].dtype == object
    assert len(table.columns["a"][0]) == 5000


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**62), 2**62),
            st.floats(allow_nan=False, width=64),
            st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1, max_size=8).map(
                "t{}".format
            ),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_a_table_that_python_writes_is_read_back_exactly(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.mktemp("t") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("i", "f", "s"), *((i, repr(f), s) for i, f, s in rows)])
    table = read_table(path, "x")
    assert table.columns["i"].tolist() == [row[0] for row in rows]
    assert table.columns["f"].tolist() == [row[1] for row in rows]
    assert table.columns["s"].tolist() == [row[2] for row in rows]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n3\n", "row 3 has 1 cells, but the header has 2"),
        ("a,b\n1,2\n\n3,4,5\n", "row 4 has 3 cells"),
        ("a,a\n1,2\n", "two columns named 'a'"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("1,2\n3,4\n", "no header"),
        ("a,b\n", "no rows"),
        ("\n", "is empty"),
        ('a,b\n"1,2\n', "not valid CSV"),
        (b"a,b\n\xff\xfe,2\n", "not a text file in UTF-8"),
        (b"\x00\x01\x02\x03" * 100, "t"),
        ("a\n" + "x" * 200_000, "not valid CSV"),
    ],
)
def test_a_broken_table_is_refused_and_the_place_named(write, content, said):
    with pytest.raises(DatasetError, match="Data set 't'") as caught:
        add(write(content))
    assert said in caught.value.message


def test_columns_are_chosen_and_the_target_is_always_among_them(write):
    record = add(write("a,b,c\n1,2,3\n"), columns=["c", "a"], target="b")
    assert record.columns == ("c", "a", "b")
    data = DatasetCache().get(record)
    assert list(data.arrays()) == ["c", "a", "b"]
    with pytest.raises(DatasetError, match="no column 'x'") as caught:
        data.column("x")
    assert "c, a, b" in caught.value.cure


@pytest.mark.parametrize(("more", "said"), [({"columns": ["a", "z"]}, "'z'"), ({"target": "z"}, "'z'")])
def test_columns_that_do_not_exist_are_named_with_those_that_do(write, more, said):
    with pytest.raises(DatasetError, match=said) as caught:
        add(write("a,b\n1,2\n"), **more)
    assert "a, b" in caught.value.cure


def test_a_text_column_asked_for_as_number_names_the_row(write):
    data = opened(write("a,b\n1,1\n2,oops\n"))
    with pytest.raises(DatasetError, match="'b' of data set 't' is not numeric: row 3"):
        data.table()


def test_the_owner_is_told_why_a_column_is_text(write):
    _, notes = inspect_file(write("a\n1\n2\nthree\n"), tags=["t"])
    assert notes == ("Column 'a' is text: row 4 is not a number.",)


# arrays -------------------------------------------------------------------------------------------------------


@pytest.fixture
def npz(tmp_path):
    def do(**arrays):
        np.savez(tmp_path / "t.npz", **arrays)
        return tmp_path / "t.npz"

    return do


def test_arrays_are_read_and_described(npz):
    record = add(npz(x=np.zeros((5, 2, 3), np.float32), y=np.arange(5)), target="y")
    assert record.type == "arrays"
    assert record.shape == (5, 2, 3)
    assert record.dtypes == ("float32[2,3]", "int64")
    data = DatasetCache().get(record)
    assert data.column("x").shape == (5, 2, 3)
    np.testing.assert_array_equal(data.column(data.target), np.arange(5))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, r"number of samples \(x 3, y 4\)"),
        ({"x": np.array(3.0)}, "single value"),
        ({"x": np.zeros((0, 3))}, "no samples"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "Python objects, which are never loaded"),
        ({"x": np.array(["2020-01-01"], dtype="datetime64[D]")}, "dtype datetime64"),
        ({}, "no arrays"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(npz, arrays, said):
    with pytest.raises(DatasetError, match=said):
        add(npz(**arrays))


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("way", ["in-array", "raw-entry", "no-zip", "not-npy"])
def test_a_pickle_is_never_executed(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.npz"
    if way == "in-array":
        np.savez(path, x=np.array([_Bomb()], dtype=object))
    elif way == "no-zip":
        path.write_bytes(pickle.dumps(_Bomb()))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy" if way == "raw-entry" else "x.txt", pickle.dumps(_Bomb()))
    with pytest.raises(DatasetError):
        add(path)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_archive_is_refused(npz):
    path = npz(x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DatasetError, match="Data set 't'"):
        add(path)


# files that are not what they should be -------------------------------------------------------------------------


def test_a_file_that_does_not_exist_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        add(tmp_path / "nothing.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        add(tmp_path / "d.csv")
    with pytest.raises(DatasetError, match="is a folder"):
        add(tmp_path / "d.csv", type="csv")
    os.mkfifo(tmp_path / "f.csv")
    with pytest.raises(DatasetError, match="is a named pipe"):
        add(tmp_path / "f.csv")


def test_an_empty_file_is_refused(write):
    with pytest.raises(DatasetError, match="is empty"):
        add(write(""))


def test_a_file_that_may_not_be_read_is_refused(write, monkeypatch):
    path = write("a\n1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(DatasetError, match="may not be read"):
        add(path)


def test_names_tags_and_types_are_checked(write):
    path = write("a\n1\n")
    with pytest.raises(UsageError, match="at least one tag"):
        inspect_file(path, tags=[" "])
    with pytest.raises(UsageError, match="printable"):
        inspect_file(path, tags=["a\x1b[31m"])
    with pytest.raises(UsageError, match="cannot be the name"):
        inspect_file(path, tags=["t"], name="a\nb")
    with pytest.raises(UnknownNameError, match="csv"):
        inspect_file(path, tags=["t"], type="cvs")
    with pytest.raises(UsageError, match="not supported yet"):
        guess_type(path.with_suffix(".xlsx"))
    with pytest.raises(UsageError, match="--type"):
        guess_type(path.with_suffix(".data"))
    assert dataset_type(guess_type(path)).name == "csv"


# use ------------------------------------------------------------------------------------------------------------


def record(name, tags):
    return DatasetRecord(dataset_id=name, name=name, type="csv", path="/t.csv", tags=tuple(tags))


_TAGS = st.frozensets(st.sampled_from("abcd"), min_size=1)


@given(_TAGS, st.lists(_TAGS, max_size=3))
def test_the_owner_is_told_when_tags_do_not_tell_data_sets_apart(mine, others):
    """The oracle tries every search: a conflict is a pair of which one can never be found without the other."""

    def found_alone(tags, other):
        searches = (set(words) for size in range(1, len(tags) + 1) for words in combinations(tags, size))
        return any(not words <= other for words in searches)

    known = [record(f"no-{i}", tags) for i, tags in enumerate(others)]
    conflicts = [
        f"'no-{i}'" for i, tags in enumerate(others) if not (found_alone(mine, tags) and found_alone(tags, mine))
    ]
    notes = tag_notes(record("new", mine), known)
    assert [re.search(r"'no-\d'", note)[0] for note in notes] == conflicts


CONFLICT = (
    ", and is refused as ambiguous: an experiment uses one data set per node. "
    "Give each a tag that the other does not carry."
)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["breast", "2023"], "A search for breast,2023 finds data set 'first' too"),
        (["breast"], "A search for breast finds data set 'first' too"),
        (["csv", "2023", "breast"], "A search for breast,2023, the tags of data set 'first', finds this one too"),
        (["breast", "2024"], None),
    ],
    ids=["same", "subset", "superset", "overlap"],
)
def test_what_the_owner_is_told_about_tags_in_conflict(tags, said):
    notes = tag_notes(record("second", tags), [record("first", ["breast", "2023"])])
    assert notes == ([said + CONFLICT] if said else [])


def test_a_data_set_is_read_once_and_read_again_when_its_record_is_another(write):
    write("a\n1\n2\n")
    record, cache = add(write("a\n1\n2\n")), DatasetCache()
    first = cache.get(record)
    assert cache.get(record) is first
    accepted = add(write("a\n1\n2\n3\n"))
    np.testing.assert_array_equal(cache.get(accepted).column("a"), [1, 2, 3])
    assert cache.get(accepted) is not first


@pytest.mark.parametrize(
    ("content", "said"),
    [("a\n2\n", "have changed since"), ("a\n1\n2\n", "have changed since"), (None, "cannot be opened")],
)
def test_a_file_that_is_not_the_one_that_was_added_is_refused_without_its_path(write, tmp_path, content, said):
    path = write("a\n1\n")
    record = add(path)
    if content is None:
        path.unlink()
    else:
        write(content)
    with pytest.raises(DatasetError, match=said) as caught:
        DatasetCache().get(record)
    assert str(tmp_path) not in str(caught.value)
    assert "--accept-changes" in caught.value.cure


def test_plans_cannot_change_the_data(write, npz):
    for data in (opened(write("a\n1\n")), opened(npz(a=np.zeros(2))), MemoryDataset("m", {"a": np.zeros(2)})):
        with pytest.raises(ValueError, match="read-only"):
            data.column("a")[0] = 9


def test_memory_data_sets_check_what_they_hold():
    mine = np.zeros((3, 2))
    data = MemoryDataset("m", {"x": mine, "y": [0, 1, 0]}, tags=["t"], target="y")
    mine[0] = 1  # still the owner's to write
    assert data.card().columns == ("x", "y")
    assert data.card().tags == ("t",)
    with pytest.raises(DatasetError):
        MemoryDataset("m", {"x": [1], "y": [1, 2]})
    with pytest.raises(DatasetError, match="no array 'z'"):
        MemoryDataset("m", {"x": [1]}, target="z")
    with pytest.raises(DatasetError, match="no samples"):
        MemoryDataset("m", {})
    with pytest.raises(DatasetError, match="list of words"):
        MemoryDataset("m", {"x": [1]}, tags="word")
