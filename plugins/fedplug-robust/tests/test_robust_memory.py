"""A rule needs memory for one or two models, however many updates there are and though they lie in files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# A process of its own: it limits what it may take beyond what it has, and what is mapped from files does not count.
SCRIPT = """
import json, mmap, resource, sys, tempfile
import numpy as np
import fedplug_robust as robust
from fedplug import Params, RoundContext, Update

UPDATES, VALUES = 24, 2_000_000


def field(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


class Stacks(robust.CoordinateMedian):
    def aggregate(self, start, updates, ctx):
        stack = np.stack([update.params["w"] for update in updates])
        return Params.from_arrays({"w": np.median(stack, axis=0).astype(np.float32), "n": 0})


def model(seed):
    rng = np.random.default_rng(seed)
    return Params.from_arrays({"w": rng.standard_normal(VALUES, np.float32), "n": seed})


def mapped(params):  # as the researcher's spool keeps them
    with tempfile.TemporaryFile() as handle:
        handle.write(params.buffer)
        handle.flush()
        return Params(params.spec, mmap.mmap(handle.fileno(), params.nbytes))


rule = eval(sys.argv[1], {**{name: getattr(robust, name) for name in robust.__all__}, "Stacks": Stacks})
tiny = [Params.from_arrays({"w": np.full(50_000, i, np.float32), "n": i}) for i in range(UPDATES)]
small = [Update(f"n{i:02}", params, 1) for i, params in enumerate(tiny)]
rule.aggregate(tiny[0], small, RoundContext())  # libraries take what they keep
start = model(99)
updates = [Update(f"n{i:02}", mapped(model(i)), i + 1) for i in range(UPDATES)]
updates[3] = Update("n03", updates[2].params, 4)  # a pair that is measured by itself
before = field("VmData")
allowed = int(float(sys.argv[2]) * start.nbytes) + 8 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (before + allowed, before + allowed))
try:
    result = rule.aggregate(start, updates, RoundContext())
    done = bool(np.isfinite(result["w"]).all())
except MemoryError:
    done = False
print(json.dumps(done))
"""


def fits(rule, models):
    """Whether it does with so many models of 8 MB, and 8 MiB for blocks."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, rule, str(models)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("rule", "models"),
    [
        ("CoordinateMedian()", 1),
        pytest.param("TrimmedMean(0.1)", 1, marks=pytest.mark.slow),  # goes through columns as the median does
        ("GeometricMedian()", 1),
        ("Krum(5)", 1),
        pytest.param("MultiKrum(5)", 1, marks=pytest.mark.slow),  # measures distances as Krum does
        ("NormClipping(1.0)", 3),  # sums in float64 take two
    ],
)
def test_memory_is_bounded(rule, models):
    assert fits(rule, models)


def test_a_rule_that_holds_all_models_at_once_does_not_fit():
    """So the test above can fail."""
    assert not fits("Stacks()", 12)
