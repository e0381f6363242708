"""All layers together, in the two moments at which they are possible."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fedplug.node.isolation import audit_hook, landlock, limits, network, seccomp
from fedplug.node.isolation.layers import Confinement, Layer

_CACHES = ("TMPDIR", "TEMP", "TMP", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME",
           "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")  # fmt: skip
"""Where libraries write what they want to keep: all of it becomes the scratch folder."""


def before_threads(confinement: Confinement) -> list[Layer]:
    """What must be done while the process has one thread: at its very beginning."""
    for name in _CACHES:
        os.environ[name] = confinement.scratch
    sys.dont_write_bytecode = True
    if not confinement.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return [network.leave_network(), limits.limit(confinement)]


def before_plan(confinement: Confinement, data: Sequence[Path], tell: Callable[[str], object] = str) -> list[Layer]:
    """What must be done before the first line of a plan runs: from here on the process has one data set.

    Args:
        confinement: What it may do.
        data: The files and folders of the data set.
        tell: Told what a plan tries in Python that it may not do.
    """
    os.chdir(confinement.scratch)
    readable = landlock.readable()
    layers = [limits.give_up_privileges(), landlock.restrict(confinement, data), seccomp.forbid(confinement)]
    return [*layers, audit_hook.watch(confinement, readable, data, tell)]
