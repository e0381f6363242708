"""S5: from ``python script.py`` to the end of the first simulated round, cold, over the plain loop alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Result, median_pairs

_LOOP = """
import numpy as np
from benchmarks.plain_loop import PlainLoop, fashion_mnist, MLP
import torch
torch.set_num_threads(1)
x, y = fashion_mnist()
rows = np.random.default_rng(1).permutation(len(x)).reshape(100, 600)
plain = PlainLoop(x, y, {str(i): rows[i] for i in range(10)})
plain.round(MLP().state_dict(), {str(i): np.random.default_rng(i).permutation(600) for i in range(10)})
"""
_SIMULATION = """
from benchmarks.simulation import IID, SEED, Federation, fashion_mnist, simulation
x, y = fashion_mnist()
with simulation(Federation.from_arrays(x, y, partition=IID(100), seed=SEED), 10) as exp:
    assert exp.run(1) == 1
"""


def run(quick: bool = False) -> list[Result]:
    """CPU seconds of whole processes, in turn."""
    figure, ceiling, ratios = median_pairs(lambda: _cpu(_SIMULATION), lambda: _cpu(_LOOP), 2 if quick else 7)
    what = "python script.py to the end of the first round, S1"
    return [Result("S5", what, figure, "s CPU", ceiling, 1.3, {"ratios": [round(ratio, 3) for ratio in ratios]})]


def _cpu(script: str) -> float:
    """CPU seconds of a Python process, its children included."""
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", script], cwd=root, env={**os.environ, "PYTHONPATH": root})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The script ended with {process.returncode}.")
    return usage.ru_utime + usage.ru_stime
