"""The audit log of a node: append-only, each entry chained to the one before."""

from __future__ import annotations

from fedplug.node.store import NodeStore


class AuditLog:
    """The audit log in a node's store.

    Args:
        store: The node's store.
    """

    def __init__(self, store: NodeStore) -> None:
        self._store = store

    def note(self, event: str, /, *, actor: str = "node", **facts: object) -> None:
        """Append an entry, on disk when this returns.

        Args:
            event: What happened, e.g. ``"training-started"``.
            actor: Who caused it: ``"node"``, ``"owner"`` (command line), ``"web"``, or ``"researcher:NAME"``.
            **facts: Plain data about it: identities, digests, counts. Never a row of data.
        """
