"""What people are told when something goes wrong, word for word: one test for each situation that is known to happen.

Everything here is an exception that a script or a notebook can catch, and what was done before stays done.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.errors import (
    AddressError,
    DatasetError,
    FedplugError,
    RoundError,
    TrainingArgsError,
    TransportError,
)
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.monitor import Monitor
from fedplug.core.plan_source import bundle_plan
from fedplug.core.pool import NodeJoined, TaskFailed
from fedplug.core.strategy import DefaultStrategy
from fedplug.node import MemoryDataset, Node, NodeStore
from fedplug.protocol import ResearcherEndpoint, membership
from fedplug.transports.inproc import InprocTransport

ARRAYS = {"x": np.arange(8.0), "y": np.arange(8.0)}
AGAIN = (
    "\nThe global model is as it was before this round; run it again when the cause is mended. "
    "A strategy decides what a round can do without."
)


class Plan(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "import os", "import time"]

    def init_model(self, model_args):
        if os.environ.get("TROUBLE") == "init_model":
            raise ValueError("no model today")
        return {"w": np.zeros(1)}

    def training_data(self):
        if self.model_args().get("trouble") == "training_data":
            raise ValueError("no data today")
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        args = self.model_args()
        if args.get("trouble") == "training_step" and self.round() == args.get("round", 0):
            raise ValueError("no step today")
        self.steps = getattr(self, "steps", 0) + 1
        while self.steps > 1 and not os.path.exists(args.get("gate", "/")):  # noqa: PTH110 - plans are not ours
            time.sleep(0.01)
        return 1.0, {"w": -np.ones(1)}

    def testing_step(self, data, target):
        if self.model_args().get("trouble") == "testing_step":
            raise ValueError("no test today")
        return {"score": 1.0}


class OnSign(Monitor):
    """Does something once, at the first sign of life of a training."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def progress(self, node_id, progress):
        action, self.action = self.action, None
        if action:
            action()


