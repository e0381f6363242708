"""A cluster that is lost ends the experiment with an error that says so; in a process that Ray may take along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import psutil
from ray_plans import Slope, federation
from fedplug import Experiment
from fedplug.core.errors import EngineError
from fedplug_ray import RayEngine, engine

engine._LOOK, engine._PATIENCE = 0.5, 2.0
folder, part = Path(sys.argv[2]), sys.argv[3]
nodes = federation(RayEngine(1, object_store_memory=200 * 2**20))
run = nodes._engine.run


def losing(task, emit):
    (victim,) = [each for each in psutil.Process().children(recursive=True) if each.name() == part]
    victim.kill()
    return run(task, emit)


nodes._engine.run = losing
experiment = Experiment(
    tags="simulation", transport=nodes, training_plan_class=Slope, training_args={"num_updates": 3},
    model_args={"folder": str(folder), "waits": ["n0"]}, round_limit=1, seed=5, progress="quiet",
    save_breakpoints=False,
)
try:
    experiment.run()
except EngineError as error:
    print("told:", error, flush=True)
nodes.close()
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_the_loss_of_the_cluster_is_told_and_leaves_nothing_behind(tmp_path, part):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path), part],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "told: The Ray cluster is gone." in done.stdout, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "load_breakpoint" in done.stdout
    assert "closed" in done.stdout, done.stdout + done.stderr
