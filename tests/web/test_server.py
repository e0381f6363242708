"""``fedplug node ui`` as a process: the link, the terminal, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from fedplug.core.errors import AddressError, UsageError
from fedplug.node.web.server import _opened, listen


def log_in(link):
    client = httpx2.Client(follow_redirects=True)
    base, token = link.split("/login?token=")
    return client, base, client.post(f"{base}/login", data={"token": token})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_printed_link_logs_in_and_the_end_is_clean_even_with_a_page_open(start_page, number):
    page = start_page()
    client, base, answer = log_in(page.link)
    with closing(client):
        assert answer.url.path == "/"
        assert "hospital-a" in answer.text
        with client.stream("GET", f"{base}/live", params={"part": "state"}) as live:
            assert live.headers["content-type"].startswith("text/event-stream")
            assert any("not running" in line for line in live.iter_lines() if line.startswith("data:"))
            code, rest = page.end(number)
    assert code == 0
    assert rest.splitlines()[-1] == "The page has ended."
    assert "Traceback" not in rest


def test_enter_shows_a_new_link_and_both_work_once(start_page):
    page = start_page()
    page.process.stdin.write("\n")
    page.process.stdin.flush()
    second = page.next_link()
    assert second != page.link
    for link in (page.link, second):
        client, base, answer = log_in(link)
        with closing(client):
            assert answer.url.path == "/"
            assert client.post(f"{base}/login", data={"token": link.split("token=")[1]}).status_code == 403


def test_two_pages_of_one_node_keep_their_sessions_apart(start_page):
    one, two = start_page(), start_page()
    client, base, _ = log_in(one.link)
    other, token = two.link.split("/login?token=")
    with closing(client):
        assert client.post(f"{other}/login", data={"token": token}).url.path == "/"
        # One browser: cookies are kept for a host, whatever the port.
        assert client.get(f"{base}/").url.path == "/"
        assert client.get(f"{other}/").url.path == "/"
    assert one.end()[0] == two.end()[0] == 0


def test_neither_the_terminal_nor_the_log_repeats_a_token_that_was_sent(start_page):
    page = start_page()
    client, base, _ = log_in(page.link)
    with closing(client):
        client.get(f"{base}/login?token=again-and-again")
        client.get(f"{base}/nothing")
    _, rest = page.end()
    assert "token" not in rest


def test_only_this_machine_is_served(start_page, cli, store):
    done = cli("node", "-C", store.folder, "ui", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "to this machine only" in done.stderr
    assert "ssh -N -L" in done.stderr
    for host in ("", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match="this machine only"):
            listen(host, 0)
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_named(cli, store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("node", "-C", store.folder, "ui", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Choose another --port" in done.stderr
    with pytest.raises(AddressError):
        listen("127.0.0.1", 70_000)


def test_a_folder_that_is_no_node_is_refused(cli, tmp_path):
    done = cli("node", "-C", tmp_path / "nowhere", "ui")
    assert done.returncode == 2
    assert "is not a node" in done.stderr


def test_a_missing_package_is_named_with_the_command_that_brings_it(store, tmp_path):
    code = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'starlette' else found(name, *rest)\n"
        f"from fedplug.cli import main; sys.exit(main(['node', '-C', {str(store.folder)!r}, 'ui']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "starlette" in done.stderr
    assert 'pip install "fedplug[ui]"' in done.stderr


def test_a_signal_that_comes_at_once_is_not_lost(start_page):
    for _ in range(3):
        assert start_page().end()[0] == 0


def test_a_browser_is_given_a_file_that_only_its_user_reads_and_no_token(monkeypatch):
    given = []

    def take(address):
        file = Path(address.removeprefix("file://"))
        given.append((address, file.stat().st_mode & 0o777, file.read_text()))

    monkeypatch.setattr("webbrowser.open", take)

    async def attend():
        with _opened(lambda: "http://127.0.0.1:1/login?token=secret&x=1", wanted=True):
            await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(attend())
    ((address, mode, page),) = given
    assert "secret" not in address
    assert mode == 0o600
    assert 'href="http://127.0.0.1:1/login?token=secret&amp;x=1"' in page
    assert not Path(address.removeprefix("file://")).exists()
