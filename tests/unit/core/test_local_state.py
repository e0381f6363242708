"""What a training leaves for the next one at the same node."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fedplug import Params
from fedplug.core.errors import UsageError
from fedplug.core.local_state import MAX_VALUES, StateBook, lineage
from fedplug.core.messages import TaskKey, TrainRequest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_a_book_in_which_nothing_is_kept_leaves_nothing():
    book = StateBook()
    assert book.is_empty
    assert book.result() is None
    assert book.arrays("a") is None
    assert book.values("a") == {}
    assert "a" not in book


def test_sections_do_not_see_each_other():
    first = StateBook()
    first.keep("a", {"x": np.arange(3.0), "y": np.float32(2)})
    first.keep("a.b", {"x": np.zeros(1, np.int64)}, {"seen": 4})
    second = StateBook(first.result())
    assert second.arrays("a") == Params.from_arrays({"x": np.arange(3.0), "y": np.float32(2)})
    assert list(second.arrays("a.b")) == ["x"]
    assert second.values("a") == {}
    assert second.values("a.b") == {"seen": 4}
    assert "a" in second
    assert second.is_empty, "what was found is not kept by itself"


def test_keeping_again_replaces():
    book = StateBook()
    book.keep("a", {"x": np.zeros(1)}, {"n": 1})
    book.keep("a", None, {"m": 2})
    again = StateBook(book.result())
    assert len(again.arrays("a")) == 0
    assert again.values("a") == {"m": 2}


def test_what_is_kept_is_a_copy():
    array = np.zeros(2)
    book = StateBook()
    book.keep("a", {"x": array})
    array += 1
    assert book.result().arrays["a/x"].tolist() == [0, 0]


@given(values=st.dictionaries(st.text(max_size=6), PLAIN, max_size=4))
def test_plain_data_come_back_as_they_were(values):
    book = StateBook()
    book.keep("hook", None, values)
    assert StateBook(book.result()).values("hook") == values


@pytest.mark.parametrize("section", ["", "a/b"])
def test_a_section_needs_a_proper_name(section):
    with pytest.raises(UsageError, match="cannot be the name of a section"):
        StateBook().keep(section)


def test_what_is_not_plain_is_refused_with_its_section():
    with pytest.raises(UsageError, match="'hook' of the state holds something that is not plain"):
        StateBook().keep("hook", None, {"model": object()})


def test_plain_data_are_bounded():
    book = StateBook()
    book.keep("hook", None, {"text": "x" * (MAX_VALUES + 1)})
    with pytest.raises(UsageError, match="bytes of plain data"):
        book.result()


# lineage -----------------------------------------------------------------------------------------------------

REQUEST = TrainRequest(
    key=TaskKey(experiment_id="e", round=3, node_id="paris"), dataset_id="d", plan_class="P",
    model_args={"a": 1, "b": 2}, training_args={"epochs": 2}, seed=4, data_seed=5, acked_round=2,
    acked_state="a5" * 32, total_rounds=9, aux=("c",),
)  # fmt: skip
PARAMS = Params.from_arrays({"w": np.arange(3.0)})
AUX = {"c": Params.from_arrays({"w": np.ones(3)})}


def named(request=REQUEST, plan="hash", params=PARAMS, aux=AUX, found=True) -> str:
    return lineage(request, plan, params, aux, found=found)


def test_every_fact_of_a_training_has_its_say_in_its_lineage():
    changes = {
        "dataset_id": "d2", "plan_class": "Q", "model_args": {"a": 2}, "training_args": {"epochs": 3}, "seed": 5,
        "data_seed": 6, "acked_round": 1, "acked_state": "0f" * 32, "total_rounds": 10, "aux": (), "train": False,
    }  # fmt: skip
    assert set(changes) | {"key"} == set(TrainRequest.__struct_fields__)
    found = [named(replace(REQUEST, **{name: value})) for name, value in changes.items()]
    for name, value in {"round": 4, "node_id": "lyon"}.items():
        found.append(named(replace(REQUEST, key=replace(REQUEST.key, **{name: value}))))
    found += [
        named(), named(plan="other"), named(params=Params.from_arrays({"w": np.array([0.0, 1, 3])})),
        named(aux={"c": Params.from_arrays({"w": np.zeros(3)})}), named(aux={"d": AUX["c"]}), named(aux={}),
        named(found=False),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in found)


def test_neither_attempt_nor_experiment_nor_order_of_names_enters():
    other = replace(REQUEST, key=replace(REQUEST.key, attempt=7, experiment_id="f"), model_args={"b": 2, "a": 1})
    assert named(other) == named()


def test_a_training_that_cannot_be_compared_has_a_lineage_of_its_own():
    odd = replace(REQUEST, model_args={"net": object()})
    first, second = named(odd), named(odd)
    assert first != second
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in (first, second))
