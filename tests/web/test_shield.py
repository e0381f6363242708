"""What other sites can make a browser send, and what is refused of it."""

from __future__ import annotations

import pytest

from fedplug.node.web.shield import HEADERS, MAX_BODY


def test_every_form_needs_the_token_of_its_session(owner, paths):
    assert len(paths("POST")) >= 3
    for path in paths("POST"):
        for fields in ({}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "é"}):
            answer = owner.post(path, data={**fields, "z": "1"})
            assert answer.status_code == 403, path
            assert "does not belong to your session" in answer.text


def test_the_token_of_another_session_is_not_enough(owner, site):
    other = site.door.session(site.door.open(site.door.new_link()))
    assert owner.post("/logout", data={"csrf": other.csrf}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8800"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none", "origin": "http://127.0.0.1:8800"},
    ],
    ids=str,
)
def test_a_form_of_another_site_is_refused_even_with_the_token(owner, headers, site):
    for path in ("/logout", "/login"):
        answer = owner.post(path, data={"csrf": owner.token(), "token": site.door.new_link()}, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text
    assert owner.get("/").url.path == "/"


def test_a_form_of_our_own_page_is_accepted(owner):
    headers = {"origin": "http://127.0.0.1:8800", "sec-fetch-site": "same-origin"}
    assert owner.post("/logout", data={"csrf": owner.token()}, headers=headers).url.path == "/login"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8800", "127.0.0.1.evil.example", "127.0.0.1:8800@evil.example", "", "0.0.0.0:8800",
     "127.0.0.1:8800/x", "localhost.", "[::1", "10.0.0.1:8800"],
)  # fmt: skip
def test_a_name_that_somebody_pointed_at_this_machine_is_refused(owner, host):
    for path in ("/", "/static/page.css", "/login"):
        answer = owner.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "127.0.0.1" in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8800", "localhost:1", "LOCALHOST", "[::1]:8800", "127.0.0.1"])
def test_names_of_this_machine_are_accepted_with_the_port_of_a_tunnel(stranger, host):
    assert stranger.get("/login", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/static/page.css", "/static/none.css", "/live"])
def test_every_answer_carries_the_headers(stranger, path):
    answer = stranger.get(path, follow_redirects=False)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    kept = "no-cache" if path.startswith("/static/") else "no-store"
    assert answer.headers["cache-control"] == kept


def test_the_rules_for_content_allow_nothing_inline_and_nothing_from_elsewhere():
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy
    assert policy.startswith("default-src 'none'")


def test_pages_hold_no_inline_script_or_style_and_nothing_from_elsewhere():
    from importlib import resources

    folder = resources.files("fedplug.node.web")
    for kind in ("templates", "static"):
        for file in folder.joinpath(kind).iterdir():
            text = file.read_text(encoding="utf-8")
            assert " style=" not in text, file.name
            assert " onclick=" not in text, file.name
            assert "https:" not in text, file.name
            assert "http:" not in text.replace("http://www.w3.org/2000/svg", ""), file.name
            assert "|safe" not in text.replace(" ", ""), file.name
            assert text.count("<script") == text.count('<script src="/static/'), file.name


def test_a_bug_of_ours_shows_no_detail_and_keeps_the_headers(unlucky, store, monkeypatch):
    monkeypatch.setattr(store, "datasets", lambda *_: 1 / 0)
    answer = unlucky.get("/data-sets")
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_a_form_that_is_too_large_is_refused(owner):
    assert owner.post("/logout", data={"csrf": owner.token(), "x": "y" * MAX_BODY}).status_code == 413

    token = owner.token().encode()

    def pieces():
        yield b"csrf=" + token
        for _ in range(MAX_BODY // 1024 + 1):
            yield b"&x=" + b"y" * 1024

    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = owner.post("/logout", content=pieces(), headers=kind)
    assert answer.status_code == 400
    assert "too large" in answer.text
    assert owner.get("/").url.path == "/"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"csrf": "x"}'),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("text/plain", b"csrf=x"),
        ("application/x-www-form-urlencoded", b"csrf=%ff"),
        ("application/x-www-form-urlencoded", b"\xff\xfe"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 30_000)),
    ],
    ids=["json", "multipart", "plain", "no text", "bytes", "many fields"],
)
def test_a_body_that_is_no_form_of_ours_is_refused(owner, kind, body):
    answer = owner.post("/logout", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert owner.get("/").url.path == "/"
