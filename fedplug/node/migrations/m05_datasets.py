"""Data sets: what is known of one that was changed or removed, so that a request for it can be answered."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE former_datasets (
        dataset_id TEXT PRIMARY KEY, name TEXT NOT NULL, reason TEXT NOT NULL CHECK (reason IN ('changed', 'removed')),
        since TEXT NOT NULL
    ) STRICT""",
)
