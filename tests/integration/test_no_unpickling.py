"""Researcher and nodes run an experiment, and resume it, in processes that die at the first thing they unpickle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
UNPICKLED = 86

RESEARCHER = """
import json, sys
import torch
import torch.nn.functional as F
from torch import nn
from fedplug import DataManager, Experiment
from fedplug_torch import TorchTrainingPlan


class Line(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=0.05, momentum=0.9)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        return F.mse_loss(self.model()(data.float()).squeeze(), target.float())


exp = Experiment(
    training_plan_class=Line, training_args={"epochs": 1, "loader_args": {"batch_size": 4}}, round_limit=4, min_nodes=2,
    transport="zmq://127.0.0.1:0", progress="quiet", connect_timeout=60, seed=1, save_breakpoints=True,
)
with exp:
    url = exp.pool().description
    print(url, flush=True)
    exp.set_tags("#data")
    exp.run(rounds=2)
    exp.export_model("model.safetensors")
with Experiment.load_breakpoint(exp.experimentation_path(), transport=url) as again:
    same = exp.params() == again.params()
    again.run()
    print(json.dumps({"same": same, "rounds": {n: len(r) for n, r in again.training_replies().items()}}))
"""


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every Python process that the test starts load the hook; return the file in which they say so."""
    shutil.copy(HERE / "no_unpickling.py", tmp_path / "sitecustomize.py")
    log = tmp_path / "hooked.txt"
    monkeypatch.setenv("NO_UNPICKLING_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return log


def test_nothing_is_unpickled_in_the_processes_of_researcher_and_nodes(hooked, start_node, tmp_path, fedplug_dir):
    script = tmp_path / "researcher.py"
    script.write_text(RESEARCHER)
    command = [sys.executable, str(script)]
    researcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    with researcher:
        url = researcher.stdout.readline().strip()
        assert url, "the researcher says what is wrong above"
        rng = np.random.default_rng(1)
        nodes = [
            start_node(name, url, {"x": rng.normal(size=(12, 2)), "y": rng.normal(size=12)})
            for name in ("lyon", "nice")
        ]
        result = researcher.stdout.read()
    assert researcher.returncode == 0
    assert json.loads(result) == {"same": True, "rounds": {"0": 2, "1": 2, "2": 2, "3": 2}}
    assert all(node.process.poll() is None for node in nodes)
    processes = hooked.read_text().splitlines()
    assert sum("researcher.py" in line for line in processes) == 1, "the researcher was watched"
    assert sum(" start " in line for line in processes) == 2, "so were both nodes"


@pytest.mark.parametrize(
    "script",
    [
        "pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))",
        "pickle.loads(pickle.dumps([1, 2, 3]))",
        "pickle.Unpickler(io.BytesIO(pickle.dumps([1, 2, 3])))",
        "file = io.BytesIO(); np.save(file, np.array([{}])); file.seek(0); np.load(file, allow_pickle=True)",
        "import _pickle; _pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))",
    ],
)
def test_the_hook_ends_a_process_that_unpickles(hooked, script):
    command = [sys.executable, "-c", f"import fractions, io, pickle; import numpy as np; {script}"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == UNPICKLED
    assert "unpickles" in done.stderr
