"""States get their lineage."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # States get their lineage. Of those that are there nobody knows it, so no request can name them.
    "DROP TABLE states",
    """CREATE TABLE states (
        experiment_id TEXT NOT NULL, dataset_id TEXT NOT NULL, round INTEGER NOT NULL, lineage TEXT NOT NULL,
        file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, nbytes INTEGER NOT NULL, written REAL NOT NULL,
        PRIMARY KEY (experiment_id, dataset_id, round, lineage)
    ) STRICT""",
)
