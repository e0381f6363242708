"""The tables of a node's store, as numbered migrations that bring an older file up to date when it is opened.

One module a migration, which is never changed once it was released. The file's ``user_version`` says how many it has
had.
"""

from __future__ import annotations

from fedplug.node.migrations import (
    m01_node,
    m02_states,
    m03_secret,
    m04_lineage,
    m05_datasets,
    m06_approval,
    m07_budget,
    m08_audit,
    m09_updates,
)

APPLICATION_ID = 0x46_50_4C_47
"""Marks the file as ours, in its header: "FPLG"."""

MIGRATIONS: tuple[tuple[str, ...], ...] = tuple(
    module.STATEMENTS
    for module in (
        m01_node, m02_states, m03_secret, m04_lineage, m05_datasets, m06_approval, m07_budget, m08_audit,
        m09_updates,
    )
)  # fmt: skip
"""The statements of each migration, in order."""
