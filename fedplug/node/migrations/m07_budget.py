"""What data sets have given: one row for each training that was let through, before its first batch.

A data set is known here by its name, so that what it has given stays counted when its content is changed. A training is
known by its key and by a digest of the whole request: a key alone, which the researcher chooses, would pay for many.
"""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE charges (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        dataset TEXT NOT NULL, task TEXT NOT NULL, request TEXT NOT NULL, charged TEXT NOT NULL,
        privacy TEXT NOT NULL CHECK (privacy IN ('none', 'local', 'central')),
        sigma REAL NOT NULL, rate REAL NOT NULL, steps INTEGER NOT NULL,
        UNIQUE (dataset, task, request)
    ) STRICT""",
    """CREATE TRIGGER charges_stay BEFORE DELETE ON charges
       BEGIN SELECT RAISE(ABORT, 'what a data set has given is never taken back'); END""",
    """CREATE TRIGGER charges_do_not_change BEFORE UPDATE ON charges
       BEGIN SELECT RAISE(ABORT, 'what a data set has given does not change'); END""",
)
