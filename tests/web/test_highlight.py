"""Plans as coloured lines: every line there, every line escaped, differences marked by signs."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import PlanError
from fedplug.node.web.highlight import MOST_COMPARED, code_rows, diff_rows

_TEXT = st.lists(
    st.sampled_from(
        [
            "", "    x = 1", 'a = """', "<script>alert(1)</script>", "'&amp;'", "# ü \t", "def f(self):", "\\", "'",
            "\x0b\x85", "é\u2028",
        ]
    ),
    max_size=12,
).map("\n".join)  # fmt: skip


def plain(row):
    return html.unescape(re.sub(r"</?span[^>]*>", "", str(row.code)))


@given(_TEXT)
def test_every_line_is_there_once_in_its_place_with_its_number(text):
    rows = code_rows(text)
    assert [row.new for row in rows] == list(range(1, text.count("\n") + 2))
    shown = [plain(row) for row in rows]
    hidden = str.maketrans({"\x0b": "\\x0b", "\x85": "\\x85", "\u2028": "\\u2028"})
    assert shown == text.translate(hidden).split("\n")


@given(_TEXT)
def test_nothing_but_spans_is_markup(text):
    for row in code_rows(text):
        assert "<" not in re.sub(r'</?span(?: class="[\w ]+")?>', "", str(row.code))


@given(_TEXT, _TEXT)
def test_a_diff_leads_from_the_old_text_to_the_new_one(old, new):
    rows = diff_rows(old, new)
    assert bool(rows) == (old != new)
    before, after = old.split("\n"), new.split("\n")
    # Every line that is in one text only is shown under its number; what is shown as common has both numbers.
    removed = {row.old for row in rows if row.kind == "removed"}
    added = {row.new for row in rows if row.kind == "added"}
    if rows:
        kept_before = [line for number, line in enumerate(before, 1) if number not in removed]
        kept_after = [line for number, line in enumerate(after, 1) if number not in added]
        assert kept_before == kept_after
    assert all(row.sign == {"added": "+", "removed": "-"}.get(row.kind, "") for row in rows)


def test_lines_that_are_left_out_are_counted():
    old = "\n".join(map(str, range(40)))
    rows = diff_rows(old, old.replace("\n20\n", "\ntwenty\n"))
    assert [str(row.code) for row in rows if row.kind == "gap"] == ["16 unchanged lines", "15 unchanged lines"]
    assert [(row.sign, plain(row)) for row in rows if row.sign] == [("-", "20"), ("+", "twenty")]


def test_characters_that_would_deceive_a_reader_are_spelled_out():
    (row,) = code_rows("if admin\u202e: # \u2066evil\u200b\r")
    assert "\\u202e" in plain(row)
    assert "\\u2066" in plain(row)
    assert "\\u200b" in plain(row)
    assert "\\x0d" in plain(row)


def test_a_huge_plan_is_shown_whole_and_not_compared():
    text = "x = '<b>'\n" * (MOST_COMPARED * 2)
    assert len(code_rows(text)) == MOST_COMPARED * 2 + 1
    assert "&lt;b&gt;" in str(code_rows(text)[0].code)
    with pytest.raises(PlanError, match="too many to be compared"):
        diff_rows(text, "")


def test_a_plan_made_to_be_slow_to_compare_is_compared_nevertheless():
    lines = MOST_COMPARED - 1  # without a bound on what equal lines cost, this does not end in a test's time
    rows = diff_rows("\n".join(str(n % 50) for n in range(lines)), "\n".join(str(n % 51) for n in range(lines)))
    assert any(row.sign for row in rows)
