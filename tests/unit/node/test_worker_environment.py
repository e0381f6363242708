"""What a worker process finds in its environment."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from fedplug.node.policy.schema import OPEN
from fedplug.node.worker_environment import environment

_STEPS = """
import resource
import numpy as np

def step():
    blocks = [np.ones(3 << 18) for _ in range(8)]  # 48 MiB, as activations and gradients come and go

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(env: dict[str, str]) -> int:
    done = subprocess.run([sys.executable, "-c", _STEPS], env=env, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are those of the GNU C library")
def test_memory_that_a_step_has_freed_is_there_for_the_next_step() -> None:
    env = environment(OPEN.resources)
    bare = {name: value for name, value in env.items() if not name.startswith("MALLOC_")}
    assert fresh_pages(env) < 500
    assert fresh_pages(bare) > 5_000, "the library does so by itself now: the variables can go"


def test_the_owner_s_own_settings_stay(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    env = environment(OPEN.resources)
    assert (env["OMP_NUM_THREADS"], env["MALLOC_TRIM_THRESHOLD_"], env["MKL_NUM_THREADS"]) == ("4", "1", "1")
