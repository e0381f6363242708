"""What a simulated federation takes as data, and what it says about everything else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.messages import DatasetCard
from fedplug.core.pool import DatasetsFound
from fedplug.simulation import Federation


def card_of(federation: Federation) -> DatasetCard:
    """The only data set of a federation of one node."""
    federation.search(1, ())
    while True:
        event = federation.next_event(0)
        if isinstance(event, DatasetsFound):
            return event.cards[0]


def test_a_data_frame_is_its_columns() -> None:
    frame = pd.DataFrame({"age": [30.0, 41.0], "sex": ["m", "f"], 3: [1, 2]})
    card = card_of(Federation({"paris": frame}, target="age"))
    assert card.columns == ("age", "sex", "3")
    assert card.dtypes == ("float64", "str32", "int64")
    assert card.target == "age"


@pytest.mark.parametrize(
    ("data", "target", "expected"),
    [
        ((np.zeros((4, 2)), np.zeros(4)), None, "y"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, None, "y"),
        ({"x": np.zeros(4), "label": np.zeros(4)}, None, ""),
        ({"x": np.zeros(4), "label": np.zeros(4)}, "label", "label"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, "", ""),
    ],
)
def test_the_target_is_y_where_there_is_one_unless_it_is_named(data, target, expected) -> None:
    assert card_of(Federation({"paris": data}, target=target)).target == expected


@pytest.mark.parametrize("data", [(np.zeros((4, 2)), np.zeros(4)), {"x": np.zeros(4), "y": np.zeros(4)}])
def test_a_target_that_is_not_there_is_refused_with_the_names_there_are(data) -> None:
    with pytest.raises(DatasetError, match="Data set 'paris' has no array 'yy'") as caught:
        Federation({"paris": data}, target="yy")
    assert caught.value.cure == "It has: x, y."


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [([np.zeros(3), np.zeros(3)], "a list"), ((1, 2), "a tuple"), (np.zeros(3), "a ndarray"), (None, "nothing")],
)
def test_data_without_names_of_nodes_is_refused_with_an_example(nodes, kind) -> None:
    with pytest.raises(UsageError, match=f"under its id, but got {kind}") as caught:
        Federation(nodes)
    assert "Federation({'paris': (x1, y1)" in caught.value.cure


def test_arrays_of_different_lengths_are_named_with_their_node() -> None:
    with pytest.raises(DatasetError) as caught:
        Federation({"lyon": (np.zeros((10, 2)), np.zeros(178))})
    assert caught.value.message == "The arrays of data set 'lyon' have different numbers of rows: 'x' 10, 'y' 178."
    with pytest.raises(DatasetError, match="Array 'y' of data set 'lyon' is a single value"):
        Federation({"lyon": (np.zeros(3), 4)})
    with pytest.raises(DatasetError, match="Data set 'lyon' holds no samples"):
        Federation({"lyon": {}})


def test_a_table_says_why_an_array_does_not_fit_and_checks_names_first() -> None:
    federation = Federation({"lyon": {"x": np.zeros((4, 13)), "z": np.arange(4.0), "y": np.zeros(4)}})
    data = federation.dataset("lyon")
    with pytest.raises(DatasetError, match="Column 'x' of data set 'lyon' holds 13 values per row") as caught:
        data.table()
    assert caught.value.cure == "Use column('x')."
    with pytest.raises(DatasetError, match="no column 'Y'"):
        data.table(without=["Y"])
    assert data.table(without=["x", data.target]).tolist() == [[0.0], [1.0], [2.0], [3.0]]
