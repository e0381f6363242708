"""Data sets: what is known of one that was changed or removed, so that a request for it can be answered."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = ()
