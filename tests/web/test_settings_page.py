"""The rules on the page: shown, checked as a whole, saved as a whole or not at all."""

from __future__ import annotations

import html

import pytest

from fedplug.node.policy.file import POLICY_FILE
from fedplug.node.policy.template import policy_text


@pytest.fixture
def file(store):
    return store.folder / POLICY_FILE


def mark(owner):
    return owner.get("/settings").text.split('name="mark" value="')[1].split('"')[0]


def test_a_node_without_rules_is_shown_those_of_a_new_one_and_nothing_is_written(owner, file):
    page = html.unescape(owner.get("/settings").text)
    assert policy_text() in page
    assert not file.exists()


def test_rules_are_saved_and_shown_again(owner, file):
    text = policy_text().replace("minimum_rows = 0", "minimum_rows = 100")
    answer = owner.submit("/settings", text=text.replace("\n", "\r\n"), mark=mark(owner), action="save")
    assert "The rules are saved" in answer.text
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o600
    assert "minimum_rows = 100" in owner.get("/settings").text


def test_all_that_is_wrong_is_told_by_line_and_nothing_is_saved(owner, file):
    file.write_text(policy_text())
    text = '[approval]\nmode = "maybe"\n[training]\nround = 3\n'
    answer = owner.submit("/settings", text=text, mark=mark(owner), action="save")
    assert answer.status_code == 400
    assert "nothing was saved" in answer.text
    assert 'data-line="2"' in answer.text
    assert 'data-line="4"' in answer.text
    assert html.escape('mode = "maybe"', quote=True).replace("&quot;", "&#34;") in answer.text
    assert file.read_text() == policy_text()


def test_checking_saves_nothing(owner, file):
    answer = owner.submit("/settings", text=policy_text(), mark=mark(owner), action="check")
    assert "These rules can be used. They are not saved yet." in answer.text
    assert not file.exists()


def test_rules_that_somebody_else_has_changed_meanwhile_are_not_overwritten(owner, file):
    file.write_text(policy_text())
    before = mark(owner)
    theirs = policy_text() + "\n# theirs\n"
    file.write_text(theirs)
    answer = owner.submit("/settings", text=policy_text() + "\n# mine\n", mark=before, action="save")
    assert answer.status_code == 400
    assert "changed by somebody else" in answer.text
    assert "# mine" in answer.text
    assert file.read_text() == theirs


def test_a_file_of_rules_that_is_wrong_can_be_seen_and_corrected_here(owner, file):
    file.write_text("[approval\n")
    page = owner.get("/settings")
    assert page.status_code == 200
    assert "this is not TOML" in page.text
    for path in ("/", "/data-sets", "/trainings"):
        assert owner.get(path).status_code == 200
    assert "saved" in owner.submit("/settings", text=policy_text(), mark=mark(owner), action="save").text


def test_hostile_rules_are_shown_as_text(owner, file):
    hostile = '"</textarea><script>alert(1)</script>" = 1\n'
    for action in ("check", "save"):
        page = owner.submit("/settings", text=hostile, mark=mark(owner), action=action).text
        assert "<script>alert" not in page
        assert "</textarea><script" not in page
    file.write_text(hostile)
    assert "<script>alert" not in owner.get("/settings").text


def test_the_machine_and_the_node_are_looked_at_when_that_is_asked_for(owner, store):
    assert "What was found" not in owner.get("/settings").text
    store.folder.chmod(0o755)
    page = html.unescape(owner.submit("/settings/look").text)
    assert f"Others may look into {store.folder}." in page
    assert f"chmod 700 '{store.folder}'" in page
    assert page.index("Others may look into") < page.index("There is none, so no researcher finds anything here.")
    assert page.index("so no researcher finds") < page.index("entries, all as they were written")
    store.folder.chmod(0o700)
    assert "Others may look into" not in owner.submit("/settings/look").text
