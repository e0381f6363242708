"""What trainings keep between rounds."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # What trainings keep between rounds: which file of the folder ``state`` holds what; see state_store.
    """CREATE TABLE states (
        experiment_id TEXT NOT NULL, dataset_id TEXT NOT NULL, round INTEGER NOT NULL,
        file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, nbytes INTEGER NOT NULL, written REAL NOT NULL,
        PRIMARY KEY (experiment_id, dataset_id, round)
    ) STRICT""",
)
