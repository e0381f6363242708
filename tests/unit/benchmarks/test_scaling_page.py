from __future__ import annotations

import re

import pytest

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.model import Load, cost_model
from benchmarks.scaling.page import PAGE, filled, places
from benchmarks.scaling.points import FILE, measured, write
from benchmarks.scaling.tables import TABLES, duration, number, percent, size

_NUMBER = re.compile(r"-?[\d,]*\d(?:\.\d+)?")


def same(shown, made):
    """Whether two cells say the same; another processor may round a last digit to the other side."""
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", made):
        return False
    pairs = zip(*([float(n.replace(",", "")) for n in _NUMBER.findall(cell)] for cell in (shown, made)), strict=True)
    return all(a == pytest.approx(b, rel=0.1, abs=1) for a, b in pairs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "played" else name for name in TABLES]
)
def test_the_page_shows_what_the_code_makes(name):
    shown = dict(places(PAGE.read_text(encoding="utf-8")))
    assert name in shown, f"{PAGE.name} has no place for the table {name}"
    rows, made = ([line.split(" | ") for line in text.splitlines()] for text in (shown[name], TABLES[name]()))
    assert len(rows) == len(made)
    different = [
        (a, b) for row, other in zip(rows, made, strict=True) for a, b in zip(row, other, strict=True) if not same(a, b)
    ]
    assert different == [], "type `python -m benchmarks.scaling page` to put the tables into the page"


def test_the_page_has_no_table_that_nobody_makes():
    assert [name for name, _ in places(PAGE.read_text(encoding="utf-8"))] == list(TABLES)


def test_cells_that_differ_are_found():
    assert same("1,200 µs", "1,200 µs")
    assert same("pump thread, 0.70", "pump thread, 0.71")
    assert not same("1.2 ms", "1.2 s")
    assert not same("70 → 1", "90 → 1")


def test_a_page_is_filled_and_can_be_filled_again():
    empty = "<!-- table: b --><!-- end of table -->"  # no line of its own: no place for a table
    text = f"above\n<!-- table: a -->\nold\n<!-- end of table -->\nbelow {empty}\n"
    once = filled(text, {"a": lambda: "| new |"})
    assert once == f"above\n<!-- table: a -->\n\n| new |\n\n<!-- end of table -->\nbelow {empty}\n"
    assert filled(once, {"a": lambda: "| new |"}) == once
    assert list(places(once)) == [("a", "| new |")]
    with pytest.raises(KeyError, match="a"):
        filled(text, {})


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (number(1234.5), "1,200"), (number(0.0312), "0.031"), (number(9.96), "10.0"), (number(0), "0"),
        (number(1e-9), "0"), (size(1.5e9), "1.5 GB"), (size(12), "12 B"), (duration(0.0000123), "12 µs"),
        (duration(0.0009999), "1.0 ms"), (duration(90), "90 s"), (duration(1e-12), "\u2013"), (percent(0.104), "10 %"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(made, expected):
    assert made == expected


def test_points_are_kept_as_they_were(tmp_path):
    file = tmp_path / "points.json"
    write(measured(), file)
    assert measured(file) == measured()
    assert file.read_bytes() == FILE.read_bytes()


def test_every_cost_that_the_page_rests_on_was_measured():
    costs = cost_model()
    for thread in ("main", "pump", "native"):
        assert costs.coefficient(thread, "sampled") > 0
        assert costs.coefficient(thread, "sampled MB") > 0
    assert costs.node_memory > 10_000
    load = Load(1000, 100, 1024)
    assert costs.rest_share("pump", load) > costs.rest_share("main", load) == 0


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"benchmarks.scaling {command}" in text for command in ("tables", "ask", "play", "measure", "page"))


def test_one_table_is_printed(capsys):
    main(["tables", "one-node"])
    assert TABLES["one-node"]() in capsys.readouterr().out


def test_a_federation_is_judged(capsys):
    main(["ask", "--nodes", "1e6", "--sampled", "1000", "--model", "1e8"])
    text = capsys.readouterr().out
    assert "too much" in text
    assert "A tree:" in text
    main(["ask", "--nodes", "100", "--sampled", "10", "--model", "1000"])
    text = capsys.readouterr().out
    assert "too much" not in text
    assert "One is enough." in text
    main(["ask", "--nodes", "1e4", "--sampled", "1e4", "--model", "1e9", "--seconds", "1"])
    assert "No tree brings" in capsys.readouterr().out


def test_a_round_is_played(capsys):
    main(["play", "4", "3", "--model", "1e6", "--training", "5", "--seed", "1"])
    assert "12 updates are in the sum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["tables", "bananas"], "no table 'bananas'"), (["play", "3", "--model", "1", "--dead", "1"], "let fewer die")],
    ids=["unknown table", "all aggregators die"],
)
def test_what_cannot_be_done_is_said(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err
