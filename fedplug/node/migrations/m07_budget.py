"""The budget of differential privacy, and the rounds that a data set has given."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = ()
