"""Approval of training plans: who asked, and what was decided."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = ()
