"""The node itself, its data sets, and the plans that it was sent."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE node (
        single INTEGER PRIMARY KEY CHECK (single = 1),
        node_id TEXT NOT NULL, name TEXT NOT NULL, researcher TEXT NOT NULL, created TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE datasets (
        dataset_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL
    ) STRICT""",
    # Part 6 gives `status` its other values; until then a plan is only remembered.
    """CREATE TABLE plans (
        hash TEXT PRIMARY KEY, class_name TEXT NOT NULL, bundle BLOB NOT NULL, first_seen TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'unreviewed'
    ) STRICT""",
)
