"""Who gets in: one-time links, sessions, and what strangers see."""

from __future__ import annotations

import pytest
from moments import moments

from fedplug.node.web.auth import IDLE_SECONDS, LINK_SECONDS, SESSION_SECONDS, Door, Session
from fedplug.node.web.site import Visit


def test_without_a_session_every_page_leads_to_the_log_in(stranger, paths):
    found = paths("GET") - {"/live"}
    assert len(found) > 5
    for path in found:
        answer = stranger.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
        assert not answer.content


def test_without_a_session_nothing_is_done_and_nothing_is_told(stranger, paths):
    assert stranger.get("/live").status_code == 403
    for path in paths("POST"):
        assert stranger.post(path, data={"csrf": "x"}).status_code == 403, path


def test_the_link_opens_a_session(stranger, site):
    shown = stranger.get("/login", params={"token": site.door.new_link()})
    assert shown.status_code == 200
    assert "Log in" in shown.text
    answer = stranger.post("/login", data={"token": site.door.new_link()}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "Overview" in stranger.get("/").text


def test_looking_at_the_link_does_not_use_it_up(stranger, site):
    token = site.door.new_link()
    for _ in range(3):
        stranger.get("/login", params={"token": token})
    assert stranger.post("/login", data={"token": token}).url.path == "/"


def test_a_link_works_once(stranger, site):
    token = site.door.new_link()
    assert stranger.post("/login", data={"token": token}).url.path == "/"
    stranger.cookies.clear()
    answer = stranger.post("/login", data={"token": token})
    assert answer.status_code == 403
    assert "used already" in answer.text
    assert stranger.get("/", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("token", ["", "x", "é" * 43, "A" * 43], ids=["none", "short", "foreign", "guess"])
def test_a_guess_opens_nothing(stranger, site, token):
    site.door.new_link()
    assert stranger.post("/login", data={"token": token}).status_code == 403


def test_a_link_is_too_old_after_five_minutes(stranger, site, clock):
    early, late = site.door.new_link(), site.door.new_link()
    clock.now += LINK_SECONDS
    assert stranger.post("/login", data={"token": early}).status_code == 200
    clock.now += 1
    stranger.cookies.clear()
    assert stranger.post("/login", data={"token": late}).status_code == 403


def test_a_session_ends_when_nobody_uses_it(owner, clock):
    clock.now += IDLE_SECONDS - 1
    assert owner.get("/").url.path == "/"
    clock.now += IDLE_SECONDS - 1
    assert owner.get("/").url.path == "/"
    clock.now += IDLE_SECONDS + 1
    assert owner.get("/").url.path == "/login"


def test_a_session_ends_after_half_a_day_however_much_it_is_used(owner, clock):
    for _ in range(int(SESSION_SECONDS / 1800)):
        assert owner.get("/").url.path == "/"
        clock.now += 1800
    clock.now += 1
    assert owner.get("/").url.path == "/login"


def test_what_the_page_asks_for_by_itself_does_not_keep_a_session(clock):
    door = Door(clock)
    key = door.open(door.new_link())
    for _ in range(3):
        clock.now += IDLE_SECONDS / 2
        door.session(key, look=True)
    assert door.session(key) is None


def test_logging_out_ends_the_session_of_the_server_too(owner, site):
    key = owner.cookies[site.cookie]
    session = site.door.session(key)
    assert owner.submit("/logout").url.path == "/login"
    assert session.over
    owner.cookies.set(site.cookie, key, domain="127.0.0.1")
    assert owner.get("/").url.path == "/login"


def test_who_logs_in_stands_in_the_audit_log_and_who_does_not_get_in_does_not(stranger, site):
    token = site.door.new_link()
    stranger.post("/login", data={"token": "guess"})
    assert site.audit.entries() == []
    stranger.post("/login", data={"token": token})
    stranger.post("/login", data={"token": token})
    (entry,) = site.audit.entries()
    assert (entry.event, entry.actor, entry.data) == ("logged-in", "web", {})
    assert token not in repr(entry)


def test_what_was_done_is_told_once_whenever_another_page_of_the_session_is_made():
    session = Session("csrf", 0.0, 0.0)
    told = []

    def another_page():
        told.extend(session.take_notes())

    for moment in moments("web/site.py:go", another_page):
        session.notes.append(("done", "earlier"))
        with moment:
            Visit(None, None, session).go("/", "now")
        another_page()
        assert told == [("done", "earlier"), ("done", "now")]
        told.clear()
