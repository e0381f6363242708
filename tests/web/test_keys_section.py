"""The keys on the page: shown, trusted, and trusted no more, as in the terminal."""

from __future__ import annotations

import html

from fedplug.core.keys import allow_command, fingerprint
from fedplug.node.audit.log import AuditLog
from fedplug.node.keys import NodeKeys, make_keys

KEY = "aa" * 32
HERE = "zmq://127.0.0.1:7400"


def test_a_key_is_trusted_and_trusted_no_more(owner, store):
    page = owner.get("/settings").text
    assert "has no keys yet" in page
    assert f'value="{HERE}"' in page
    answer = html.unescape(owner.submit("/settings/trust", key=f" {KEY.upper()} ", researcher=HERE).text)
    keys = NodeKeys(store.folder)
    assert f"trusts the researcher at {HERE} who has the key {fingerprint(KEY)}" in answer
    assert keys.trusted(HERE) == (KEY,)
    assert allow_command(store.identity.node_id, keys.own.pair().public) in answer
    assert keys.own.pair().secret not in answer
    answer = owner.submit("/settings/untrust", key=KEY).text
    assert f"The key {fingerprint(KEY)} is not trusted any more." in answer
    assert keys.trusted(HERE) == ()
    assert [(entry.event, entry.actor) for entry in AuditLog(store).entries()[::-1]] == [
        ("researcher-trusted", "web"), ("researcher-untrusted", "web"),
    ]  # fmt: skip


def test_what_is_no_key_or_no_address_is_refused_in_words_and_shown_as_text(owner, store):
    hostile = "<script>alert(1)</script>"
    for fields, words in (
        ({"key": hostile, "researcher": HERE}, "is no public key"),
        ({"key": KEY, "researcher": hostile}, "is not an address"),
        ({"key": KEY, "researcher": "zmq://lab.example"}, "is no zmq address"),
    ):
        answer = owner.submit("/settings/trust", **fields)
        assert answer.status_code == 400
        assert words in answer.text
        assert "<script>alert" not in answer.text
    assert NodeKeys(store.folder).researchers.entries() == ()
    assert owner.submit("/settings/untrust", key="x").status_code == 400


def test_a_list_that_was_edited_by_somebody_cannot_bring_markup_onto_the_page(owner, store):
    keys = NodeKeys(store.folder)
    make_keys(store)
    keys.researchers.path.write_text(f"<script>alert(1)</script> {KEY} <b>\n")
    page = owner.get("/settings").text
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert "<b>" not in page


def test_keys_that_others_can_read_are_told_of_and_the_rules_are_there_all_the_same(owner, store):
    make_keys(store)
    path = store.folder / "keys" / "own.key"
    path.chmod(0o644)
    page = html.unescape(owner.get("/settings").text)
    assert "Others can read" in page
    assert f"chmod 600 '{path}'" in page
    assert "Trust this key" not in page
    assert 'id="text"' in page
