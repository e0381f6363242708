"""Tests of the benchmarks: that they would notice a wrong result, and that their tables say what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))  # the benchmarks are no installed package
