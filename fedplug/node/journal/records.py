"""The records of a node's journal of tasks. A task's name is its key together with the researcher who gave it."""

from __future__ import annotations

import msgspec

from fedplug.core.messages import TaskKey


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    researcher: str
    key: TaskKey


class Begun(_Record, frozen=True, tag="begun"):
    """A training was let through all rules and is about to begin."""


class Finished(_Record, frozen=True, tag="finished"):
    """It has ended well, and its update is on the disk. Of earlier versions: now the update itself says so.

    Attributes:
        digest: Of the update's header; see `fedplug.node.journal.updates`.
    """

    digest: str


class Ended(_Record, frozen=True, tag="ended"):
    """Nothing more is to be done about it.

    Attributes:
        how: ``"committed"``, ``"cancelled"``, ``"interrupted"``, ``"update-lost"``, ``"expired"``, or the code of its
            failure.
    """

    how: str


Record = Begun | Finished | Ended
