"""The environment variables of a worker process."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import fedplug
from fedplug.core.training_environment import TRAINING_ENVIRONMENT
from fedplug.node.policy.schema import ResourceRules

_KEPT = frozenset({"PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "FEDPLUG_PLUGINS", "FEDPLUG_TRACE"})
_KEPT_BEGINNINGS = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "CUDA_", "NVIDIA_", "COVERAGE_")
"""What a confined worker gets of the environment of the node."""


def environment(resources: ResourceRules) -> dict[str, str]:
    """The environment of a worker: one thread in numerical libraries, and the modules that we see."""
    env = dict(os.environ)
    if resources.isolation != "off":  # whatever the owner's shell holds, such as keys, is no business of a plan
        env = {name: value for name, value in env.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}
    env = {**TRAINING_ENVIRONMENT, **env}
    # -P keeps the current folder out; where this process was told to import from, the worker may import too.
    paths = sysconfig.get_paths()
    installed = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = [str(Path(place).absolute()) for place in sys.path if not place.endswith(".zip")]
    if resources.isolation != "off":
        found = [place for place in found if place not in _current_folder()]
    env["PYTHONPATH"] = os.pathsep.join(place for place in dict.fromkeys(found) if not place.startswith(installed))
    return env


def _current_folder() -> tuple[str, ...]:
    """The folder in which the node happens to be started, unless it was told to import from there.

    ``python -m fedplug`` puts it on the path, and there may lie anything, such as data.
    """
    here = Path.cwd()
    told = [Path(place).absolute() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return () if here in told or here == Path(fedplug.__file__).parents[1] else (str(here),)
