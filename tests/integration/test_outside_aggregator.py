"""An aggregator from a package outside the repository, installed with pip and used by its name in an Experiment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedplug-median"

SCRIPT = '''
import json
import numpy as np
from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.simulation import Federation

TARGETS = {"a": 1.0, "b": 4.0, "c": -2.0, "d": 100.0, "e": 5.0}


class Jump(NumpyTrainingPlan):
    """One step that sets the model to the node's own target (and its square)."""

    def init_model(self, model_args):
        return {"w": np.zeros(2), "b": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        model, goal = self.model(), float(target[0])
        return 0.0, {"w": model["w"] - [goal, goal**2], "b": model["b"] + goal}


pool = Federation({node: (np.zeros((4, 1)), np.full(4, value)) for node, value in TARGETS.items()})
with Experiment(
    tags="simulation",
    training_plan_class=Jump,
    training_args={"epochs": 1, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 1.0}},
    aggregator="median",
    round_limit=1,
    progress="quiet",
    transport=pool,
) as exp:
    exp.run()
    print(json.dumps([type(exp.aggregator()).__module__, exp.params()["w"].tolist(), float(exp.params()["b"])]))
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that see the package, which pip has installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("median")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    environment = {name: value for name, value in os.environ.items() if name != "FEDPLUG_PLUGINS"}
    path = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(part for part in path if part)}


def run_script(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.run(
        [sys.executable, "-m", "fedplug", "run", str(script)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_median_of_a_stranger_is_used_by_name(
    tmp_path: Path, fedplug_dir: Path, environment: dict[str, str]
) -> None:
    done = run_script(tmp_path, {**environment, "FEDPLUG_DIR": str(fedplug_dir)})
    assert done.returncode == 0, done.stderr
    module, weights, bias = json.loads(done.stdout.splitlines()[-1])
    assert module == "fedplug_median"
    goals = np.array([1.0, 4.0, -2.0, 100.0, 5.0])
    assert weights == [np.median(goals), np.median(goals**2)] == [4.0, 16.0]
    assert bias == -4.0


def test_without_the_package_the_name_is_not_known(
    tmp_path: Path, fedplug_dir: Path, environment: dict[str, str]
) -> None:
    done = run_script(tmp_path, {**environment, "PYTHONPATH": "", "FEDPLUG_DIR": str(fedplug_dir)})
    assert done.returncode == 2
    assert "There is no aggregator named 'median'" in done.stderr
    assert "Traceback" not in done.stderr
