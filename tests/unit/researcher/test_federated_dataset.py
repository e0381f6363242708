"""The federated data set: made by hand, its figures, how its parts differ, and the table of cards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from fedplug.core.errors import DatasetError, FedplugError, FedplugWarning, UsageError
from fedplug.core.messages import DatasetCard, NodeInfo
from fedplug.researcher.dataset_table import NodeDatasets, dataset_table
from fedplug.researcher.federated_dataset import FederatedDataset, warn_of_mismatches

TABLE = DatasetCard(
    dataset_id="ds-1",
    name="wards",
    type="csv",
    tags=("breast", "2024"),
    shape=(569, 3),
    columns=("age", "dose", "ill"),
    dtypes=("int64", "float64", "int64"),
    target="ill",
)
SCANS = DatasetCard(
    dataset_id="ds-2",
    name="scans",
    type="arrays",
    tags=("mri",),
    shape=(40, 28, 28),
    columns=("x", "y"),
    dtypes=("float32", "int64"),
    target="y",
)
PLAIN: dict[str, Any] = to_builtins(TABLE)


def test_it_knows_sizes_and_shapes() -> None:
    data = FederatedDataset({"b": SCANS, "a": TABLE}, {"a": NodeInfo(node_id="a", name="lyon")})
    assert (data.node_ids(), len(data)) == (["a", "b"], 2)
    assert data.data() == {"a": TABLE, "b": SCANS}
    assert data.sample_sizes() == {"a": 569, "b": 40}
    assert data.shapes() == {"a": (569, 3), "b": (40, 28, 28)}
    assert data.names() == {"a": "lyon"}
    assert repr(data) == "FederatedDataset(lyon: 'wards' (569, 3), b: 'scans' (40, 28, 28))"


@pytest.mark.parametrize("given", [TABLE, PLAIN, [TABLE], [PLAIN], (PLAIN,), {**PLAIN, "tags": ("breast", "2024")}])
def test_a_card_may_be_a_dictionary_and_may_stand_in_a_list(given: Any) -> None:
    assert FederatedDataset({"a": given}).data() == {"a": TABLE}


def test_what_it_was_made_of_does_not_change_it() -> None:
    given = {"a": TABLE}
    data = FederatedDataset(given)
    given["b"] = SCANS
    data.data()["c"] = SCANS
    assert data.node_ids() == ["a"]


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PLAIN.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, DatasetError, ["at least one node"]),
        ([TABLE], UsageError, ["dictionary of node id and card, not from list"]),
        (None, UsageError, ["not from None"]),
        ({1: TABLE}, UsageError, ["dictionary of node id and card"]),
        ({"a": "wards"}, UsageError, ["node 'a' is str, not a DatasetCard"]),
        ({"a": None}, UsageError, ["node 'a' is None"]),
        ({"a": []}, DatasetError, ["node 'a' was given 0: none", "one data set per node"]),
        ({"a": [TABLE, to_builtins(SCANS)]}, DatasetError, ["was given 2: 'wards', 'scans'", "Keep the one"]),
        ({"a": {**PLAIN, "data_type": "csv"}}, UsageError, ["'data_type', which no card has", "calls it 'type'"]),
        ({"a": {**PLAIN, "path": "/srv/wards.csv"}}, UsageError, ["'path', which no card has", "never leaves"]),
        ({"a": {**PLAIN, "colums": []}}, UsageError, ["Did you mean 'columns'?"]),
        ({"a": {**PLAIN, 7: 7}}, UsageError, ["field 7"]),
        ({"a": without("shape")}, UsageError, ["node 'a' cannot be used", "missing required field `shape`"]),
        ({"a": {**PLAIN, "tags": "breast"}}, UsageError, ["Expected `array`, got `str` - at `$.tags`"]),
        ({"a": {**PLAIN, "shape": [3.5]}}, UsageError, ["Expected `int`, got `float` - at `$.shape[0]`"]),
        ({"a": {**PLAIN, "shape": [-1, 3]}}, UsageError, ["impossible shape (-1, 3)"]),
    ],
)
def test_what_is_no_federated_data_set_is_refused_with_the_cure(
    given: Any, error: type[FedplugError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        FederatedDataset(given)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.cure or not given or "impossible" in caught.value.message


# differences -----------------------------------------------------------------------------------------------


def differing(**changes: Any) -> list[str]:
    """What is told of three nodes, of which the third differs."""
    names = {"a": "lyon", "b": "nice", "c": "paris"}
    nodes = {node: NodeInfo(node_id=node, name=name) for node, name in names.items()}
    base = SCANS if changes.pop("scans", False) else TABLE
    return FederatedDataset({"a": base, "b": base, "c": replace(base, **changes)}, nodes).mismatches()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": (7, 3)},
        {"name": "other", "dataset_id": "x", "tags": ("t",), "description": "d"},
        {"target": ""},
        {"columns": (), "dtypes": ()},
        {"dtypes": ()},
        {"shape": ()},
        {"scans": True, "shape": (1, 28, 28)},
    ],
)
def test_what_may_differ_is_no_mismatch(changes: dict[str, Any]) -> None:
    assert differing(**changes) == []


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"type": "parquet"}, ["The type is 'parquet' on paris, but 'csv' on lyon, nice."]),
        ({"target": "dose"}, ["The target is 'dose' on paris, but 'ill' on lyon, nice."]),
        (
            {"columns": ("age", "ill"), "dtypes": ("int64", "int64"), "shape": (9, 2)},
            ["The columns on paris (2 in all) are not those on lyon, nice (3): there is no 'dose'."],
        ),
        (
            {"columns": ("age", "d_", "ill")},
            ["The columns on paris (3 in all) are not those on lyon, nice (3): there is no 'dose' and 'd_' besides."],
        ),
        (
            {"columns": ("dose", "age", "ill"), "dtypes": ("float64", "int64", "int64")},
            ["The columns stand in another order on paris than on lyon, nice."],
        ),
        (
            {"dtypes": ("float64", "float64", "float64")},
            ["The type of 'age', 'ill' is float64 on paris, but int64 on lyon, nice."],
        ),
        (
            {"scans": True, "shape": (40, 32, 32)},
            ["The shape of a sample is (32, 32) on paris, but (28, 28) on lyon, nice."],
        ),
        (
            {"scans": True, "shape": (40, 28, 28, 3)},
            ["The shape of a sample is (28, 28, 3) on paris, but (28, 28) on lyon, nice."],
        ),
        (
            {"columns": (), "dtypes": (), "shape": (40, 9)},
            ["The shape of a sample is (9,) on paris, but (3,) on lyon, nice."],
        ),
    ],
)
def test_each_difference_is_a_sentence_that_names_the_nodes(changes: dict[str, Any], sentences: list[str]) -> None:
    assert differing(**changes) == sentences


def test_texts_of_other_lengths_are_of_the_same_type() -> None:
    texts = [replace(SCANS, dtypes=(f"str{width}", "int64")) for width in (160, 192)]
    assert FederatedDataset(dict(zip("ab", texts, strict=True))).mismatches() == []


def test_long_lists_are_shortened_and_equal_names_are_told_apart() -> None:
    nodes = {f"n{i}": NodeInfo(node_id=f"n{i}", name="same") for i in range(9)}
    cards = {node: TABLE if index else replace(TABLE, target="age") for index, node in enumerate(nodes)}
    assert FederatedDataset(cards, nodes).mismatches() == [
        "The target is 'age' on n0, but 'ill' on n1, n2, n3, n4, n5, n6 and 2 more."
    ]


def test_what_a_node_calls_itself_cannot_take_over_the_terminal() -> None:
    nodes = {"a": NodeInfo(node_id="a", name="x\x1b[2J"), "b": NodeInfo(node_id="b", name="b\nc")}
    (sentence,) = FederatedDataset(
        {"a": TABLE, "b": replace(TABLE, dtypes=("i\x1b", "float64", "int64"))}, nodes
    ).mismatches()
    assert sentence.isprintable()


@given(
    st.lists(
        st.builds(
            replace,
            st.sampled_from([TABLE, SCANS]),
            shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
            columns=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
            dtypes=st.lists(st.sampled_from(["int64", "float64"]), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_nodes_with_the_same_facts_never_differ_and_any_cards_can_be_compared(cards: list[DatasetCard]) -> None:
    FederatedDataset({f"n{i}": card for i, card in enumerate(cards)}).mismatches()
    same = {f"n{i}": replace(cards[0], shape=(i, *cards[0].shape[1:]) if cards[0].shape else ()) for i in range(3)}
    assert FederatedDataset(same).mismatches() == []


# the table -------------------------------------------------------------------------------------------------


def test_a_table_has_a_line_for_each_data_set() -> None:
    found = {"a": (TABLE, SCANS), "b": (), "c": (replace(TABLE, columns=tuple("abcdef"), description="Wards.\nAll."),)}
    nodes = {"a": NodeInfo(node_id="a", name="lyon"), "c": NodeInfo(node_id="c")}
    assert dataset_table(found, nodes).splitlines() == [
        "NODE  DATA SET  TYPE    TAGS          SHAPE         TARGET  COLUMNS                DESCRIPTION",
        "lyon  wards     csv     breast, 2024  569 x 3       ill     age, dose, ill         -",
        "lyon  scans     arrays  mri           40 x 28 x 28  y       x, y                   -",
        "b     none      -       -             -             -       -                      -",
        "c     wards     csv     breast, 2024  569 x 3       ill     a, b, c, d and 2 more  Wards. All.",
    ]


def test_a_list_of_data_sets_is_a_dictionary_that_prints_as_a_table() -> None:
    nodes = {"a": NodeInfo(node_id="a", name="lyon"), "z": NodeInfo(node_id="z", name="elsewhere")}
    found = NodeDatasets({"a": [TABLE], "b": []}, nodes)
    assert found == {"a": (TABLE,), "b": ()}
    assert str(found) == repr(found) == dataset_table(found, nodes)
    assert "lyon" in str(found)


def test_the_table_is_safe_and_narrow_and_tells_namesakes_apart() -> None:
    wild = replace(TABLE, name="n" * 500, tags=("\x1b[2J",), columns=("c" * 99,), description="d" * 999)
    nodes = {node: NodeInfo(node_id=node, name="same") for node in "ab"}
    table = dataset_table({"a": (wild,), "b": ()}, nodes)
    assert all(line.isprintable() and len(line) < 300 for line in table.split("\n"))
    assert "same (a)" in table
    assert "same (b)" in table


def test_a_card_has_no_place_for_a_path_or_a_row() -> None:
    assert set(DatasetCard.__struct_fields__) == {
        "dataset_id", "name", "type", "tags", "shape", "description", "columns", "dtypes", "target",
    }  # fmt: skip


def test_all_differences_make_one_warning() -> None:
    data = FederatedDataset({"a": TABLE, "b": replace(TABLE, target="age", type="tsv")})
    with pytest.warns(FedplugWarning) as caught:
        warn_of_mismatches(data)
    (warning,) = caught
    for sentence in data.mismatches():
        assert f"\n  - {sentence}\n" in str(warning.message)
    warn_of_mismatches(FederatedDataset({"a": TABLE}))