class Ears(Monitor):
    """Hears what is said."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.lines: list[tuple[str, str, str]] = []

    def message(self, text):
        self.messages.append(text)

    def log(self, node_id, line):
        self.lines.append((node_id, line.level, line.text))


HASTY = DefaultStrategy(patience=0)


@pytest.fixture
def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"zmq://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def inline(inproc_url, fedplug_dir):
    """Return ``start(name, *tags of each data set)``: a node in this process, at ``inproc_url``."""
    running = []

    def start(name: str, *tags: tuple[str, ...]) -> Node:
        sets = [MemoryDataset(f"data-{i}", ARRAYS, tags=each) for i, each in enumerate(tags or [("#data",)], 1)]
        store = NodeStore.in_memory(name, node_id=name)
        node = Node(store, inproc_url, worker="inline", datasets=sets, retry=0.02).start()
        running.append((node, store))
        return node

    yield start
    for node, store in running:
        node.stop()
        store.close()


def experiment(url: str, **settings: Any) -> Experiment:
    given = {
        "training_plan_class": Plan,
        "training_args": {"num_updates": 2, "optimizer_args": {"lr": 1.0}, "log_interval": 1, "test_ratio": 0.25},
        "round_limit": 2,
        "seed": 1,
        "progress": "quiet",
        "min_nodes": 1,
        "connect_timeout": 60.0,
        "transport": url,
    }
    return Experiment(**{**given, **settings})


# before anything is trained ------------------------------------------------------------------------------------


def test_no_node_connects(free_url):
    with pytest.raises(TransportError) as caught:
        experiment(free_url, tags="#data", connect_timeout=0.1)
    assert str(caught.value) == (
        f"No node connected to {free_url} within 0.1 s.\nStart a node with: fedplug node start --researcher {free_url}"
    )


def test_tags_match_nothing(inproc_url, inline):
    inline("paris", ("#breast", "#csv"), ("#lung",))
    inline("lyon", ("#breast",))
    with experiment(inproc_url, min_nodes=None) as exp:
        exp.set_nodes(["paris", "lyon"])
        with pytest.raises(DatasetError) as caught:
            exp.set_tags(["#brest", "#csv"])
        assert str(caught.value) == (
            "No data set is tagged ['#brest', '#csv']: 'lyon' has 'data-1' ['#breast']; "
            "'paris' has 'data-1' ['#breast', '#csv'], 'data-2' ['#lung'].\n"
            "Ask for tags that the data sets carry, or add the data on the node: "
            "fedplug node dataset add --tags '#brest,#csv' ..."
        )
        assert exp.tags() is None, "the experiment is as it was"
        assert exp.set_tags(["#breast"]) == ["#breast"]


def test_ambiguous_tags(inproc_url, inline):
    inline("paris", ("#breast", "#2023"), ("#breast", "#2024"), ("#lung",))
    with experiment(inproc_url) as exp:
        with pytest.raises(DatasetError) as caught:
            exp.set_tags("#breast")
        assert str(caught.value) == (
            "The tags ['#breast'] match 2 data sets on node 'paris': "
            "'data-1' ['#breast', '#2023'], 'data-2' ['#breast', '#2024'].\n"
            "Add a tag that only one of them carries; an experiment uses one data set per node."
        )
        exp.set_tags(["#breast", "#2024"])
        assert exp.training_data().data()["paris"].name == "data-2"


def test_conflicting_tags_at_registration(cli, tmp_path):
    """It is told and not refused: the owner may be about to remove the other one."""
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    at = ("node", "--folder", tmp_path / "node")
    assert cli(*at, "init", "--approval", "off", "--data-root", "/").returncode == 0
    assert cli(*at, "dataset", "add", tmp_path / "t.csv", "--name", "first", "--tags", "breast,2023").returncode == 0
    done = cli(*at, "dataset", "add", tmp_path / "t.csv", "--name", "second", "--tags", "breast")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "Data set 'second' is registered: 2 x 2, tags breast.\n"
        "Note: A search for breast finds data set 'first' too, and is refused as ambiguous: an experiment uses one "
        "data set per node. Give each a tag that the other does not carry.\n"
    )


def test_wrong_training_arguments_are_refused_all_at_once():
    with pytest.raises(TrainingArgsError) as caught:
        Experiment(training_args={"epoch": 3, "log_interval": -1, "test_ratio": "a lot"})
    assert str(caught.value) == (
        "training_args cannot be used:\n"
        "  - 'epoch' is not a training argument; did you mean 'epochs'?\n"
        "  - log_interval must be whole number >= 0, got -1 (int)\n"
        "  - test_ratio must be number >= 0 and < 1, got 'a lot' (str)\n"
        "TrainingArgs.help() lists every key with its type, range and default."
    )


def test_wrong_training_arguments_from_a_researcher_who_does_not_check(inproc_url, inline):
    with ResearcherEndpoint(InprocTransport(), inproc_url) as pool:
        inline("paris")
        event = pool.next_event(60)
        assert isinstance(event, NodeJoined)
        request = TrainRequest(
            key=TaskKey(experiment_id="exp", round=0, node_id="paris"),
            dataset_id="data-1",
            plan_class="Plan",
            training_args={"epochs": 0, "num_update": 3},
            seed=1,
            data_seed=1,
        )
        pool.train(request, bundle_plan(Plan), Experiment(training_plan_class=Plan).params())
        event = pool.next_event(60)
        assert isinstance(event, TaskFailed)
        assert (event.failure.code, event.failure.text) == (
            "bad-request",
            (
                "training_args cannot be used:\n"
                "  - 'num_update' is not a training argument; did you mean 'num_updates'?\n"
                "  - epochs must be whole number >= 1 or None, got 0 (int)\n"
                "TrainingArgs.help() lists every key with its type, range and default."
            ),
        )


def test_the_port_is_in_use(free_url, fedplug_dir):
    with experiment(free_url) as first:
        first.pool()
        with pytest.raises(AddressError) as caught:
            experiment(free_url, tags="#data")
        port = free_url.rpartition(":")[2]
        assert str(caught.value) == (
            f"{free_url}: port {port} is in use by another program, or by another researcher.\n"
            "Stop that program, or choose another port for researcher and nodes."
        )
        assert first.pool().nodes == {}, "the first is not disturbed"


def test_another_version_of_the_protocol(inproc_url, inline, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "fedplug.node")
    monkeypatch.setattr(membership, "VERSIONS", (7, 9))
    with experiment(inproc_url, connect_timeout=0.1) as exp:
        pool = exp.pool()
        node = inline("paris")
        until = time.monotonic() + 60
        while not pool.traffic().get("refused_version"):
            assert time.monotonic() < until
            pool.next_event(0.05)
        with pytest.raises(TransportError) as caught:
            exp.set_tags("#data")
        assert str(caught.value) == (
            f"No node connected to {inproc_url} within 0.1 s.\n"
            "A node that tried was refused, since it speaks another version of the protocol: upgrade FedPlug on the "
            f"older side. Start a node with: fedplug node start --researcher {inproc_url}"
        )
        node.stop()  # what the node was told is in its log by now
    refusals = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert refusals == [
        (
            f"The researcher at {inproc_url} and this node do not work together: The researcher speaks versions 1 to 1 "
            "of the protocol, this node 7 to 9. Upgrade FedPlug on the older side."
        )
    ]


# while a round is under way ------------------------------------------------------------------------------------


def test_a_data_set_is_removed_before_the_training(free_url, start_node, fedplug_dir):
    node = start_node("clinic", free_url, ARRAYS)
    with experiment(free_url, tags="#data") as exp:
        with NodeStore.open(node.place) as store:
            store.remove_dataset("data")
        with pytest.raises(RoundError) as caught:
            exp.run()
    assert str(caught.value).startswith(
        "Round 1 was given up: node 'clinic' refused: Data set 'data' was removed from this node ("
    )
    assert str(caught.value).endswith(f"It has: none.\nSearch again: Experiment.set_tags.{AGAIN}")


PLAN_FAILURES = {
    "init_model": ("line 13", 'raise ValueError("no model today")', "ValueError: no model today"),
    "training_data": ("line 18", 'raise ValueError("no data today")', "ValueError: no data today"),
    "training_step": ("line 24", 'raise ValueError("no step today")', "ValueError: no step today"),
}


@pytest.mark.parametrize("method", PLAN_FAILURES)
def test_the_plan_raises_on_a_node(inproc_url, inline, monkeypatch, method):
    line, text, said = PLAN_FAILURES[method]
    inline("paris")
    with experiment(inproc_url, tags="#data", model_args={"trouble": method}) as exp:
        exp.params()  # the researcher's own model is there
        monkeypatch.setenv("TROUBLE", method)
        with pytest.raises(RoundError) as caught:
            exp.run()
    assert str(caught.value) == (
        f"Round 1 was given up: node 'paris' failed: Training plan 'Plan' failed in {method}, {line}: {text}\n"
        f"{said}{AGAIN}"
    )
    assert re.fullmatch(
        rf'Node paris:\n  File "<[^>]*>", {line}, in {method}\n    {re.escape(text)}\n{said}\n', caught.value.details
    )


def test_the_plan_raises_at_the_researcher(monkeypatch, fedplug_dir):
    monkeypatch.setenv("TROUBLE", "init_model")
    exp = Experiment(training_plan_class=Plan)
    with pytest.raises(FedplugError) as caught:
        exp.training_plan()
    assert str(caught.value) == (
        "Training plan 'Plan' failed in init_model, line 13: raise ValueError(\"no model today\")\n"
        "ValueError: no model today"
    )


def test_a_test_that_raises_costs_the_figure_and_not_the_training(inproc_url, inline, caplog):
    ears = Ears()
    inline("paris")
    with experiment(inproc_url, tags="#data", model_args={"trouble": "testing_step"}, round_limit=1) as exp:
        exp.set_training_args({**exp.training_args(), "test_on_local_updates": True})
        exp.add_monitor(ears)
        assert exp.run() == 1
        assert exp.params()["w"].tolist() == [2.0]
        assert sorted(exp.training_replies()[0]["paris"]["metrics"]) == ["loss"]
    assert ears.lines == [
        (
            "paris",
            "error",
            (
                "The test on local updates failed, and its figures are missing. "
                "Training plan 'Plan' failed in testing_step, line 32: "
                'raise ValueError("no test today")\nValueError: no test today'
            ),
        )
    ]
    (logged,) = [record for record in caplog.records if "no test today" in record.getMessage()]
    assert (logged.name, logged.levelno) == ("fedplug.node", logging.ERROR)


def test_a_failure_costs_its_own_round_only(inproc_url, inline):
    inline("paris")
    with experiment(inproc_url, tags="#data", model_args={"trouble": "training_step", "round": 1}) as exp:
        with pytest.raises(RoundError, match="Round 2 was given up"):
            exp.run()
        assert exp.round_current() == 1
        assert exp.params()["w"].tolist() == [2.0]
        assert (exp.experimentation_path() / "model.safetensors").is_file()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what other processes write into their logs."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.02)


def mid_round(exp: Experiment, action: Callable[[], object]) -> str:
    """Run, do something as soon as a node trains, and return what the round ends with."""
    exp.add_monitor(OnSign(action))
    with pytest.raises(RoundError) as caught:
        exp.run()
    return str(caught.value)


def test_a_node_is_killed_and_comes_back(free_url, start_node, tmp_path, fedplug_dir):
    gate = tmp_path / "gate"
    node = start_node("clinic", free_url, ARRAYS)
    with experiment(free_url, tags="#data", model_args={"gate": str(gate)}) as exp:
        exp.set_strategy(HASTY)
        said = mid_round(exp, lambda: node.send(signal.SIGKILL))
        assert said == f"Round 1 was given up: node 'clinic' lost: the connection was lost{AGAIN}"
        assert node.wait() == -signal.SIGKILL
        node.start()

        def restart() -> None:
            node.send(signal.SIGKILL)
            node.wait()
            node.start()

        exp.set_strategy(DefaultStrategy())
        exp.add_monitor(OnSign(lambda: (restart(), gate.touch())))
        assert exp.run() == 2
        roll = [(row["node_id"], row["event"]) for row in exp.history.rounds()[0]["roll"]]
        assert roll == [
            ("clinic", "lost"), ("clinic", "back"), ("clinic", "interrupted"), ("clinic", "asked again"),
            ("clinic", "replied"),
        ]  # fmt: skip


def test_a_node_is_told_to_stop(free_url, start_node, tmp_path, fedplug_dir):
    node = start_node("clinic", free_url, ARRAYS)
    with experiment(free_url, tags="#data", model_args={"gate": str(tmp_path / "gate")}) as exp:
        exp.set_strategy(HASTY)
        said = mid_round(exp, lambda: node.send(signal.SIGTERM))
        assert said == f"Round 1 was given up: node 'clinic' lost: it said goodbye (the node stops){AGAIN}"
        assert node.wait() == 0
    assert node.output().splitlines()[-1].endswith("INFO    Node stopped.")


@pytest.mark.slow
def test_a_node_is_frozen(free_url, start_node, tmp_path, fedplug_dir):
    node = start_node("clinic", free_url, ARRAYS)
    gate = tmp_path / "gate"
    with experiment(free_url, tags="#data", model_args={"gate": str(gate)}) as exp:
        exp.set_strategy(HASTY)
        said = mid_round(exp, lambda: node.send(signal.SIGSTOP))
        silence = re.fullmatch(
            r"Round 1 was given up: node 'clinic' lost: nothing was heard of it for (\d+\.\d) s" + re.escape(AGAIN),
            said,
        )
        assert silence is not None, said
        assert float(silence[1]) >= 6.0
        gate.touch()
        node.send(signal.SIGCONT)
        assert exp.run() == 2, "the node that was thawed goes on"


SCRIPT = """
from test_plan import Plan
from fedplug import Experiment

