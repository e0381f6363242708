"""What a person gets told when something is wrong: one message, cause and cure, no traceback, a node that lives on."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_kit import Node, nodes_below

from fedplug.core.link import SearchReceived, TaskReceived
from fedplug.core.messages import DatasetCard, NodeInfo, TrainReply
from fedplug.core.params import Params

PLAN = """
from fedplug import DataManager, Experiment, NumpyTrainingPlan

class Plan(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.zeros(2), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.table(["x0", "x1"]), self.dataset.column("y"))

    def training_step(self, data, target):
        model = self.model()
        residual = data @ model["w"] + model["b"] - target
        return float((residual**2).mean()), {"w": 2 * data.T @ residual / len(residual), "b": 2 * residual.mean()}

"""


@pytest.fixture(scope="module")
def port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[list[Node]]:
    """Two node processes, each with two data sets of the same file."""
    folder = tmp_path_factory.mktemp("hospitals")
    with nodes_below(folder) as make:
        nodes = []
        for name in ("hospital-a", "hospital-b"):
            table = folder / f"{name}.csv"
            rows = np.random.default_rng(len(name)).normal(size=(30, 3)).round(6)
            table.write_text("x0,x1,y\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
            node = make(name)
            for data in ("one", "two"):
                node.add(table, name=data, tags=[f"#{data}", "#all"], target="y")
            nodes.append(node.start(f"zmq://127.0.0.1:{port}"))
        yield nodes


@pytest.fixture
def run_script(tmp_path: Path, cli: Callable[..., Any], port: int) -> Callable[..., Any]:
    """Run ``fedplug run`` on an experiment with these settings, against the module's two nodes."""

    def run(plan: str = PLAN, *flags: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        given = {"tags": ["#one"], "min_nodes": 2, "round_limit": 1, "seed": 1, "connect_timeout": 60.0, **settings}
        arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
        script = tmp_path / "experiment.py"
        script.write_text(
            textwrap.dedent(plan)
            + f"\nwith Experiment(training_plan_class=Plan, transport='zmq://127.0.0.1:{port}', {arguments}) as exp:\n"
            "    exp.run()\n    print('trained', sorted(exp.training_replies()[0]))\n"
        )
        return cli("run", script, *flags)

    return run


def test_the_good_case_works(hospitals: list[Node], run_script: Callable[..., Any]) -> None:
    done = run_script()
    assert done.returncode == 0, done.stderr
    assert "trained ['hospital-a', 'hospital-b']" in done.stdout


def with_hook(trigger: str, body: str) -> str:
    """The plan with a hook, and with what the hook needs."""
    return PLAN.replace(
        "    def init_model",
        "    def init_dependencies(self):\n        return ['from fedplug.core.trainer import hook']\n\n"
        f"    @hook('{trigger}')\n    def watch(self, ctx):\n        {body}\n\n    def init_model",
    ).replace(
        "from fedplug import DataManager", "from fedplug.core.trainer import hook\nfrom fedplug import DataManager"
    )


# Each case costs seconds, and most of what is told is also checked without processes; these stand for all where time
# is short: plans that fail here and at the nodes, settings that fail at once and after a wait.
OFTEN = (
    "uses a name from outside",
    "raises in training",
    "unknown tag",
    "unknown aggregator",
)


def cases(names: Iterable[str]) -> list[Any]:
    """Return all cases, those that are not in `OFTEN` as slow ones."""
    return [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in sorted(names)]


BAD_PLANS = {
    "raises in training": (
        PLAN.replace("residual = data", "residual = 1 / 0 * data"),
        ["hospital-", "ZeroDivisionError", "division by zero", "training_step", "line"],
    ),
    "asks for a column that is not there": (
        PLAN.replace('self.dataset.column("y")', 'self.dataset.column("outcome")'),
        ["'outcome'", "x0, x1, y"],
    ),
    "uses a name from outside": (
        PLAN.replace("np.zeros(2)", "np.zeros(SIZE)") + "SIZE = 2\n",
        ["'SIZE'", "self.SIZE"],
    ),
    "has a syntax error": (PLAN.replace("residual = data", "residual = = data"), ["line", "invalid syntax"]),
    "imports what the node does not have": (
        PLAN.replace(
            "    def init_model",
            "    def init_dependencies(self):\n        return ['import no_such_module']\n\n    def init_model",
        ),
        ["no_such_module", "init_dependencies"],
    ),
    "has a hook that raises": (
        with_hook("on_batch_end", "raise ValueError('hook down')"),
        ["hospital-", "ValueError", "hook down", "watch", "line"],
    ),
    "has a hook that edits its hooks": (
        with_hook("on_epoch_start", "ctx.trainer.reset_hook_in_train('on_batch_end')"),
        ["hospital-", "while", "routine"],
    ),
    "has a misspelt trigger": (with_hook("on_batch_ende", "pass"), ["on_batch_ende", "on_batch_end"]),
    "has a loss that explodes": (PLAN.replace("float((residual**2).mean())", "float('nan')"), ["nan", "step 1"]),
    "gives the wrong gradients": (PLAN.replace('"b": 2 * residual.mean()', '"c": 0.0'), ["'b'", "gradient"]),
}  # fmt: skip


@pytest.mark.parametrize("case", cases(BAD_PLANS))
def test_a_bad_plan(case: str, hospitals: list[Node], run_script: Callable[..., Any]) -> None:
    plan, words = BAD_PLANS[case]
    done = run_script(plan)
    assert_clear(done, words)
    assert run_script().returncode == 0, "the nodes must go on serving"


BAD_SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown tag": (
        {"tags": ["#nothing"], "connect_timeout": 8.0},
        ["['#nothing']", "'one' ['#one', '#all']", "fedplug node dataset add"],
    ),
    "ambiguous tag": ({"tags": ["#all"]}, ["match 2 data sets", "hospital-", "'one'", "'two'"]),
    "unknown node": (
        {"nodes": ["hospital-a", "hospital-x"], "connect_timeout": 8.0},
        ["'hospital-x' did not connect", "hospital-b"],
    ),
    "too few nodes": ({"min_nodes": 3, "connect_timeout": 8.0}, ["Only 2 of 3 nodes", "min_nodes"]),
    "unknown training argument": ({"training_args": {"epoch": 2}}, ["'epoch'", "epochs"]),
    "unknown aggregator": ({"aggregator": "fedavrage"}, ["'fedavrage'", "fedaverage"]),
}


