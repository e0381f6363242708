"""The tables of a node's store, as numbered migrations that bring an older file up to date when it is opened.

Still to come, each as a migration with its user: approval of training plans, the task journal, the audit
log.
"""

from __future__ import annotations

APPLICATION_ID = 0x46_50_4C_47
"""Marks the file as ours, in its header: "FPLG"."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
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
    ),
    (
        # What trainings keep between rounds: which file of the folder ``state`` holds what; see state_store.
        """CREATE TABLE states (
            experiment_id TEXT NOT NULL, dataset_id TEXT NOT NULL, round INTEGER NOT NULL,
            file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, nbytes INTEGER NOT NULL, written REAL NOT NULL,
            PRIMARY KEY (experiment_id, dataset_id, round)
        ) STRICT""",
    ),
    (
        # Where the noise of differential privacy comes from; see docs/adr/0005-noise-comes-from-the-node.md.
        "CREATE TABLE secret (single INTEGER PRIMARY KEY CHECK (single = 1), value BLOB NOT NULL) STRICT",
    ),
    (
        # States get their lineage. Of those that are there nobody knows it, so no request can name them.
        "DROP TABLE states",
        """CREATE TABLE states (
            experiment_id TEXT NOT NULL, dataset_id TEXT NOT NULL, round INTEGER NOT NULL, lineage TEXT NOT NULL,
            file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, nbytes INTEGER NOT NULL, written REAL NOT NULL,
            PRIMARY KEY (experiment_id, dataset_id, round, lineage)
        ) STRICT""",
    ),
)
"""One tuple of statements per version; the file's ``user_version`` says how many it has had."""
