"""Parts of pages that follow the node: what changes arrives, nothing else does, and the stream ends when it should."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager

import httpx2
import pytest

from fedplug.core.messages import Progress, TaskKey
from fedplug.node.isolation.layers import Layer
from fedplug.node.lock import FolderLock
from fedplug.node.status import LinkStatus, NodeStatus, StatusBoard, TaskStatus
from fedplug.node.web.live import PARTS, Herald

KEY = TaskKey(experiment_id="exp", round=0, node_id="n")
TASK = TaskStatus(researcher="zmq://r", experiment="exp", round=0, plan="Net (0123)", dataset="<b>d", started=1.0)


class Stream:
    """The events of one page."""

    def __init__(self, lines):
        self._lines = lines

    def next(self, kind, *words):
        """The data of the next event of this kind that holds these words."""
        found = ""
        for line in self._lines:
            if line.startswith("event: "):
                found = line.removeprefix("event: ")
            elif line.startswith("data: ") and found == kind and all(word in line for word in words):
                return json.loads(line.removeprefix("data: "))
        raise AssertionError(f"the stream ended without {kind} {words}")


@pytest.fixture
def page(start_page):
    process = start_page()
    base, token = process.link.split("/login?token=")
    with closing(httpx2.Client(base_url=base, follow_redirects=True, timeout=60)) as client:
        client.post("/login", data={"token": token})
        yield client


@contextmanager
def following(page, *parts):
    with page.stream("GET", "/live", params={"part": list(parts)}) as answer:
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer.iter_lines())


@contextmanager
def running_node(folder):
    lock = FolderLock(folder)
    board = StatusBoard(folder, ["zmq://r"])
    try:
        yield board
    finally:
        board.close()
        lock.release()


def test_a_training_is_followed_step_by_step_and_told_in_words(page, store):
    with following(page, "state", "now", "no-such-part") as stream:
        assert "not running" in stream.next("part", "state")["html"]
        with running_node(store.folder) as board:
            assert "waiting for a researcher" in stream.next("part", '"state"')["html"]
            board.link("zmq://r", connection="connected", researcher="r")
            assert "connected" in stream.next("part", "connected")["html"]
            board.change(task=TASK)
            html = stream.next("part", '"now"', "Net (0123)")["html"]
            assert "&lt;b&gt;d" in html
            assert "<b>d" not in html
            assert "has begun" in stream.next("say")["text"]
            for step in (1, 7):
                board.progress(Progress(key=KEY, step=step, total_steps=10, metrics={"loss": 0.5}))
                assert "0.5" in stream.next("part", f'value=\\"{step}\\"')["html"]
            board.change(task=None, finished=1, last="Round 1 trained.")
            assert stream.next("say")["text"] == "Round 1 trained."
        assert stream.next("say")["text"] == "The node has stopped."


def test_how_far_trainings_are_shut_in_is_shown_when_the_node_has_found_out(page, store):
    with following(page, "isolation") as stream:
        assert "when the node is started" in stream.next("part", "isolation")["html"]
        with running_node(store.folder) as board:
            assert "has not found out yet" in stream.next("part", "isolation")["html"]
            board.change(isolation=(Layer("network", "on", "none"), Layer("files", "missing", "no Landlock: <b>x")))
            html = stream.next("part", "network")["html"]
            assert '<span class="pill good">on</span>' in html
            assert '<span class="pill bad">missing</span>' in html
            assert "no Landlock: &lt;b&gt;x" in html


def test_the_stream_ends_when_the_session_does(page):
    csrf = page.get("/").text.split('name="csrf" value="')[1].split('"')[0]
    with following(page, "state") as stream:
        stream.next("part", "state")
        page.post("/logout", data={"csrf": csrf})
        assert stream.next("bye") == {}


def test_every_part_that_a_page_names_exists(owner, paths):
    import re

    named = set()
    for path in ("/", "/trainings"):
        named |= set(re.findall(r'data-live="([^"]+)"', owner.get(path).text))
    assert named
    assert named <= set(PARTS)


def test_short_rounds_are_not_chattered_about(site, clock):
    herald = Herald(site, clock)
    on = LinkStatus(url="zmq://r", connection="connected")
    assert herald.news(NodeStatus(running=True, links=(on,)), False) == ["The node is running."]
    told = []
    for number in range(20):
        clock.now += 0.1
        told += herald.news(NodeStatus(running=True, task=TASK if number % 2 else None, last=f"Round {number}."), False)
    assert told == ["A training of Net (0123) on data set <b>d has begun."]
    clock.now += 0.1
    assert herald.news(NodeStatus(running=True, last="Round 19."), False) == []
    clock.now += 1.0
    assert herald.news(NodeStatus(running=True, last="Round 19."), False) == ["Round 19."]
    assert herald.news(NodeStatus(running=True, last="Round 19."), False) == []
