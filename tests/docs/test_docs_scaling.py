"""The program of docs/scaling.md shows what the page says of sums of sums; its tables have a test beside their code."""

from __future__ import annotations

import ast


def test_sums_in_fixed_point_do_not_depend_on_the_tree(run_page):
    floats, fixed = map(ast.literal_eval, run_page("scaling.md", 1).splitlines())
    assert all(25_000 < differ < 40_000 for differ in floats)
    assert fixed == [0, 0, 0]
