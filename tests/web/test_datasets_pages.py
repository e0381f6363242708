"""Data sets on the page: found, described, registered, shown, taken back."""

from __future__ import annotations

import html

import pytest

from fedplug.node.policy.schema import DataRules, Policy

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def added(store):
    return [record.name for record in store.datasets()]


def test_an_empty_list_says_what_to_do_next(owner):
    page = owner.get("/data-sets").text
    assert "There is no data set yet" in page
    assert 'href="/data-sets/add"' in page


def test_a_file_is_described_without_its_rows(owner, table):
    page = owner.get("/data-sets/add/describe", params={"path": str(table(text="age,ill\n4711.25,0\n4711.5,1\n"))}).text
    assert "age" in page
    assert "float64" in page
    assert "2 x 2" in page
    assert "4711" not in page
    assert 'value="patients"' in page


def test_a_data_set_is_added_as_the_command_line_adds_it(owner, store, table, fields):
    answer = owner.submit("/data-sets/add", **fields(table(), column=["age"], description="Ward 3"))
    assert "Data set &#39;patients&#39; is registered." in answer.text
    (record,) = store.datasets()
    assert record.tags == ("breast", "2024")
    assert record.columns == ("age", "ill")
    assert record.target == "ill"
    assert record.description == "Ward 3"
    assert answer.url.path == f"/data-sets/{record.dataset_id}"
    assert "is registered" not in owner.get(answer.url.path).text


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"tags": ""}, "tags", "needs at least one tag"),
        ({"tags": "a\nb"}, "tags", "A tag must be"),
        ({"name": "x" * 101}, "name", "cannot be the name"),
        ({"target": "gone"}, "target", "gone"),
        ({"column": ["nowhere"], "target": ""}, "columns", "nowhere"),
    ],
    ids=["no tag", "bad tag", "long name", "no such target", "no such column"],
)
def test_what_is_wrong_stands_beside_its_field_and_what_was_typed_is_kept(
    owner, store, table, wrong, field, words, fields
):
    answer = owner.submit("/data-sets/add", **fields(table(), description="Kept", **wrong))
    assert answer.status_code == 400
    assert added(store) == []
    assert f'id="{field}-wrong"' in answer.text
    assert words in answer.text
    assert "Kept" in answer.text


def test_a_second_data_set_of_one_name_is_refused_beside_the_name(owner, store, table, fields):
    owner.submit("/data-sets/add", **fields(table()))
    answer = owner.submit("/data-sets/add", **fields(table("b.csv")))
    assert 'id="name-wrong"' in answer.text
    assert added(store) == ["patients"]


def test_a_broken_file_is_refused_with_its_row(owner, store, table):
    path = table(text="a,b\n1,2\n3\n")
    answer = owner.get("/data-sets/add/describe", params={"path": str(path)})
    assert answer.status_code == 400
    assert "row 3" in answer.text.lower()


def test_only_files_below_the_allowed_roots_are_described_or_added(
    owner, site, store, table, tmp_path, monkeypatch, fields
):
    outside = tmp_path / "outside.csv"
    outside.write_text("a,b\n1,2\n")
    root = table().parent
    monkeypatch.setattr(site, "policy", lambda: Policy(data=DataRules(roots=(root,))))
    for path in (outside, root / ".." / "outside.csv", "/etc/passwd"):
        described = owner.get("/data-sets/add/describe", params={"path": str(path)})
        assert described.status_code == 400
        assert "does not lie below" in described.text
        assert owner.submit("/data-sets/add", **fields(path)).status_code == 400
        assert owner.get("/data-sets/add", params={"folder": str(path)}).status_code == 400
    assert added(store) == []
    assert owner.get("/data-sets/add").text.count("patients.csv") >= 1
    assert owner.submit("/data-sets/add", **fields(root / "patients.csv")).status_code == 200


def test_hostile_names_are_shown_as_text(owner, store, table, fields):
    hostile = HOSTILE.replace('"', "")
    path = table("x<b>&amp;.csv", text=f"{hostile},ill\n1,0\n2,1\n")
    owner.submit(
        "/data-sets/add",
        **fields(
            path,
            name=HOSTILE,
            tags=HOSTILE,
            description=HOSTILE,
            column=[hostile],
            source=[hostile, "ill"],
            called=[HOSTILE, ""],
        ),
    )
    (record,) = store.datasets()
    assert record.name == HOSTILE
    assert record.columns == (HOSTILE, "ill")
    for address in ("/", "/data-sets", f"/data-sets/{record.dataset_id}", f"/data-sets/{record.dataset_id}/remove",
                    f"/data-sets/{record.dataset_id}/edit", f"/data-sets/{record.dataset_id}/edit?columns=yes",
                    f"/data-sets/add?folder={path.parent}"):  # fmt: skip
        page = owner.get(address).text
        assert "<script>alert" not in page, address
        assert "<img src=x" not in page, address
        assert "<b>" not in page, address
    assert html.escape("<script>alert(1)</script>") in owner.get(f"/data-sets/{record.dataset_id}").text


def test_removing_asks_first_and_leaves_the_file(owner, store, table, fields):
    path = table()
    owner.submit("/data-sets/add", **fields(path))
    (record,) = store.datasets()
    address = f"/data-sets/{record.dataset_id}/remove"
    assert "Remove patients?" in owner.get(address).text
    assert added(store) == ["patients"]
    assert "is not offered any more" in owner.submit(address).text
    assert added(store) == []
    assert path.exists()


def test_a_data_set_that_is_gone_is_not_found(owner):
    answer = owner.get("/data-sets/ds-gone")
    assert answer.status_code == 404
    assert "ds-gone" in answer.text
    assert owner.submit("/data-sets/ds-gone/remove").status_code == 404


def test_the_list_is_filtered_by_tags(owner, table, fields):
    owner.submit("/data-sets/add", **fields(table()))
    owner.submit("/data-sets/add", **fields(table("b.csv"), name="other", tags="breast"))
    page = owner.get("/data-sets", params={"tags": "2024"}).text
    assert "patients" in page
    assert "other" not in page
    assert "No data set carries" in owner.get("/data-sets", params={"tags": "nothing"}).text


def test_what_changed_on_disk_is_said(owner, store, table, fields):
    path = table()
    owner.submit("/data-sets/add", **fields(path))
    (record,) = store.datasets()
    path.write_text("age,size,ill\n1,2,3\n")
    assert "changed since it was added" in owner.get(f"/data-sets/{record.dataset_id}").text
    path.unlink()
    assert "cannot be opened" in owner.get(f"/data-sets/{record.dataset_id}").text
