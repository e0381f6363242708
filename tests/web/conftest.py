"""A node, its page, and a browser that is none: what the tests of single pages share."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from fedplug.node import NodeStore
from fedplug.node.web.app import make_app, make_routes
from fedplug.node.web.auth import Door
from fedplug.node.web.site import Site

BASE = "http://127.0.0.1:8800"
_LINK = re.compile(r"http://\S+/login\?token=\S+")


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Browser(TestClient):
    """Keeps cookies, follows redirections, and fills the token of the session into its forms."""

    def token(self) -> str:
        return re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)[1]

    def submit(self, path, /, **fields):
        return self.post(path, data={"csrf": self.token(), **fields})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    with NodeStore.create(tmp_path / "node", name="hospital-a") as store:
        yield store


@pytest.fixture
def site(store: NodeStore, clock: Clock) -> Site:
    return Site(store, Door(clock))


@pytest.fixture
def stranger(site: Site) -> Iterator[Browser]:
    """Somebody who is not logged in."""
    with Browser(make_app(site), base_url=BASE) as browser:
        yield browser


@pytest.fixture
def owner(stranger: Browser, site: Site) -> Browser:
    """The owner, logged in; not by the page, so that the audit log is empty."""
    stranger.cookies.set(site.cookie, site.door.open(site.door.new_link()), domain="127.0.0.1")
    return stranger


@pytest.fixture
def unlucky(site: Site) -> Iterator[Browser]:
    """The owner, logged in, to whom a bug of ours is shown and not raised."""
    with Browser(make_app(site), base_url=BASE, raise_server_exceptions=False) as browser:
        browser.post("/login", data={"token": site.door.new_link()})
        yield browser


@pytest.fixture
def paths(site: Site) -> Callable[[str], set[str]]:
    """Return ``paths(method)``: those of all routes but the log-in, each part of them filled with a word."""

    def of(method: str) -> set[str]:
        routes = [each for each in make_routes(site) if isinstance(each, Route) and method in (each.methods or ())]
        return {each.path.replace("{", "").replace("}", "") for each in routes} - {"/login"}

    return of


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Return ``make(name="patients.csv", text=...)``: a file below a folder of its own."""

    def make(name: str = "patients.csv", text: str = "age,size,ill\n41,1.5,0\n52,2.5,1\n63,,1\n") -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


@pytest.fixture
def fields() -> Callable[..., dict[str, object]]:
    """Return ``fill(path, **more)``: the fields of the form that adds the file of `table`."""

    def fill(path, **more):
        return {"path": str(path), "type": "", "name": "patients", "tags": "breast, 2024", "target": "ill",
                "column": ["age", "size", "ill"], "description": "", **more}  # fmt: skip

    return fill


class PageProcess:
    """One ``fedplug node ui``, and what it prints."""

    def __init__(self, folder, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedplug", "node", "-C", str(folder), "ui", "--no-open", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.link = self.next_link()

    def next_link(self):
        printed = ""
        for line in self.process.stdout:
            printed += line
            if found := _LINK.search(line):
                return found[0]
        raise AssertionError(f"no link was printed: {printed}")

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=60)[0]
        return self.process.returncode, rest


@pytest.fixture
def start_page(store: NodeStore) -> Iterator[Callable[..., PageProcess]]:
    """Return ``start(*options)``: a running page of the node. All are ended in the end."""
    running = []

    def start(*options):
        running.append(PageProcess(store.folder, *options))
        return running[-1]

    yield start
    for page in running:
        if page.process.poll() is None:
            page.end(signal.SIGKILL)
