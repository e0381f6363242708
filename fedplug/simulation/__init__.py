"""Federations without a network: virtual nodes in this process, for research, examples and tests."""

from __future__ import annotations

from fedplug.simulation.federation import Federation

__all__ = ["Federation"]
