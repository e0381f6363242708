"""What is asked when a data set is added: names for plans, what a type wants to know, and what is missing."""

from __future__ import annotations

import html
import re

import pytest

from fedplug.core.errors import UsageError
from fedplug.node.datasets.registry import dataset_type
from fedplug.node.web.columns import MOST_COLUMNS, ColumnChoice

NAMES = {"source": ["age", "size", "ill"], "called": ["age", "size", "ill"]}


@pytest.fixture
def folder(tmp_path):
    """Return ``make(type)``: a small folder of that type, as the type writes it itself."""

    def make(kind):
        path = tmp_path / kind
        path.mkdir()
        return dataset_type(kind).example(path)

    return make


@pytest.fixture
def scans(folder):
    """A medical folder whose subjects come from two scanners."""
    path = folder("medical")
    for number, scanner in enumerate(("philips", "siemens", "philips", "siemens")):
        (path / f"s{number}" / "T1.nii.gz").rename(path / f"s{number}" / f"T1_{scanner}.nii.gz")
    return path


def look(owner, path, kind="", **more):
    return owner.submit("/data-sets/add", path=str(path), type=kind, action="look", **more)


def values(page, name):
    """The values of all fields of a name, as they stand in the page."""
    return [html.unescape(each) for each in re.findall(rf'name="{name}" value="([^"]*)"', page)]


def test_what_is_missing_is_told_by_column(owner, table, fields):
    page = owner.get("/data-sets/add/describe", params={"path": str(table())}).text
    assert re.findall(r'data-label="Missing" class="number">(\d+)<', page) == ["0", "1", "0"]
    answer = owner.submit("/data-sets/add", **fields(table()))
    assert "Values are missing in size (1)." in answer.text


def test_columns_get_the_names_that_plans_use(owner, store, table, fields):
    answer = owner.submit("/data-sets/add", **fields(table(), **{**NAMES, "called": ["years", " ", "diagnosis"]}))
    (record,) = store.datasets()
    assert record.columns == ("years", "size", "diagnosis")
    assert record.mapping == {"years": "age", "diagnosis": "ill"}
    assert record.target == "diagnosis"
    assert '<th scope="col">In the files</th>' in answer.text


def test_two_columns_may_change_their_names():
    choice = ColumnChoice(("a", "b"), {"a": "b", "b": "a"}, "a")
    said = choice.said()
    assert (said.columns, said.mapping, said.target) == (["b", "a"], {"b": "a", "a": "b"}, "b")


def test_blanks_around_the_name_of_a_column_are_no_other_name():
    choice = ColumnChoice((" a ", "b"), {" a ": "a", "b": ""}, " a ")
    said = choice.said()
    assert (said.columns, said.mapping, said.target) == ([" a ", "b"], {}, " a ")


def test_a_name_that_is_only_changed_where_the_column_is_not_chosen_is_none():
    choice = ColumnChoice(("a",), {"a": "a", "b": "x", "c": "y"}, "c")
    assert choice.said().mapping == {"y": "c"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"called": ["x", "x", "ill"]}, "would both be called"),
        ({"called": ["size", "size", "ill"]}, "would both be called"),
        ({"called": ["a\nb", "", ""]}, "cannot be the name of a column"),
        ({"column": []}, "No column is chosen"),
    ],
    ids=["twice", "as another", "odd", "none"],
)
def test_names_that_cannot_be_are_refused_beside_the_columns_and_kept(owner, store, table, fields, more, said):
    answer = owner.submit("/data-sets/add", **fields(table(), **{**NAMES, **more}))
    assert answer.status_code == 400
    assert store.datasets() == []
    assert said in html.unescape(answer.text.split('id="columns-wrong"')[1].split("</span>")[0])
    if "called" in more:
        assert values(answer.text, "called")[0] == more["called"][0]


def test_looking_again_registers_nothing_and_keeps_what_was_typed(owner, store, table, fields):
    filled = fields(table(), **{**NAMES, "called": ["years", "size", "ill"], "column": ["age"], "description": "Kept"})
    answer = owner.submit("/data-sets/add", action="look", **filled)
    assert answer.status_code == 200
    assert store.datasets() == []
    for kept in ("Kept", 'value="years"', 'value="breast, 2024"'):
        assert kept in answer.text
    assert re.findall(r'value="(\w+)" id="column-\d" checked', answer.text) == ["age"]


def test_a_table_with_very_many_columns_is_added_whole(owner, store, table, fields):
    names = [f"g{number}" for number in range(MOST_COLUMNS + 1)]
    path = table("genes.csv", f"{','.join(names)}\n{','.join('1' for _ in names)}\n")
    page = owner.get("/data-sets/add/describe", params={"path": str(path)}).text
    assert f"It has {MOST_COLUMNS + 1:,} columns" in page
    assert 'name="column"' not in page
    owner.submit("/data-sets/add", path=str(path), type="", name="genes", tags="x", description="", target="g7")
    (record,) = store.datasets()
    assert (len(record.columns), record.target) == (MOST_COLUMNS + 1, "g7")
    assert "1 more are not shown" in owner.get(f"/data-sets/{record.dataset_id}").text


