"""The contracts: no I/O, no framework. Everything else depends on them, they depend on nothing else."""

from __future__ import annotations
