"""What plan code prints goes to the node's log, so many lines of each training."""

from __future__ import annotations

import logging
import queue

from moments import moments

from fedplug.node import plan_output
from fedplug.node.plan_output import PlanOutput


class Stream:
    """What is read from a process; what is put in may also be something to do in the thread that reads."""

    def __init__(self):
        self.coming = queue.Queue()

    def read1(self, most):
        while callable(each := self.coming.get(timeout=30)):
            each()
        return each

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_training_that_begins_at_any_moment_of_the_one_before_may_print_as_much_as_any(caplog, monkeypatch):
    monkeypatch.setattr(plan_output, "MAX_LINES", 2)
    caplog.set_level(logging.INFO, "fedplug.node.plan")
    stream = Stream()
    output = PlanOutput(stream)
    for moment in moments("node/plan_output.py:_put", lambda: output.begin("the next")):
        output.begin("one that prints much")
        stream.coming.put(b"line\n" * 5)
        stream.coming.put(moment.__enter__)
        stream.coming.put(b"its last line\n")
        stream.coming.put(lambda moment=moment: moment.__exit__(None, None, None))
        read = queue.Queue()
        stream.coming.put(lambda read=read: read.put(None))
        read.get(timeout=30)
        if not moment.came:
            output.begin("the next")
        caplog.clear()
        stream.coming.put(b"first\nsecond\n")
        stream.coming.put(lambda read=read: read.put(None))
        read.get(timeout=30)
        # The last line of the one before may have been counted as the first of this one.
        assert "first" in caplog.text
    stream.coming.put(b"")
    output.close()
