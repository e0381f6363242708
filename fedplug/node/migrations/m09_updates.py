"""Updates that their researchers have not committed yet, and the number of the node's last run."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # Small ones lie in ``data``, large ones in a file of the folder ``updates``; see journal.updates.
    """CREATE TABLE updates (
        researcher TEXT NOT NULL, task BLOB NOT NULL, digest TEXT NOT NULL, header BLOB NOT NULL,
        data BLOB, file TEXT UNIQUE, nbytes INTEGER NOT NULL, written REAL NOT NULL,
        PRIMARY KEY (researcher, task), CHECK ((data IS NULL) != (file IS NULL))
    ) STRICT""",
    "CREATE TABLE run (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), incarnation INTEGER NOT NULL) STRICT",
)
