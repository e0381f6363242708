"""The audit log on the page: filtered, page by page, verified, exported."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def log(site):
    return site.audit


def numbers(page):
    return [int(each) for each in re.findall(r'<tr><th scope="row">(\d+)</th>', page)]


def test_an_empty_log_says_what_will_be_there(owner):
    assert "Nothing has happened yet" in owner.get("/audit").text


def test_entries_are_shown_page_by_page_the_newest_first(owner, log):
    for _ in range(120):
        log.note("connected", researcher="zmq://r")
    shown, path = [], "/audit"
    while path:
        page = owner.get(path).text
        shown += numbers(page)
        older = re.search(r'href="([^"]+)" rel="next"', page)
        path = older[1].replace("&amp;", "&") if older else None
    assert shown == list(range(120, 0, -1))


def test_filters_narrow_and_are_kept_from_page_to_page(owner, log):
    for number in range(130):
        log.note(
            "training-finished" if number % 2 else "training-failed", actor="researcher:r", dataset=f"d{number % 4}"
        )
    page = owner.get("/audit", params={"event": "training-finished", "dataset": "d1", "actor": "researcher"}).text
    assert numbers(page) == [number for number in range(130, 0, -1) if number % 4 == 2]
    page = owner.get("/audit", params={"event": "training-finished"}).text
    assert len(numbers(page)) == 50
    assert "event=training-finished" in re.search(r'href="([^"]+)" rel="next"', page)[1]
    assert "There is no such entry" in owner.get("/audit", params={"until": "2001-01-01"}).text
    assert numbers(owner.get("/audit", params={"since": "2001-01-01", "until": "9999-12-31"}).text)


@pytest.mark.parametrize("odd", ["x", "-1", "9" * 30, "1 OR 1=1", "½"])
def test_an_odd_page_is_the_first(owner, log, odd):
    log.note("connected")
    assert numbers(owner.get("/audit", params={"before": odd, "event": odd}).text) == [1]


def test_a_whole_log_is_said_to_be_and_a_changed_entry_is_found(owner, store, log):
    for _ in range(3):
        log.note("connected", researcher="zmq://r")
    head = log.head()
    assert (
        f'All 3 entries are as they were written. The head is <span class="mono">{head}' in owner.submit("/audit").text
    )
    assert "All 3 entries" in owner.submit("/audit", head=head).text
    assert "that was noted" in owner.submit("/audit", head="0123").text
    with store.transaction() as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f'DROP TRIGGER "{name}"')
        db.execute("UPDATE audit SET facts = '{}' WHERE number = 2")
    assert "Entry 2 was changed after it was written" in owner.submit("/audit").text


def test_exports_hold_all_entries(owner, log):
    for _ in range(3):
        log.note("connected", researcher="zmq://r")
    lines = owner.get("/audit/export", params={"format": "jsonl"})
    assert [json.loads(line)["number"] for line in lines.text.splitlines()] == [1, 2, 3]
    assert lines.headers["content-disposition"].startswith('attachment; filename="audit-')
    table = owner.get("/audit/export", params={"format": "csv"})
    assert [row["event"] for row in csv.DictReader(io.StringIO(table.text))] == ["connected"] * 3
    assert owner.get("/audit/export", params={"format": "exe"}).status_code == 404


def test_hostile_facts_are_shown_as_text(owner, log):
    log.note("refused-by-researcher", actor=f"researcher:{EVIL}", reason=EVIL, **{EVIL: [EVIL]})
    for event in ("training-started", "training-failed"):
        log.note(event, actor=f"researcher:{EVIL}", task=EVIL, dataset=EVIL, plan=EVIL, plan_class=EVIL, reason=EVIL)
    for path in ("/audit", "/", "/trainings"):
        page = owner.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


def test_trainings_of_the_past_say_what_came_of_them(owner, log):
    common = {"actor": "researcher:zmq://r", "dataset": "patients", "plan": "ab" * 32, "plan_class": "Net"}
    log.note("training-started", task="exp/0/n/1", **common)
    facts = {"seconds": 1.5, "sample_count": 40, "steps": 30, "metrics": {"loss": 0.25}, "bytes_out": 2048}
    log.note("training-finished", task="exp/0/n/1", **common, **facts)
    log.note("training-refused", task="exp/1/n/1", **common, code="policy", reason="Too many rounds.")
    page = owner.get("/trainings").text
    assert "40 samples, 30 steps in 1.5 s, loss 0.25; 2.0 KiB left the node" in page
    assert "Too many rounds." in page
    assert page.index("Too many rounds.") < page.index("40 samples")


def test_facts_are_told_in_words(owner, site):
    site.audit.note("search-answered", actor="researcher:r", datasets=["wards", "scans"], metrics={"loss": 0.5})
    page = owner.get("/audit").text
    assert "<summary>datasets wards, scans, metrics loss 0.5</summary>" in page
    site.audit.note("logged-in", actor="web")
    assert "<summary>none</summary>" in owner.get("/audit").text
