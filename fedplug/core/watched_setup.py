"""Finds out what of a node and its round somebody asks a plan's setup for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fedplug.core.training_plan import PlanSetup

_OF_A_TASK = frozenset(("dataset", "node_id", "round", "total_rounds", "aux", "state", "noise_key"))


class WatchedSetup(PlanSetup):
    """Notes in ``read`` what of a node and its round somebody asks for."""

    @classmethod
    def watching(cls, *args: Any, **kwargs: Any) -> tuple[WatchedSetup, set[str]]:
        """One with these fields, and the set of what is asked for."""
        setup, read = cls(*args, **kwargs), set[str]()
        object.__setattr__(setup, "read", read)
        return setup, read

    @classmethod
    def over(cls, setup: PlanSetup) -> tuple[WatchedSetup, set[str]]:
        """One with the fields of another, and the set of what is asked for."""
        return cls.watching(**{field.name: getattr(setup, field.name) for field in fields(setup)})

    def __getattribute__(self, name: str) -> Any:
        if name in _OF_A_TASK and (read := vars(self).get("read")) is not None:
            read.add(name)
        return super().__getattribute__(name)
