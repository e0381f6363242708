"""What the tests of several parts of the core share: real nodes.

The modules in ``kits`` are no test modules; tests import them by their names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "kits"))


@pytest.fixture
def make_node(tmp_path: Path, fedplug_dir: Path) -> Iterator[Callable[[str], Any]]:
    """Return ``make(name)``: a `node_kit.Node` in a folder of the test. All that run are stopped in the end."""
    from node_kit import nodes_below

    with nodes_below(tmp_path) as make:
        yield make
