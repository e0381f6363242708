"""The pages on benchmarks name the workloads that there are."""

from __future__ import annotations

import ast
import re

from benchmarks.peers.environments import PEERS, ROOT
from benchmarks.peers.table import TITLES


def rows(page):
    """The ids in the first table of a page whose first column is called ``id``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = text[text.index("| id |") :].split("\n\n")[0]
    return re.findall(r"^\| ([A-Z]\d) \|", table, re.MULTILINE)


def test_the_page_on_benchmarks_has_all_workloads():
    # read and not imported: that would load PyTorch and more
    source = ast.parse((ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"))
    (workloads,) = (
        node.value for node in source.body if isinstance(node, ast.AnnAssign) and node.target.id == "WORKLOADS"
    )
    keys = [key.value for key in workloads.keys]
    named = rows("benchmarks.md")
    assert sorted(named) == sorted(keys)
    assert len(set(named)) == len(named)


def test_the_page_on_peers_has_all_workloads_and_peers():
    assert rows("peers.md") == list(TITLES)
    text = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    section = text[text.index("## What was set") : text.index("## Figures")]
    settings = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)
    assert [peer.name for peer in PEERS] == [name for name in settings if name not in ("framework", "FedPlug")]
