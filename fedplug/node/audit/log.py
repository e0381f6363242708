"""The audit log of a node: append-only, each entry chained to the one before.

Who can write the node's folder can still replace the whole log by another one. So note the head now and then where
that person cannot write (``fedplug node audit verify`` prints it, and the node logs it when it stops): a log that does
not contain a head which was noted has been tampered with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from fedplug.core.errors import StoreError
from fedplug.node.audit.entry import EVENTS, START, Entry, Verdict, bounded, digest_of, verify_chain
from fedplug.node.store import NodeStore

_COLUMNS = "number, time, event, actor, facts, previous, hash"
_BATCH = 1000
_log = logging.getLogger("fedplug.node")


@dataclass(frozen=True)
class Training:
    """One training, put together from its entries.

    Attributes:
        task: Its key, ``"experiment/round/node/attempt"``.
        began: When it was let through or refused (UTC, ISO 8601).
        researcher: Address of the researcher.
        dataset: Name of the data set.
        plan: Hash of the training plan.
        plan_class: Name of its class.
        outcome: ``"running"`` (or cut off by a crash), ``"finished"``, ``"failed"``, ``"cancelled"`` or ``"refused"``.
        facts: The facts of its last entry.
    """

    task: str
    began: str
    researcher: str
    dataset: str
    plan: str
    plan_class: str
    outcome: str
    facts: dict[str, Any]


class AuditLog:
    """The audit log in a node's store.

    Args:
        store: The node's store.
    """

    def __init__(self, store: NodeStore) -> None:
        self._store = store

    def note(self, event: str, /, *, actor: str = "node", **facts: object) -> Entry:
        """Append an entry, which is on disk when this returns.

        Args:
            event: What happened, one of `EVENTS`.
            actor: Who caused it: ``"node"``, ``"owner"`` (command line), ``"web"``, or ``"researcher:ADDRESS"``.
            **facts: Plain data about it: identities, digests, counts. Never a row of data.

        Raises:
            StoreError: It cannot be written.
        """
        return self._append(event, actor, facts, flush=True)

    def note_soon(self, event: str, /, *, actor: str = "node", **facts: object) -> Entry:
        """Append an entry that is on disk no later than the next one; the end of this process does not harm it.

        For what is followed by another entry before anything leaves the node: a flush is most of what an entry costs.
        The arguments are those of `note`.

        Raises:
            StoreError: It cannot be written.
        """
        return self._append(event, actor, facts, flush=False)

    def note_if_possible(self, event: str, /, *, actor: str = "node", **facts: object) -> Entry | None:
        """Append an entry about what has happened already, and lets nothing leave the node.

        If the log cannot be written, say on a full disk, the node's own log says that, and the node goes on.
        The arguments are those of `note`.

        Returns:
            The entry; None if it could not be written.
        """
        try:
            return self.note(event, actor=actor, **facts)
        except StoreError as error:
            _log.error("This is missing in the audit log: %s %s. %s", event, facts, error)
            return None

    def _append(self, event: str, actor: str, facts: Mapping[str, object], *, flush: bool) -> Entry:
        assert event in EVENTS, event
        text = msgspec.json.encode(bounded(facts), order="deterministic").decode()
        with self._store.transaction(flush=flush) as db:
            last = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
            number, previous = last or (0, START)
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            row = (number + 1, now, event, bounded(actor), text, previous)
            entry = Entry(*row, digest_of(row))
            db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, entry.hash))
        return entry

    def entries(
        self,
        *,
        since: str = "",
        until: str = "",
        events: Sequence[str] = (),
        dataset: str = "",
        actor: str = "",
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        """The entries that fit, the newest first.

        Args:
            since: Not before this time (ISO 8601, UTC).
            until: Before this time.
            events: Only these events; all by default.
            dataset: Only those about the data set of this name.
            actor: Only those whose actor begins so, e.g. ``"researcher"``.
            before: Only those before the entry of this number, for the next page.
            limit: At most so many.
        """
        conditions: list[tuple[str, Sequence[Any]]] = []
        if since:
            conditions.append(("time >= ?", [since]))
        if until:
            conditions.append(("time < ?", [until]))
        if events:
            conditions.append((f"event IN ({', '.join('?' * len(events))})", list(events)))
        if dataset:
            conditions.append(("json_extract(facts, '$.dataset') = ?", [dataset]))
        if actor:
            conditions.append(("substr(actor, 1, ?) = ?", [len(actor), actor]))
        if before is not None:
            conditions.append(("number < ?", [before]))
        where = f"WHERE {' AND '.join(text for text, _ in conditions)}" if conditions else ""
        values = [value for _, each in conditions for value in each]
        query = f"SELECT {_COLUMNS} FROM audit {where} ORDER BY number DESC LIMIT ?"  # noqa: S608 - our own texts
        return [Entry(*row) for row in self._store.read(query, [*values, -1 if limit is None else limit])]

    def all(self) -> Iterator[Entry]:
        """All entries, the oldest first, a part at a time."""
        number = 0
        while True:
            query = f"SELECT {_COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608
            rows = self._store.read(query, (number, _BATCH))
            if not rows:
                return
            yield from (Entry(*row) for row in rows)
            number = rows[-1][0]

    def head(self) -> str:
        """Hash of the last entry; `START` if there is none."""
        rows = self._store.read("SELECT hash FROM audit ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows else START

    def verify(self, expected_head: str = "") -> Verdict:
        """Look whether the log is whole; see `verify_chain`."""
        return verify_chain(self.all(), expected_head)

    def trainings(self, limit: int = 100) -> list[Training]:
        """The last trainings, those that were refused too, the newest first."""
        ends = {f"training-{outcome}": outcome for outcome in ("finished", "failed", "cancelled", "refused")}
        found: dict[str, Training] = {}
        order: list[str] = []
        last: dict[str, Entry] = {}
        for entry in self.entries(events=["training-started", *ends], limit=4 * limit):
            facts = entry.data
            task = f"{facts.get('task', '')}"
            if task not in last:
                last[task] = entry
                order.append(task)
            end = last[task]
            found[task] = Training(
                task, entry.time, entry.actor.removeprefix("researcher:"), f"{facts.get('dataset', '')}",
                f"{facts.get('plan', '')}", f"{facts.get('plan_class', '')}", ends.get(end.event, "running"), end.data,
            )  # fmt: skip
        return [found[task] for task in order[:limit]]
