"""The same workloads on other frameworks: ``make bench-peers``, docs/peers.md.

The modules ``on_*`` run in environments in which another framework is installed and FedPlug is not. They, and what they
import from here, need NumPy, PyTorch and psutil only.
"""

from __future__ import annotations
