"""Where the noise of differential privacy comes from; see docs/adr/0005-noise-comes-from-the-node.md."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # Where the noise of differential privacy comes from; see docs/adr/0005-noise-comes-from-the-node.md.
    "CREATE TABLE secret (single INTEGER PRIMARY KEY CHECK (single = 1), value BLOB NOT NULL) STRICT",
)
