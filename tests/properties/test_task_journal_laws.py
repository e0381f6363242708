"""Whatever happens to a node, and whenever it is killed, its journal knows exactly what a perfect memory would."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedplug.core.crash_points import watched
from fedplug.core.errors import RefusedError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.node.journal.tasks import DiskTaskJournal
from fedplug.node.journal.updates import FOLDER, SMALL
from fedplug.node.store import NodeStore

SIZES = (1, SMALL // 8 + 1)
TASKS = st.tuples(st.sampled_from(["zmq://a:1", "zmq://b:1"]), st.integers(0, 1))
OPEN = ("begun", "finished")
ENDS = st.sampled_from(["committed", "cancelled", "plan-raised"])


class Crash(BaseException):
    """Stands for SIGKILL: nothing of the journal catches it."""


def key_of(number):
    return TaskKey(experiment_id="e", round=number, node_id="n")


def update_of(which):
    """The update of a task, which follows from its name; those of odd rounds lie in files."""
    researcher, number = which
    return Params.from_arrays({"w": np.full(SIZES[number % 2], ord(researcher[6]) * 100 + number, np.float64)})


class NodeLife(RuleBasedStateMachine):
    """A node that trains for two researchers. ``tasks`` is the perfect memory: how far each task is.

    Only that a small update was committed may be forgotten, until something else is written: then it is offered again.
    """

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fedplug-laws-"))
        self.lives = 0
        self.folder = self.root / "0"
        NodeStore.create(self.folder, name="n").close()
        self.tasks: dict[tuple[str, int], str] = {}
        self.unsettled: set[tuple[str, int]] = set()  # committed, which is not on the disk yet
        self.over: set[tuple[str, int]] = set()  # which is, but their updates are still there
        self.dies_at = ""
        self.opened = contextlib.ExitStack()
        self.start()

    def start(self):
        self.store = self.opened.enter_context(NodeStore.open(self.folder))
        self.journal = DiskTaskJournal(self.store)
        self.opened.callback(self.journal.close)

    def teardown(self):
        self.opened.close()
        shutil.rmtree(self.root)

    @contextlib.contextmanager
    def mortal(self):
        """Do something to the journal; the node may die in it, and is started again."""

        def watch(point):
            if point == self.dies_at:
                self.dies_at = ""
                raise Crash

        try:
            with watched(watch):
                yield
        except Crash:
            self.is_killed()

    @rule(which=TASKS)
    def goes_on(self, which):
        """The next step of a task."""
        researcher, key = which[0], key_of(which[1])
        match self.tasks.get(which, ""):
            case "":
                self.tasks[which] = "begun"
                self.flushes()
                with self.mortal():
                    self.journal.begin(researcher, key)
            case "begun":
                if self.dies_at != "task-trained":
                    self.tasks[which] = "finished"
                    self.over.clear()
                reply = TrainReply(key=key, sample_count=1)
                with self.mortal():
                    assert self.journal.finish(researcher, reply, update_of(which), {}, lambda: None)
            case "finished":
                self.ends(which, "committed")
            case end:
                with pytest.raises(RefusedError) as caught:
                    self.journal.begin(researcher, key)
                assert caught.value.code == end

    @rule(which=TASKS, how=ENDS)
    def ends(self, which, how):
        later = how == "committed" and self.tasks.get(which) == "finished" and which[1] % 2 == 0
        if later:
            self.unsettled.add(which)
        elif self.tasks.get(which) in OPEN:
            self.flushes()
        if self.tasks.get(which) in OPEN:
            self.tasks[which] = how
        with self.mortal():
            self.journal.end(which[0], key_of(which[1]), how)

    @rule()
    def has_a_moment(self):
        self.flushes()
        self.over.clear()
        with self.mortal():
            self.journal.settle()

    def flushes(self):
        """What is done now brings all records to the disk."""
        self.over |= self.unsettled
        self.unsettled.clear()

    @rule(point=st.sampled_from(["task-begun", "task-trained", "update-kept", "task-ended"]))
    def is_to_die(self, point):
        self.dies_at = point

    @rule()
    def is_killed(self):
        for which, state in self.tasks.items():
            if state == "begun":
                self.tasks[which] = "interrupted"
            elif which in self.unsettled:
                self.tasks[which] = "finished"
        self.unsettled.clear()
        self.over.clear()
        self.lives += 1
        copy = self.root / str(self.lives)
        shutil.copytree(self.folder, copy)  # as the disk is now, whatever an orderly end would still write
        self.opened.close()
        self.folder, self.dies_at = copy, ""
        self.start()

    @precondition(lambda self: self.tasks)
    @invariant()
    def knows(self):
        for researcher in ("zmq://a:1", "zmq://b:1"):
            mine = {number: state for (whose, number), state in self.tasks.items() if whose == researcher}
            found = self.journal.earlier(researcher)
            finished = {task.reply.key.round: task.params for task in found.finished}
            assert set(finished) == {number for number, state in mine.items() if state == "finished"}
            assert all(params == update_of((researcher, number)) for number, params in finished.items())
            ends = {key.round: how for key, how in found.ends.items()}
            assert ends == {number: state for number, state in mine.items() if state not in OPEN}
        assert self.journal.unsettled == bool(self.unsettled or self.over)
        kept = sum(state == "finished" for state in self.tasks.values()) + len(self.unsettled | self.over)
        assert self.store.read("SELECT count(*) FROM updates") == [(kept,)]
        files = sum(state == "finished" and number % 2 for (_, number), state in self.tasks.items())
        assert len(list((self.folder / FOLDER).iterdir())) == files


TestNodeLife = pytest.mark.slow(NodeLife.TestCase)  # not for the processor: each step waits for the disk
TestNodeLife.settings = settings(max_examples=25, stateful_step_count=25)
