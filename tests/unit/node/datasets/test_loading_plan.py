"""Loading plans in one line: written as they are read, and nothing that would be read otherwise is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import UsageError
from fedplug.node.datasets.loading_plan import loading_plan, loading_text

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=";|=", categories=["L", "N", "P"]), min_size=1)


@given(names=st.lists(NAMES, unique=True, max_size=12), cuts=st.lists(st.integers(0, 3), max_size=6))
def test_what_is_written_is_read_again(names, cuts):
    rest, plan = list(names), {}
    for number, cut in enumerate(cuts):
        plan[f"plan {number}"] = tuple(rest[:cut])
        rest = rest[cut:]
    rows = [(name, " | ".join(here)) for name, here in plan.items()]
    assert loading_plan(loading_text([*rows, ("", ""), ("same", "same")], "class"), "classes", "It") == plan


def test_rows_of_one_name_are_joined_and_a_name_that_stays_is_left_out():
    rows = [("T1", "T1_philips"), ("T2", "T2"), ("T1", "T1_siemens"), ("", "FLAIR"), ("other", "")]
    assert loading_text(rows, "modality") == "T1=T1_philips|T1_siemens; other="


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a=b", "c"), "'a=b' cannot be the name of a modality"),
        (("a;b", "c"), "'a;b' cannot be"),
        (("a", "b;c"), "'b;c' cannot be"),
        (("a|b", "c"), "'a|b' cannot be"),
        (("a\nb", "c"), "cannot be the name"),
        (("", "a|b"), "'a|b' has no name for plans"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(row, said):
    with pytest.raises(UsageError) as caught:
        loading_text([row], "modality")
    assert said in str(caught.value)
