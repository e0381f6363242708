"""The program of docs/isolation.md runs, and its tables name what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from fedplug.node.isolation.probe import probe
from fedplug.node.policy.schema import ResourceRules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "isolation.md"


def first_column(heading: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_pages_program_tells_of_every_layer(run_page):
    printed = run_page("isolation.md", 1)
    assert [line.split()[0] for line in printed.splitlines()] == [layer.name for layer in probe()]


def test_the_tables_name_all_layers_and_all_rules():
    assert sorted(first_column("The layers")) == sorted(layer.name for layer in probe())
    assert first_column("Settings") == [field.name for field in fields(ResourceRules)]
