"""What a user gets: our wheels, installed outside the tree, train a model."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The first test that needs the environment fills it: minutes of downloads on a slow line are no hang.
pytestmark = pytest.mark.timeout(1200)

OURS = {
    "fedplug", "fedplug-torch", "fedplug-sklearn", "fedplug-declearn", "fedplug-ray", "fedplug-robust",
    "fedplug-scaffold", "fedplug-zmq",
}  # fmt: skip

IMPORTS = """
    import json
    import subprocess
    import sys
    from pathlib import Path

    import numpy as np
    from fedplug import DataManager, Experiment
    from fedplug.simulation import Federation
"""

TORCH_PLAN = """
    import torch
    from fedplug_torch import TorchTrainingPlan


    class Plan(TorchTrainingPlan):
        def init_model(self, model_args):
            return torch.nn.Linear(model_args["n_features"], 2)

        def init_optimizer(self, optimizer_args):
            return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])

        def training_data(self):
            return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

        def training_step(self, data, target):
            return torch.nn.functional.cross_entropy(self.model()(data), target)


    model_args = {"n_features": 3}
"""

SKLEARN_PLAN = """
    from fedplug_declearn import Optimizer
    from fedplug_sklearn import FedSGDClassifier


    class Plan(FedSGDClassifier):
        def training_data(self):
            return DataManager(self.dataset)

        def init_optimizer(self, optimizer_args):
            return Optimizer(lr=optimizer_args["lr"], modules=["adam"])

        def init_dependencies(self):
            return ["from fedplug_declearn import Optimizer"]


    model_args = {"n_features": 3, "n_classes": 2, "loss": "log_loss"}
