"""How much memory a researcher takes for 16 replies, with keys: the sum and one update, whatever their number.

Row 40 of the fault matrix.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NODES = 16
SLACK = 64 * 2**20

# A process of its own, so that nothing else counts. Linux resets the peak when "5" is written to clear_refs.
RESEARCHER = """
import json, subprocess, sys
from pathlib import Path
import msgspec
import numpy as np
from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.plugins import default_host
from fedplug.testing.echo_nodes import KeyRing
from fedplug.transports.registry import open_transport


class Big(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"w": np.linspace(-1, 1, model_args["values"], dtype=np.float32)}

    def training_data(self):
        return DataManager(np.zeros((1, 1)), np.zeros(1))

    def training_step(self, data, target):
        return 0.0, {}


def field(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


nbytes, nodes, keys = int(sys.argv[1]), int(sys.argv[2]), Path("keys.json").absolute()
ring = KeyRing.make(open_transport("zmq://127.0.0.1:0", default_host()), nodes)
keys.write_bytes(msgspec.json.encode(ring))
exp = Experiment(
    training_plan_class=Big, model_args={"values": nbytes // 4}, transport="zmq://127.0.0.1:0", min_nodes=nodes,
    round_limit=3, progress="quiet", connect_timeout=60, seed=1, transport_options=ring.researcher_options(),
)
with exp:
    url = exp.pool().description
    command = [sys.executable, "-m", "fedplug.testing.echo_nodes", url, str(nodes), "--keys", str(keys)]
    echoes = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        exp.set_tags("#echo")
        start = exp.params()
        base = field("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        exp.run_once()
        peak = field("VmHWM")
        exp.run_once()
        second = field("VmHWM")
        exp.run_once()
        third = field("VmHWM")
        assert len(exp.training_replies()[1]) == nodes
        assert exp.params().allclose(start, rtol=1e-6), "who echoes does not change the model"
        left = sorted(path.name for path in exp.experimentation_path().iterdir())
    finally:
        echoes.stdin.close()
        echoes.wait(30)
print(json.dumps({"model": start.nbytes, "base": base, "peak": peak, "second": second, "third": third, "left": left}))
"""


def measure(folder: Path, nbytes: int) -> dict[str, int]:
    script = folder / "researcher.py"
    script.write_text(RESEARCHER)
    done = subprocess.run(
        [sys.executable, str(script), str(nbytes), str(NODES)],
        env={**os.environ, "FEDPLUG_DIR": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("megabytes", [20, pytest.param(100, marks=pytest.mark.slow)], ids="row_40-{}-MB".format)
def test_sixteen_replies_take_the_memory_of_three_models(megabytes: int, tmp_path: Path, fedplug_dir: Path) -> None:
    found = measure(tmp_path, megabytes * 10**6)
    model = found["model"]
    assert model == megabytes * 10**6
    assert found["base"] > model, "the global model is held when the base is taken"
    # the sum in float64 (two models) and one update, or the sum and the new model
    assert found["peak"] <= found["base"] + 3 * model + SLACK, found
    # Later rounds: the first model stays with the test, and small blocks stay with the C library. A leak of one
    # round's updates would be 16 models.
    assert found["third"] <= found["base"] + 5 * model + SLACK, found
    assert found["left"] == ["model.safetensors", "status.json"], "no file of a waiting update may be left"
