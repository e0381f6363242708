"""What a plugin is told before it gives its hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainerInfo:
    """The training that hooks are asked for.

    Attributes:
        framework: Of the plan, e.g. ``"torch"``; empty where only the table is wanted.
        training_args: All training arguments, defaults included.
        node_id: The node; empty at the researcher.
        round: Number of the round, from 0.
        aux: Names of the extra arrays that came with the round.
    """

    framework: str = ""
    training_args: Mapping[str, Any] = field(default_factory=dict)
    node_id: str = ""
    round: int = 0
    aux: tuple[str, ...] = ()
