"""The audit log: entries that are added and never changed, each with the hash of the one before."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE audit (
        number INTEGER PRIMARY KEY, time TEXT NOT NULL, event TEXT NOT NULL, actor TEXT NOT NULL,
        facts TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
    ) STRICT""",
    """CREATE TRIGGER audit_stays BEFORE DELETE ON audit
       BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_does_not_change BEFORE UPDATE ON audit
       BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
)
