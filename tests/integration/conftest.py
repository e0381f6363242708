"""What most integration tests start: a node process with one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def start_node(make_node: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """Return ``start(name, url, arrays, tags=("#data",))``: a running `node_kit.Node`; its data set is ``data``."""

    def start(name: str, url: str, arrays: Mapping[str, Any], tags: Sequence[str] = ("#data",)) -> Any:
        file = tmp_path / f"{name}.npz"
        np.savez(file, **arrays)
        return make_node(name).add(file, name="data", tags=tags).start(url)

    return start
