"""Data sets that are changed on the page, looked at again, and accepted as they are now."""

from __future__ import annotations

import html

import msgspec
import pytest

from fedplug.node.policy.schema import DataRules, Policy

NAMES = {"source": ["age", "size", "ill"], "called": ["age", "size", "ill"]}


@pytest.fixture
def path(table):
    return table()


@pytest.fixture
def added(owner, store, path, fields):
    """A data set that was added on the page."""
    owner.submit("/data-sets/add", **fields(path))
    return store.datasets()[0]


def mark(owner, record):
    """Return what the form of a data set carries, to know what it was made of."""
    return owner.get(f"/data-sets/{record.dataset_id}/edit").text.split('name="mark" value="')[1].split('"')[0]


@pytest.fixture
def edit(owner, added):
    """Return ``edit(**fields)``: sends the form of `added`, filled in as it stands but for ``fields``."""

    def send(**more):
        said = {"name": added.name, "tags": ", ".join(added.tags), "description": added.description}
        filled = {"mark": mark(owner, added), **said, **more}
        return owner.submit(f"/data-sets/{added.dataset_id}/edit", **filled)

    return send


def columns(**more):
    """The fields of the columns, as they stand but for ``more``."""
    return {"columns": "yes", "column": ["age", "size", "ill"], "target": "ill", **NAMES, **more}


def test_what_is_said_of_it_is_changed_without_a_look_at_the_files(owner, store, path, added, edit):
    path.unlink()
    assert "Change patients" in owner.get(f"/data-sets/{added.dataset_id}/edit").text
    answer = edit(name="ward", tags="heart, 2025", description="Of 2025")
    assert "Data set &#39;ward&#39; is changed." in answer.text
    (record,) = store.datasets()
    assert (record.dataset_id, record.name, record.tags) == (added.dataset_id, "ward", ("heart", "2025"))
    assert record.description == "Of 2025"


def test_the_form_shows_what_is_in_force(owner, added):
    page = owner.get(f"/data-sets/{added.dataset_id}/edit", params={"columns": "yes"}).text
    for shown in ('value="patients"', 'value="breast, 2024"', 'aria-label="ill is the target" checked'):
        assert shown in page
    assert page.count('name="called"') == 3


def test_what_was_typed_is_kept_when_the_columns_are_asked_for(store, added, edit):
    page = edit(action="columns", name="", description="Kept").text
    assert "Kept" in page
    assert page.count('name="called"') == 3
    assert 'aria-label="ill is the target" checked' in page
    assert store.datasets() == [added]


def test_what_plans_see_is_changed_with_a_new_id_and_written_down(store, site, added, edit):
    answer = edit(**columns(column=["age"], called=["years", "size", "ill"]))
    (record,) = store.datasets()
    assert (record.columns, record.mapping, record.target) == (("years", "ill"), {"years": "age"}, "ill")
    assert record.dataset_id != added.dataset_id
    assert answer.url.path == f"/data-sets/{record.dataset_id}"
    assert "researchers must search again" in answer.text
    (entry,) = site.audit.entries(events=["dataset-edited"])
    assert (entry.actor, entry.data["former_id"]) == ("web", added.dataset_id)


def test_columns_that_were_left_out_can_be_taken_in_again(owner, store, added, edit):
    edit(**columns(column=["age"], called=["years", "size", "ill"], target=""))
    (record,) = store.datasets()
    assert record.columns == ("years",)
    owner.submit(f"/data-sets/{record.dataset_id}/edit", name="patients", tags="x", description="",
                 mark=mark(owner, record), **columns(called=["years", "size", "ill"]))  # fmt: skip
    (record,) = store.datasets()
    assert (record.columns, record.target) == (("years", "size", "ill"), "ill")


@pytest.mark.parametrize("more", [{}, {"action": "columns"}], ids=["at once", "after a look at the columns"])
def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(owner, store, added, edit, more):
    opened = {"mark": mark(owner, added), "description": "Mine"}
    theirs = msgspec.structs.replace(added, description="Theirs", tags=("theirs",))
    store.replace_dataset(added, theirs)
    if more:  # these are its columns now; the form is still the one that was opened before
        assert f'name="mark" value="{opened["mark"]}"' in edit(**opened, **more).text
    answer = edit(**opened, **(columns(column=["age"], target="") if more else {}))
    assert answer.status_code == 400
    assert "changed by somebody else since you opened this page. Nothing was saved." in answer.text
    assert "Mine" in answer.text
    assert store.datasets() == [theirs]
    assert edit(**opened).status_code == 400, "also if it is sent again"
    assert "is changed" in edit(mark=mark(owner, theirs), description="Mine").text


