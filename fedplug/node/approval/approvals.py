"""Which training plans may run on which data sets, and until when: the decisions of the node's owner.

A plan is its bundle, and the hash of its bundle's bytes: what is shown to the owner, what is approved, and what a
worker executes are the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedplug.core.errors import PlanSourceError, RefusedError, StoreError, UnknownNameError, UsageError
from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.records import (
    Decision,
    PlanRecord,
    PlanRequest,
    PlanStanding,
    Status,
    end_of,
    standing,
    utc_now,
)
from fedplug.node.audit.log import AuditLog
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore

MOST_PENDING = 200
MOST_PENDING_BYTES = 64 * 2**20
"""So many plans, of so many bytes, may wait for a decision; a researcher cannot fill the disk with more."""

MOST_NOTE = 2000
MOST_WORDS = 10
"""So many descriptions of a plan are kept of each researcher and data set; a newer one replaces the oldest."""

_LEAST_PREFIX = 6


class Approvals:
    """The training plans that a node was sent, and the decisions about them.

    Args:
        store: The node's store.
        policy: The rules; with ``approval.mode = "off"`` every plan runs.
    """

    def __init__(self, store: NodeStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    # what arrives ------------------------------------------------------------------------------------------------

    def receive(self, bundle: PlanBundle, researcher: str, description: str = "", *, dataset: str = "") -> None:
        """Take in a plan that a researcher has sent, if it, or what is said about it, is new.

        Args:
            bundle: The plan.
            researcher: Address of who has sent it.
            description: What it is for.
            dataset: Name of the data set that it is to run on; empty if that is not known.

        Raises:
            RefusedError: It is new, and too many wait for a decision already (code ``"not-approved"``).
            StoreError: It cannot be stored.
        """
        data = bundle.encode()
        known = self._store.read("SELECT bundle = ? FROM plans WHERE hash = ?", (data, bundle.hash))
        text = description.strip()[:MOST_NOTE]
        request = (bundle.hash, researcher, dataset, text)
        if known and known[0][0] and not self._is_news(*request):
            return
        if not known:
            self._make_room(len(data))
        now = utc_now()
        with self._store.transaction() as db:
            # Bytes that were damaged in the store are replaced: those that came here have the hash.
            db.execute(
                "INSERT INTO plans (hash, class_name, bundle, first_seen) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (hash) DO UPDATE SET bundle = excluded.bundle",
                (bundle.hash, bundle.class_name, data, now),
            )
            db.execute(
                "INSERT OR REPLACE INTO plan_requests (hash, researcher, dataset, description, received) "
                "VALUES (?, ?, ?, ?, ?)",
                (*request, now),
            )
            db.execute(
                "DELETE FROM plan_requests WHERE hash = ? AND researcher = ? AND dataset = ? AND number NOT IN "
                "(SELECT number FROM plan_requests WHERE hash = ? AND researcher = ? AND dataset = ? "
                "ORDER BY number DESC LIMIT ?)",
                (*request[:3], *request[:3], MOST_WORDS),
            )
            AuditLog(self._store).note(
                "plan-received", actor=f"researcher:{researcher}", plan=bundle.hash, plan_class=bundle.class_name,
                dataset=dataset, description=text,
            )  # fmt: skip

    def _is_news(self, plan_hash: str, researcher: str, dataset: str, text: str) -> bool:
        """Whether a request says something that is not known: also the same again, once an approval has ended."""
        rows = self._store.read(
            "SELECT received FROM plan_requests WHERE hash = ? AND researcher = ? AND dataset = ? AND description = ?",
            (plan_hash, researcher, dataset, text),
        )
        if not rows:
            return True
        here = standing(self._decisions(plan_hash), dataset, utc_now())
        return here.status == "expired" and here.decision is not None and rows[0][0] < here.decision.expires

    def _make_room(self, nbytes: int) -> None:
        """Of plans that wait, nothing is thrown away where somebody is to look at them; elsewhere the oldest go."""
        undecided = "SELECT hash FROM plans WHERE hash NOT IN (SELECT hash FROM plan_decisions)"
        count, held = self._store.read(
            f"SELECT count(*), coalesce(sum(length(bundle)), 0) FROM plans WHERE hash IN ({undecided})"  # noqa: S608
        )[0]
        if count < MOST_PENDING and held + nbytes <= MOST_PENDING_BYTES:
            return
        if self._policy.approval.mode == "on":
            raise RefusedError(
                f"{count} training plans wait for the decision of this node's owner, and it takes in no more.",
                code="not-approved",
                cure="Ask the owner to look at them: fedplug node plan list",
            )
        with self._store.transaction() as db:
            oldest = f"{undecided} ORDER BY first_seen, rowid LIMIT {MOST_PENDING // 2}"
            db.execute(f"DELETE FROM plan_requests WHERE hash IN ({oldest})")  # noqa: S608 - our own texts
            db.execute(f"DELETE FROM plans WHERE hash IN ({oldest})")  # noqa: S608

    # what there is -----------------------------------------------------------------------------------------------

    def plans(self) -> list[PlanRecord]:
        """All plans, in the order in which they came."""
        rows = self._store.read("SELECT hash, bundle, first_seen FROM plans ORDER BY first_seen, rowid")
        return [self._record(*row) for row in rows]

    def count(self) -> int:
        """How many plans there are."""
        return int(self._store.read("SELECT count(*) FROM plans")[0][0])

    def pending(self) -> list[PlanRecord]:
        """The plans that wait for a decision, for one data set that they were asked for at least."""
        now = utc_now()
        return [
            record
            for record in self.plans()
            if record.waits_for(now) and (record.decisions or not self._is_shipped(record.hash))
        ]

    def plan(self, which: str) -> PlanRecord:
        """The plan with this hash, or the only one whose hash begins so or whose class is called so.

        Args:
            which: The hash, at least six signs of its beginning, or the name of the class.

        Raises:
            UnknownNameError: There is none.
            UsageError: There are several; they are listed.
        """
        records = self.plans()
        exact = [record for record in records if record.hash == which.lower()]
        begun = [r for r in records if len(which) >= _LEAST_PREFIX and r.hash.startswith(which.lower())]
        named = [record for record in records if record.bundle.class_name == which]
        found = exact or begun or named
        if not found:
            names = [f"{record.hash[:12]} ({record.bundle.class_name})" for record in records]
            raise UnknownNameError("training plan", which, names)
        if len(found) > 1:
            listed = "\n".join(f"  {each.hash[:12]}  {each.bundle.class_name}, {each.first_seen}" for each in found)
            raise UsageError(f"{which!r} stands for several training plans:\n{listed}", cure="Give the hash.")
        return found[0]

    def approved_before(self, record: PlanRecord) -> PlanRecord | None:
        """The version of a plan's class that was approved last, to compare it with."""
        earlier = [
            (each.number, other)
            for other in self.plans()
            if other.bundle.class_name == record.bundle.class_name and other.hash != record.hash
            for each in other.decisions
            if each.status == "approved"
        ]
        return max(earlier, key=lambda pair: pair[0])[1] if earlier else None

    def statuses(self, record: PlanRecord) -> list[tuple[Status, tuple[str, ...]]]:
        """Where a plan may run now: each status with the names of its data sets; see `PlanRecord.statuses`."""
        if self._policy.approval.mode == "off":
            return [("not required", ())]
        if not record.decisions and self._is_shipped(record.hash):
            return [("approved", ())]
        return record.statuses(utc_now())

    def summary(self, record: PlanRecord) -> str:
        """The same in words, such as ``approved``, or ``approved for 'patients'; pending for 'scans'``."""
        found = self.statuses(record)
        return "; ".join(f"{each} for {', '.join(map(repr, names))}" if names else each for each, names in found)

    # what is decided ---------------------------------------------------------------------------------------------

    def approve(self, which: str, *, dataset: str = "", until: str = "", note: str = "", by: str = "owner") -> Decision:
        """Let a plan run.

        Args:
            which: As for `plan`.
            dataset: Name of the only data set that it may run on; empty: all.
            until: The last day on which it may run, as ``"2027-01-31"``, or a time; empty: for good.
            note: For the researcher.
            by: Who has decided, ``"owner"`` or ``"web"``.

        Raises:
            UnknownNameError: There is no such plan or data set.
            UsageError: The date is none, or past, or the note too long.
        """
        if dataset:
            dataset = self._store.dataset(dataset).name
        return self._decide("approved", which, dataset, end_of(until), note, by)

    def reject(self, which: str, *, note: str = "", dataset: str = "", by: str = "owner") -> Decision:
        """Refuse a plan, whatever was decided before; see `approve`."""
        if dataset:
            dataset = self._store.dataset(dataset).name
        return self._decide("rejected", which, dataset, "", note, by)

    def withdraw(self, which: str, *, note: str = "", by: str = "owner") -> Decision:
        """Take a decision back: the plan waits again; see `approve`."""
        return self._decide("withdrawn", which, "", "", note, by)

    def _decide(self, status: Any, which: str, dataset: str, expires: str, note: str, by: str) -> Decision:
        note = note.strip()
        if len(note) > MOST_NOTE:
            raise UsageError(f"A note may have {MOST_NOTE} characters; this one has {len(note)}.")
        with self._store.transaction() as db:
            record = self.plan(which)  # in here: it may have been thrown away meanwhile
            cursor = db.execute(
                "INSERT INTO plan_decisions (hash, status, dataset, expires, note, decided, decided_by, versions) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (record.hash, status, dataset, expires, note, utc_now(), by, _versions()),
            )
            number = cursor.lastrowid
            AuditLog(self._store).note(
                f"plan-{status}", actor=by, plan=record.hash, plan_class=record.bundle.class_name, dataset=dataset,
                until=expires, note=note,
            )  # fmt: skip
        rows = self._store.read("SELECT * FROM plan_decisions WHERE number = ?", (number,))
        return Decision(*rows[0])

    # what follows from it ----------------------------------------------------------------------------------------

    def standing(self, plan_hash: str, dataset: str = "") -> PlanStanding:
        """Whether a plan may run on a data set now.

        Args:
            plan_hash: The plan.
            dataset: Name of the data set; empty: any.
        """
        if self._policy.approval.mode == "off":
            return PlanStanding("not required")
        decisions = self._decisions(plan_hash)
        found = standing(decisions, dataset, utc_now())
        if found.decision is None and self._is_shipped(plan_hash):
            return PlanStanding("approved")
        if not decisions and not self._store.read("SELECT 1 FROM plans WHERE hash = ?", (plan_hash,)):
            return PlanStanding("unknown")
        return found

    def require(self, bundle: PlanBundle, dataset: str) -> None:
        """Check that a plan may run on a data set now.

        Args:
            bundle: The plan as it came.
            dataset: Name of the data set.

        Raises:
            RefusedError: It was not approved, was rejected, or its approval has ended (code ``"not-approved"``).
        """
        found = self.standing(bundle.hash, dataset)
        if found.status in ("not required", "approved"):
            return
        name, decision = f"Training plan {bundle.class_name!r} ({bundle.hash})", found.decision
        note = f' The owner says: "{decision.note}"' if decision is not None and decision.note else ""
        if found.status == "rejected":
            raise RefusedError(
                f"{name} was rejected by the node's owner.{note}",
                code="not-approved",
                cure="Change the plan, and ask again: experiment.training_plan_approve('what it is for').",
            )
        if found.status == "expired" and decision is not None:
            text = f"The approval of {name[0].lower()}{name[1:]} has ended on {decision.expires[:10]}.{note}"
        else:
            text = f"{name} waits for the approval of the node's owner.{note}{self._other_versions(bundle, dataset)}"
        raise RefusedError(
            text,
            code="not-approved",
            cure="Tell the owner what it is for with experiment.training_plan_approve('...'), and wait for the answer "
            f"with experiment.wait_for_approval(). The owner types: fedplug node plan show {bundle.hash[:12]}",
        )

    def _other_versions(self, bundle: PlanBundle, dataset: str) -> str:
        """Say so where nearly the same was approved: another text of that class, or for another data set."""
        names = sorted({each.dataset for each in self._decisions(bundle.hash) if each.dataset})
        elsewhere = [name for name in names if self.standing(bundle.hash, name).status == "approved"]
        if elsewhere:
            return f" It was approved for {', '.join(map(repr, elsewhere))}, not for {dataset!r}."
        rows = self._store.read(
            "SELECT d.hash FROM plan_decisions d JOIN plans p ON p.hash = d.hash "
            "WHERE d.status = 'approved' AND p.class_name = ? AND d.hash != ? "
            "GROUP BY d.hash ORDER BY max(d.number) DESC",
            (bundle.class_name, bundle.hash),
        )
        approved = (other for (other,) in rows if self.standing(other, dataset).status == "approved")
        if (other := next(approved, None)) is None:
            return ""
        return f" What was approved is another text of that class, {other}: one byte more or less is another plan."

    def _is_shipped(self, plan_hash: str) -> bool:
        """Whether it came with an installed plugin, and the rules let such plans run."""
        if not self._policy.approval.default_plans:
            return False
        from fedplug.node.approval.installed import installed_plans

        return plan_hash in installed_plans()

    def _decisions(self, plan_hash: str) -> tuple[Decision, ...]:
        rows = self._store.read("SELECT * FROM plan_decisions WHERE hash = ? ORDER BY number", (plan_hash,))
        return tuple(Decision(*row) for row in rows)

    def _requests(self, plan_hash: str) -> tuple[PlanRequest, ...]:
        rows = self._store.read(
            "SELECT researcher, dataset, description, received FROM plan_requests WHERE hash = ? ORDER BY number",
            (plan_hash,),
        )
        return tuple(PlanRequest(*row) for row in rows)

    def _record(self, plan_hash: str, data: bytes, first_seen: str) -> PlanRecord:
        try:
            bundle = PlanBundle.decode(data)
            if bundle.hash != plan_hash:
                raise PlanSourceError(f"its bytes have the hash {bundle.hash}.")
        except PlanSourceError as error:
            raise StoreError(
                f"Training plan {plan_hash[:12]} is damaged in the node's store: {error.message}",
                cure="It is mended when the researcher sends it again: experiment.training_plan_approve('...').",
            ) from None
        return PlanRecord(bundle, first_seen, self._requests(bundle.hash), self._decisions(bundle.hash))


def _versions() -> str:
    from fedplug import __version__
    from fedplug.core.plugins import default_host

    plugins: Sequence[str] = sorted(f"{r.name} {r.version}" for r in default_host().records if r.dist != "fedplug")
    return ", ".join([f"fedplug {__version__}", *plugins])