with Experiment(
    tags="#data", training_plan_class=Plan, transport={url!r}, model_args={args!r}, round_limit=1, min_nodes=1,
    training_args={{"num_updates": 2, "optimizer_args": {{"lr": 1.0}}, "log_interval": 1}},
) as exp:
    exp.run()
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Return ``write(url, **model_args)``: an experiment as a script of its own."""

    def write(url: str, **args: Any) -> Path:
        head = "import os\nimport time\n\nimport numpy as np\n\nfrom fedplug import DataManager, NumpyTrainingPlan\n\n"
        (tmp_path / "test_plan.py").write_text(head + bundle_plan(Plan).source)
        path = tmp_path / "experiment.py"
        path.write_text(SCRIPT.format(url=url, args=args))
        return path

    return write


def test_the_researcher_dies_in_the_middle_of_a_round(free_url, start_node, script, tmp_path, fedplug_dir):
    gate = tmp_path / "gate"
    node = start_node("clinic", free_url, ARRAYS)
    researcher = subprocess.Popen(
        [sys.executable, script(free_url, gate=str(gate))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FEDPLUG_PROGRESS": "json"},
    )
    with researcher:
        assert any(json.loads(line)["event"] == "progress" for line in researcher.stdout)
        researcher.kill()
    gate.touch()
    wait_until(lambda: "Round 1 trained in" in node.output())
    with experiment(free_url, tags="#data", model_args={"gate": str(gate)}) as exp:
        assert exp.run() == 2
    lines = node.output().splitlines()
    told = [line.split(maxsplit=3)[3] for line in lines if " INFO " in line or " ERROR " in line]
    assert len(told) == len(lines), "no traceback"
    gone = f"No researcher at {free_url} (the connection was lost); trying again every 2 s."
    finished = [place for place, text in enumerate(told) if " trained in " in text]
    assert len(finished) == 3
    back = told.index("Connected to researcher researcher at " + free_url + ".", told.index(gone))
    assert back < finished[1]


def test_a_reply_that_comes_twice_or_late_counts_once(inproc_url, inline, monkeypatch):
    tell_end = membership.Membership._tell_end

    def thrice(self, job, now):
        for _ in range(3):
            tell_end(self, job, now)

    monkeypatch.setattr(membership.Membership, "_tell_end", thrice)
    inline("paris")
    with experiment(inproc_url, tags="#data") as exp:
        assert exp.run() == 2
        assert exp.params()["w"].tolist() == [4.0]
        assert exp.pool().traffic()["offers_duplicate"] >= 2


# afterwards ----------------------------------------------------------------------------------------------------


def test_the_round_limit_is_reached(inproc_url, inline):
    ears = Ears()
    inline("paris")
    with experiment(inproc_url, tags="#data") as exp:
        exp.add_monitor(ears)
        assert exp.run() == 2
        assert exp.run() == 0
        assert exp.run_once() == 0
        assert ears.messages == ["The round limit of 2 is reached; run(rounds=1, increase=True) goes beyond it."] * 2
        assert exp.run_once(increase=True) == 1


def test_a_script_ends_with_the_message_the_cure_and_exit_code_1(cli, free_url, start_node, script, fedplug_dir):
    start_node("clinic", free_url, ARRAYS)
    done = cli("run", script(free_url, trouble="training_step"), "--quiet")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.index("\nError: ") + 1 :]
    assert told == (
        "Error: Round 1 was given up: node 'clinic' failed: Training plan 'Plan' failed in training_step, line 24: "
        f'raise ValueError("no step today")\nValueError: no step today{AGAIN}\n'
    )


def test_a_notebook_shows_the_error_and_goes_on(tmp_path, script, fedplug_dir):
    script("inproc://nobody", trouble="training_step")
    setting = """
        import numpy as np
        from fedplug import Experiment
        from fedplug.simulation import Federation
        from test_plan import Plan
        exp = Experiment(
            tags="simulation", transport=Federation({"paris": (np.arange(8.0), np.arange(8.0))}), round_limit=2,
            training_plan_class=Plan, model_args={"trouble": "training_step", "round": 1}, progress="quiet", seed=1,
            training_args={"optimizer_args": {"lr": 1.0}},
        )
    """
    cells = [textwrap.dedent(setting), "exp.run()", "print(exp.round_current(), 'round is done')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(cwd=str(tmp_path), env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"})
    (error,) = [output for output in notebook.cells[1]["outputs"] if output["output_type"] == "error"]
    assert error["ename"] == "RoundError"
    assert error["evalue"] == (
        "Round 2 was given up: node 'paris' failed: Training plan 'Plan' failed in training_step, line 24: "
        f'raise ValueError("no step today")\nValueError: no step today{AGAIN}'
    )
    assert notebook.cells[2]["outputs"][0]["text"] == "1 round is done\n"
