"""The environment variables of a process that trains: a node's worker, one of a simulation, one on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_THREADS = tuple(f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"))
"""Each of these makes a numerical library use as many threads."""

_HEAP = {"MALLOC_TRIM_THRESHOLD_": str(128 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""What the GNU C library keeps of freed memory, and up to which size it takes blocks from there, in bytes.

Each step of a training takes and frees the same blocks. By itself the library gives the memory back in between, and
pages that come fresh from the system are an eighth of the time of a convolutional network.
"""

TRAINING_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    # The order of a set of strings is part of what must repeat from run to run.
    {**dict.fromkeys(_THREADS, "1"), **_HEAP, "PYTHONHASHSEED": "0"}
)
"""What is set in such a process, unless its own environment says something else."""