def test_what_cannot_be_written_into_the_audit_log_is_not_done(unlucky, store, added, path, fields):
    opened = mark(unlucky, added)
    with store.transaction() as db:
        db.execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(FAIL, 'it cannot be written'); END")
    form = {"name": "ward", "tags": "x", "description": "", "mark": opened}
    for action, said in (("edit", form), ("remove", {})):
        assert unlucky.submit(f"/data-sets/{added.dataset_id}/{action}", **said).status_code >= 400
    assert unlucky.submit("/data-sets/add", **fields(path, name="another")).status_code >= 400
    assert store.datasets() == [added]


def test_nothing_is_written_down_where_nothing_is_different(store, site, added, edit):
    assert "Nothing is different." in edit().text
    assert "Nothing is different." in edit(**columns()).text
    assert store.datasets() == [added]
    assert site.audit.entries(events=["dataset-edited"]) == []


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"tags": ""}, "tags", "needs at least one tag"),
        ({"name": "other"}, "name", "other"),
        (columns(column=[]), "columns", "No column is chosen"),
        (columns(target="gone"), "columns", "gone"),
        (columns(called=["x", "x", "ill"]), "columns", "would both be called"),
    ],
    ids=["no tag", "taken name", "no column", "no such target", "one name twice"],
)
def test_what_is_wrong_stands_beside_its_field_and_nothing_is_changed(
    owner, store, table, fields, added, edit, wrong, field, words
):
    owner.submit("/data-sets/add", **fields(table("b.csv"), name="other"))
    before = store.datasets()
    answer = edit(**{"description": "Kept", **wrong})
    assert answer.status_code == 400
    assert words in html.unescape(answer.text.split(f'id="{field}-wrong"')[1].split("</span>")[0])
    assert "Kept" in answer.text
    assert store.datasets() == before


def test_its_files_are_checked_and_a_change_is_accepted(owner, store, path, added):
    address = f"/data-sets/{added.dataset_id}"
    assert "as they were when it was added" in owner.submit(f"{address}/check").text
    assert "Accept the change" not in owner.get(address).text
    path.write_text(path.read_text() + "70,3,0\n")
    page = owner.submit(f"{address}/check").text
    assert "It is not fit for training" in page
    assert "Its shape was 3 x 3, and is 4 x 3 now." in page
    assert "Accept the change" in page
    assert store.datasets() == [added]
    answer = owner.submit(f"{address}/accept")
    (record,) = store.datasets()
    assert record.shape == (4, 3)
    assert record.dataset_id != added.dataset_id
    assert answer.url.path == f"/data-sets/{record.dataset_id}"
    assert "unchanged" in answer.text


def test_a_change_that_cannot_be_accepted_is_refused_and_the_data_set_stays(owner, store, path, added):
    path.write_text("age,size,ill\n1,2\n")
    answer = owner.submit(f"/data-sets/{added.dataset_id}/accept")
    assert answer.status_code == 400
    assert "row 2 has 2 cells" in answer.text
    assert store.datasets() == [added]


def test_columns_of_a_file_that_has_changed_are_changed_only_if_that_is_accepted_too(owner, store, path, added, edit):
    path.write_text("age,size,ill,new\n1,2,0,5\n")
    page = owner.get(f"/data-sets/{added.dataset_id}/edit", params={"columns": "yes"}).text
    assert "The files have changed since they were added" in page
    assert 'value="new" id="column-3">' in page  # it is not chosen: nobody has decided on it yet
    wanted = columns(column=["age", "new"], source=["age", "size", "ill", "new"], called=["age", "size", "ill", "new"])
    answer = edit(**wanted)
    assert answer.status_code == 400
    assert "have changed since it was added" in answer.text
    assert store.datasets() == [added]
    edit(**wanted, accept="yes")
    assert store.datasets()[0].columns == ("age", "new", "ill")


def test_files_that_are_gone_are_said_to_be_and_the_rest_can_still_be_changed(owner, store, path, added, edit):
    path.unlink()
    answer = owner.get(f"/data-sets/{added.dataset_id}/edit", params={"columns": "yes"})
    assert answer.status_code == 400
    assert 'name="tags"' in answer.text
    assert "cannot be opened" in owner.submit(f"/data-sets/{added.dataset_id}/check").text
    assert "is changed" in edit(tags="y").text


def test_files_that_lie_outside_the_allowed_folders_are_not_accepted(owner, site, store, added, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(site, "policy", lambda: Policy(data=DataRules(roots=(tmp_path / "elsewhere",))))
    address = f"/data-sets/{added.dataset_id}"
    assert "not lie in a folder that this node may use" in owner.submit(f"{address}/check").text
    for answer in (owner.submit(f"{address}/accept"), owner.get(f"{address}/edit", params={"columns": "yes"})):
        assert answer.status_code == 400
        assert "does not lie below a folder" in answer.text
    assert store.datasets() == [added]


def test_a_data_set_that_is_gone_cannot_be_changed(owner):
    for what in ("edit", "check", "accept"):
        assert owner.submit(f"/data-sets/ds-gone/{what}").status_code == 404
    assert owner.get("/data-sets/ds-gone/edit").status_code == 404