def test_only_types_that_fit_a_file_or_a_folder_are_offered(owner, table, folder):
    offered = re.compile(r'<option value="(\w+)"')
    of_file = set(offered.findall(owner.get("/data-sets/add/describe", params={"path": str(table())}).text))
    of_folder = set(offered.findall(owner.get("/data-sets/add/describe", params={"path": str(folder("images"))}).text))
    assert {"csv", "arrays"} <= of_file
    assert {"images", "medical", "signals", "genomics", "mnist"} <= of_folder
    assert not {"images", "medical"} & of_file
    assert "csv" not in of_folder


def test_a_folder_whose_type_cannot_be_told_is_asked_for_it(owner, scans):
    answer = owner.get("/data-sets/add/describe", params={"path": str(scans)})
    assert answer.status_code == 200
    assert "Choose its type." in answer.text
    assert "Add the data set" not in answer.text


def test_modalities_of_two_scanners_become_one(owner, store, scans):
    page = look(owner, scans, "medical").text
    assert values(page, "plan-modalities") == values(page, "here-modalities") == ["T1_philips", "T1_siemens", "", ""]
    assert "2 of 4 subjects have no T1_philips" in page
    rows = {"plan-modalities": ["T1", "T1", "", ""], "here-modalities": ["T1_philips", "T1_siemens", "", ""]}
    page = look(owner, scans, "medical", **rows).text
    assert 'value="T1" id="column-0" checked' in page
    assert "have no T1" not in page
    owner.submit("/data-sets/add", path=str(scans), type="medical", name="scans", tags="mri", description="",
                 column=["T1", "age"], source=["T1", "age"], called=["T1", "years"], target="", **rows)  # fmt: skip
    (record,) = store.datasets()
    assert record.options == {"modalities": "T1=T1_philips|T1_siemens"}
    assert (record.columns, record.mapping, record.missing) == (("T1", "years"), {"years": "age"}, {})
    shown = owner.get(f"/data-sets/{record.dataset_id}").text
    assert "T1=T1_philips|T1_siemens" in shown


def test_a_class_may_have_several_folders_or_none(owner, store, folder):
    rows = {"plan-classes": ["light", "dark", "grey"], "here-classes": ["bright", "dark", ""]}
    page = look(owner, folder("images"), "images", **rows).text
    assert "Classes, with their images: dark 2, grey 0, light 2." in page
    assert 'aria-label="label is the target" checked' in page


def test_what_a_type_must_be_told_can_be_told_where_a_look_has_failed(owner, scans):
    (scans / "demographics.csv").rename(scans / "a.csv")
    (scans / "b.csv").write_text("x,y\n1,2\n")
    answer = look(owner, scans, "medical", name="Kept", tags="mri")
    assert answer.status_code == 400
    assert "several tables in its folder" in answer.text
    assert "Table of demographics" in answer.text
    assert 'value="Kept"' in answer.text
    again = look(owner, scans, "medical", **{"option-demographics": "a.csv"})
    assert again.status_code == 200
    assert 'value="age" id="column-' in again.text


def test_a_loading_plan_that_cannot_be_is_refused_beside_its_rows_and_kept(owner, scans):
    for plan, said in (("T=1", "cannot be the name of a modality"), ("T1", "no subject has what its loading plan")):
        here = "gone" if plan == "T1" else "T1_philips"
        answer = look(owner, scans, "medical", **{"plan-modalities": [plan], "here-modalities": [here]})
        assert answer.status_code == 400
        assert said in answer.text
        assert values(answer.text, "plan-modalities")[0] == plan
    twice = {"plan-modalities": ["a", "b"], "here-modalities": ["T1_philips", "T1_philips"]}
    assert 'id="option-modalities-wrong"' in look(owner, scans, "medical", **twice).text


def test_what_hardly_anybody_needs_is_folded_away_until_it_is_used(owner, table):
    folded = look(owner, table()).text
    assert "<details><summary>More</summary>" in folded
    wrong = look(owner, table(), **{"option-max_mib": "much"})
    assert wrong.status_code == 400
    assert "<details open>" in wrong.text


def test_names_in_a_folder_are_shown_as_text(owner, folder):
    path = folder("images")
    hostile = "<script>alert(1)<"
    (path / "dark").rename(path / hostile)
    page = look(owner, path, "images").text
    assert "<script>alert" not in page
    assert hostile in values(page, "here-classes")


def test_a_path_that_no_longer_lies_where_it_may_is_not_looked_at(owner, scans, monkeypatch, site):
    def forbidden():
        raise UsageError("The rules cannot be read.", cure="Mend them.")

    monkeypatch.setattr(site, "policy", forbidden)
    answer = look(owner, scans, "medical")
    assert answer.status_code == 400
    assert "T1_philips" not in answer.text