"""

SETTINGS = """
    rng = np.random.default_rng(0)
    nodes = {}
    for name in ("paris", "lyon"):
        x = rng.normal(size=(40, 3)).astype(np.float32)
        nodes[name] = (x, (x.sum(axis=1) > 0).astype(np.int64))

    settings = {
        "training_plan_class": Plan,
        "model_args": model_args,
        "training_args": {"loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.1}, "epochs": 2},
        "aggregator": "fedaverage",
        "round_limit": 1,
        "tensorboard": True,
        "seed": 7,
        "progress": "quiet",
    }


    def report(experiment):
        before = experiment.params()
        rounds = experiment.run()
        print(json.dumps({
            "rounds": rounds,
            "replied": sorted(experiment.training_replies()[0]),
            "changed": not before.allclose(experiment.params()),
            "fingerprint": experiment.params().fingerprint(),
            "logs": [str(path) for path in experiment.experimentation_path().rglob("events.out.tfevents.*")],
        }))
"""

IN_ONE_PROCESS = """
    with Experiment(tags="simulation", transport=Federation(nodes), **settings) as experiment:
        report(experiment)
"""

NODE_PROCESSES = """
    fedplug = Path(sys.executable).with_name("fedplug")
    running = []
    with Experiment(transport="zmq://127.0.0.1:0", min_nodes=2, connect_timeout=60, **settings) as experiment:
        try:
            for name, (x, y) in nodes.items():
                np.savez(f"{name}.npz", x=x, y=y)
                node = [fedplug, "node", "--folder", name]
                address = experiment.pool().description
                who = ["--name", name, "--id", name, "--researcher", address, "--approval", "off"]
                subprocess.run([*node, "init", *who], check=True)
                what = ["--type", "arrays", "--path", f"{name}.npz", "--name", "data", "--tags", "simulation"]
                subprocess.run([*node, "dataset", "add", *what, "--target", "y"], check=True)
                running.append(subprocess.Popen([*node, "start"], stdout=sys.stderr))
            experiment.set_tags("simulation")
            report(experiment)
        finally:
            for process in running:
                process.terminate()
            print("node exit codes", [process.wait(30) for process in running], file=sys.stderr)
"""


def installed(wheel_env) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps({x.metadata['Name']: str(x.locate_file('')) for x in d()}))"
    )
    done = wheel_env.run(wheel_env.python, "-c", code, cwd=wheel_env.path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_wheel_for_each_distribution(wheelhouse):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    names = {wheel.name for wheel in wheelhouse.iterdir()}
    assert names == {f"{name.replace('-', '_')}-{version}-py3-none-any.whl" for name in OURS}


def test_wheels_hold_their_package_and_nothing_else(wheelhouse):
    for wheel in wheelhouse.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        package, version = wheel.name.split("-")[:2]
        info = f"{package}-{version}.dist-info"
        assert {name.partition("/")[0] for name in names} == {package, info}
        assert f"{package}/py.typed" in names
        assert f"{info}/licenses/LICENSE" in names
        if package == "fedplug":
            assert "fedplug/researcher/report.css" in names
        assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".log"))]


def test_our_packages_come_from_the_wheelhouse_only(wheel_env):
    places = installed(wheel_env)
    assert {name for name in places if name.startswith("fedplug")} == wheel_env.ours
    assert wheel_env.ours == OURS - {"fedplug-sklearn", "fedplug-declearn", "fedplug-ray", "fedplug-robust"}
    for wheel in wheel_env.wheelhouse.iterdir():
        package, version = wheel.name.split("-")[:2]
        if package.replace("_", "-") not in wheel_env.ours:
            continue
        record = f"{package}-{version}.dist-info/RECORD"
        with zipfile.ZipFile(wheel) as archive:
            built = {tuple(row) for row in csv.reader(archive.read(record).decode("utf-8").splitlines())}
        place = Path(places[package.replace("_", "-")])
        assert wheel_env.path in place.parents
        kept = {tuple(row) for row in csv.reader((place / record).read_text(encoding="utf-8").splitlines())}
        # Same names with the same hashes. RECORD's own line has none.
        assert {row for row in built if row[1]} <= kept


def test_requirements_fit_each_other(wheel_env):
    # The pip of the environment that runs the tests looks at the other one, which has none of its own.
    done = wheel_env.run(sys.executable, "-m", "pip", "--python", wheel_env.python, "check", cwd=wheel_env.path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "names"),
    [("wheel_env", "builtin scaffold torch zmq"), ("sklearn_env", "builtin declearn scaffold sklearn zmq")],
)
def test_plugins_are_found_and_cost_no_framework(request, env, names, tmp_path):
    wheel_env = request.getfixturevalue(env)
    probe = textwrap.dedent("""
        import atexit, runpy, sys
        heavy = {"torch", "sklearn", "declearn", "scipy", "zmq", "pandas", "tensorboard"}
        atexit.register(lambda: print("HEAVY", sorted(heavy & set(sys.modules)), file=sys.stderr))
        sys.argv = ["fedplug", "plugins", "list", "--json"]
        runpy.run_module("fedplug", run_name="__main__")
    """)
    done = wheel_env.run(wheel_env.python, "-c", probe, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HEAVY []" in done.stderr
    found = {record["plugin"]: record["status"] for record in json.loads(done.stdout)}
    assert found == dict.fromkeys(names.split(), "ok")


def check_training(wheel_env, tmp_path: Path, plan: str) -> None:
    """Run a script of a user's, outside the tree: a round in one process, and the same with nodes over TCP."""
    path = tmp_path / "first_run.py"
    parts = (IMPORTS, plan, SETTINGS, IN_ONE_PROCESS, NODE_PROCESSES)
    path.write_text("".join(map(textwrap.dedent, parts)), encoding="utf-8")
    done = wheel_env.run(wheel_env.python, path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    alone, apart = map(json.loads, done.stdout.splitlines()[-2:])
    for seen in (alone, apart):
        assert seen["rounds"] == 1
        assert seen["replied"] == ["lyon", "paris"]
        assert seen["changed"]
        assert seen["logs"]
    assert alone["fingerprint"] == apart["fingerprint"]


def test_first_federated_round_in_one_process_and_over_tcp(wheel_env, tmp_path):
    check_training(wheel_env, tmp_path, TORCH_PLAN)


@pytest.mark.slow  # docs/setting-up-a-node.md trains with it, and nothing of torch, in test_setting_up_a_node.py
def test_scikit_learn_comes_without_torch_and_trains_over_tcp(sklearn_env, tmp_path):
    places = installed(sklearn_env)
    assert (
        {name for name in places if name.startswith("fedplug")}
        == sklearn_env.ours
        == OURS - {"fedplug-torch", "fedplug-ray", "fedplug-robust"}
    )
    assert not {"torch", "opacus", "networkx"} & places.keys()
    check_training(sklearn_env, tmp_path, SKLEARN_PLAN)