@pytest.mark.parametrize("case", cases(BAD_SETTINGS))
def test_bad_settings(case: str, hospitals: list[Node], run_script: Callable[..., Any]) -> None:
    settings, words = BAD_SETTINGS[case]
    assert_clear(run_script(**settings), words)
    assert run_script().returncode == 0, "the nodes must go on serving"


def test_no_node_within_the_time_out(run_script: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "lonely.py"
    script.write_text(
        "from fedplug import Experiment\nExperiment(tags='#one', transport='zmq://127.0.0.1:0', connect_timeout=0.3)\n"
    )
    assert_clear(cli("run", script), ["No node connected to zmq://127.0.0.1:", "within 0.3 s", "fedplug node start"])


def test_port_in_use(cli: Callable[..., Any], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = tmp_path / "taken.py"
        script.write_text(
            f"from fedplug import Experiment\nExperiment(tags='#one', transport='zmq://127.0.0.1:{port}')\n"
        )
        assert_clear(cli("run", script), [str(port), "in use"])


def test_a_plain_address_beyond_this_machine_is_refused(cli: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "open.py"
    script.write_text("from fedplug import Experiment\nExperiment(tags='#one', transport='zmq://0.0.0.0:7400')\n")
    assert_clear(cli("run", script), ["0.0.0.0", "insecure"])


def test_a_traceback_is_shown_when_it_is_asked_for(hospitals: list[Node], run_script: Callable[..., Any]) -> None:
    done = run_script(BAD_PLANS["raises in training"][0], "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_mistake_in_the_script_itself_names_its_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("x = 1\nx.nothing()\n")
    assert_clear(cli("run", script), ["mine.py, line 2", "AttributeError"])
    assert_clear(cli("run", tmp_path / "gone.py"), ["gone.py"])
    (tmp_path / "data.csv").write_text("a,b\n")
    assert_clear(cli("run", tmp_path / "data.csv"), ["data.csv", "no Python file"])


def test_a_script_that_ends_itself_says_why_and_keeps_its_exit_code(cli: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import sys\nsys.exit('no patients today')\n")
    assert_clear(cli("run", script), ["no patients today"])
    script.write_text("import sys\nsys.exit(7)\n")
    assert cli("run", script).returncode == 7
    script.write_text("import sys\nsys.exit()\n")
    assert cli("run", script).returncode == 0
    script.write_text("raise KeyboardInterrupt\n")
    assert cli("run", script).returncode == 130


def test_a_csv_without_the_named_column_is_refused_by_the_node(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    place = ("node", "--folder", tmp_path / "n")
    assert cli(*place, "init", "--approval", "off", "--data-root", "/", "--name", "n").returncode == 0
    done = cli(
        *place,
        "dataset",
        "add",
        "--type",
        "csv",
        "--path",
        tmp_path / "t.csv",
        "--name",
        "t",
        "--tags",
        "#t",
        "--target",
        "c",
    )
    assert_clear(done, ["'c'", "a, b"])


# an update that is not what it should be ---------------------------------------------------------------------

WRONG_UPDATES = {
    "wrong shape": ({"w": np.zeros(3), "b": np.zeros(())}, ["'w' has shape (3,), expected (2,)"]),
    "wrong dtype": ({"w": np.zeros(2, np.float32), "b": np.zeros(())}, ["'w' has dtype float32, expected float64"]),
    "missing": ({"w": np.zeros(2)}, ["'b' is missing"]),
    "not a number": ({"w": np.array([1.0, np.nan]), "b": np.zeros(())}, ["not finite", "'w'"]),
}


@pytest.mark.parametrize("case", sorted(WRONG_UPDATES))
def test_an_unusable_update_from_a_hostile_node(case: str, tmp_path: Path, fedplug_dir: Path) -> None:
    """The node is scripted, the connection is real; after the refusal it is asked again and then does right."""
    import threading

    from fedplug.core.errors import RoundError
    from fedplug.core.plugins import default_host
    from fedplug.protocol import NodeEndpoint
    from fedplug.transports.registry import open_transport

    arrays, words = WRONG_UPDATES[case]
    namespace: dict[str, Any] = {}
    source = tmp_path / "plan_module.py"
    source.write_text("import numpy as np\n" + PLAN)
    sys.path.insert(0, str(tmp_path))
    try:
        import importlib

        namespace = vars(importlib.import_module("plan_module"))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("plan_module", None)
    answers = iter([Params.from_arrays(arrays), None])
    stop = threading.Event()

    def hostile(url: str) -> None:
        card = DatasetCard(dataset_id="d", name="d", type="csv", tags=("#one",), shape=(3, 3))
        with NodeEndpoint(open_transport(url, default_host()), url, NodeInfo(node_id="mallory")) as link:
            while not stop.is_set():
                event = link.next_event(0.2)
                if isinstance(event, SearchReceived):
                    link.answer_search(event.query, [card])
                elif isinstance(event, TaskReceived):
                    update = next(answers) or event.params
                    link.finish(TrainReply(key=event.request.key, sample_count=3, steps=1), update)

    from fedplug import Experiment

    with Experiment(
        training_plan_class=namespace["Plan"],
        transport="zmq://127.0.0.1:0",
        min_nodes=1,
        round_limit=1,
        progress="quiet",
    ) as exp:
        thread = threading.Thread(target=hostile, args=(exp.pool().description,))
        thread.start()
        try:
            exp.set_tags("#one")
            with pytest.raises(RoundError) as caught:
                exp.run()
            for word in ["'mallory' rejected", *words]:
                assert word in str(caught.value)
            assert exp.run() == 1, "the researcher goes on, and so does the node"
        finally:
            stop.set()
            thread.join()


def assert_clear(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    """One message on standard error: no traceback, all the words that matter, and a bad exit code."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "should not happen" not in done.stderr, done.stderr
    assert len(re.findall("^Error: ", done.stderr, re.MULTILINE)) == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is missing in:\n{done.stderr}"
