"""How a node is stopped: by a signal at any moment, and when it could not be started."""

from __future__ import annotations

import threading

import pytest
from moments import moments

from fedplug.node.node import Node
from fedplug.node.store import NodeStore


@pytest.fixture
def node():
    with NodeStore.in_memory() as store:
        yield Node(store, "inproc://nobody-listens-here", worker="inline")


def test_a_signal_at_any_moment_makes_run_forever_return(node, monkeypatch):
    """The handler runs in the thread that waits: nothing that it needs may be held by that thread."""
    monkeypatch.setattr(node, "start", lambda: node)
    monkeypatch.setattr(node, "stop", lambda: None)
    for moment in moments("", node.request_stop):
        node.request_stop()  # the first of two signals

        def run(moment=moment):
            with moment:
                node.run_forever()

        waiting = threading.Thread(target=run, daemon=True)
        waiting.start()
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_node_that_could_not_be_started_leaves_no_thread_at_work(node, monkeypatch, caplog):
    serve, begun = Node._serve, []

    def no_more_threads(self, name, serves):
        if name == "tasks":
            begun.extend(self._threads)
            raise RuntimeError("can't start new thread")
        serve(self, name, serves)

    monkeypatch.setattr(Node, "_serve", no_more_threads)
    with pytest.raises(RuntimeError, match="new thread"):
        node.start()
    for thread in begun:
        thread.join(30)
    assert [thread.name for thread in begun] == ["fedplug-node-link-0"]
    assert "cannot go on" not in caplog.text


def test_draining_can_be_asked_for_in_a_signal_handler(node):
    with node:
        node.request_drain()
        node.run_forever()
    assert node.status.draining
