"""Approval of training plans: who asked for it, and what the owner has decided. Both only grow."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    "ALTER TABLE plans DROP COLUMN status",
    """CREATE TABLE plan_requests (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        hash TEXT NOT NULL, researcher TEXT NOT NULL, dataset TEXT NOT NULL, description TEXT NOT NULL,
        received TEXT NOT NULL,
        UNIQUE (hash, researcher, dataset, description)
    ) STRICT""",
    """CREATE TABLE plan_decisions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        hash TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('approved', 'rejected', 'withdrawn')),
        dataset TEXT NOT NULL, expires TEXT NOT NULL, note TEXT NOT NULL,
        decided TEXT NOT NULL, decided_by TEXT NOT NULL, versions TEXT NOT NULL
    ) STRICT""",
    """CREATE TRIGGER plan_decisions_stay BEFORE DELETE ON plan_decisions
       BEGIN SELECT RAISE(ABORT, 'decisions are never taken back, only followed by others'); END""",
    """CREATE TRIGGER plan_decisions_do_not_change BEFORE UPDATE ON plan_decisions
       BEGIN SELECT RAISE(ABORT, 'decisions do not change'); END""",
)
