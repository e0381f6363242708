"""What is known of training plans and of the decisions about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Literal

from fedplug.core.errors import UsageError
from fedplug.core.plan_source import PlanBundle

Status = Literal["not required", "unknown", "pending", "approved", "rejected", "expired"]


@dataclass(frozen=True)
class Decision:
    """What an owner has decided about a plan.

    Attributes:
        number: Grows with each decision at this node.
        hash: The plan.
        status: ``"approved"``, ``"rejected"``, or ``"withdrawn"``, which leaves it as if nothing had been decided.
        dataset: Name of the data set that it is about; empty: all.
        expires: When an approval ends (UTC, ISO 8601); empty: never.
        note: What the owner wants to say about it; the researcher sees it.
        decided: When (UTC, ISO 8601).
        decided_by: ``"owner"``, ``"web"``, or ``"installed"`` for plans that came with a plugin.
        versions: Versions of FedPlug and its plugins at that time, as ``name version`` separated by commas.
    """

    number: int
    hash: str
    status: Literal["approved", "rejected", "withdrawn"]
    dataset: str
    expires: str
    note: str
    decided: str
    decided_by: str
    versions: str


@dataclass(frozen=True)
class PlanRequest:
    """A researcher's word about a plan.

    Attributes:
        researcher: Its address.
        dataset: Name of the data set that the plan is to run on; empty if it named none that is here.
        description: What the plan is for; empty where it came with a training request.
        received: When it first came, or first after an approval had ended (UTC, ISO 8601).
    """

    researcher: str
    dataset: str
    description: str
    received: str


@dataclass(frozen=True)
class PlanRecord:
    """A training plan that was sent to this node.

    Attributes:
        bundle: The plan.
        first_seen: When it came (UTC, ISO 8601).
        requests: Who has sent it, in order.
        decisions: What was decided about it, in order.
    """

    bundle: PlanBundle
    first_seen: str
    requests: tuple[PlanRequest, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def hash(self) -> str:
        """The plan's identity."""
        return self.bundle.hash

    @property
    def class_name(self) -> str:
        """Name of its class."""
        return self.bundle.class_name

    @property
    def is_pending(self) -> bool:
        """Whether the owner has decided nothing about it, or has taken it back."""
        return not self.decisions or self.decisions[-1].status == "withdrawn"

    def waits_for(self, now: str) -> tuple[str, ...]:
        """Names of the data sets for which it was asked for, and waits for a decision; empty texts: for any.

        Args:
            now: The time (UTC, ISO 8601).
        """
        names = dict.fromkeys(each.dataset for each in self.requests) or {"": None}
        return tuple(name for name in names if self._waits_for(name, now))

    def _waits_for(self, dataset: str, now: str) -> bool:
        here = standing(self.decisions, dataset, now)
        if here.status != "expired" or here.decision is None:
            return here.status == "pending"
        # An approval that has ended waits for another one as soon as somebody asks again.
        end = here.decision.expires
        return any(request.dataset == dataset and request.received >= end for request in self.requests)

    def statuses(self, now: str) -> list[tuple[Status, tuple[str, ...]]]:
        """Where it may run: each status with the names of its data sets, without names that of all the others.

        Args:
            now: The time (UTC, ISO 8601).
        """
        everywhere = standing(tuple(each for each in self.decisions if not each.dataset), "", now).status
        names = {each.dataset for each in self.requests} | {each.dataset for each in self.decisions}
        special: dict[Status, list[str]] = {}
        for name in sorted(names - {""}):
            status = standing(self.decisions, name, now).status
            if status != everywhere or everywhere == "pending":
                special.setdefault(status, []).append(name)
        if not special or set(special) == {everywhere}:
            return [(everywhere, ())]
        parts: list[tuple[Status, tuple[str, ...]]] = [
            (each, tuple(listed)) for each, listed in sorted(special.items())
        ]
        return parts if everywhere == "pending" else [(everywhere, ()), *parts]

    @property
    def description(self) -> str:
        """The last thing that a researcher has said about it."""
        return next((each.description for each in reversed(self.requests) if each.description), "")


@dataclass(frozen=True)
class PlanStanding:
    """Whether a plan may run on a data set now.

    Attributes:
        status: The answer.
        decision: What it follows from, if anything was decided.
    """

    status: Status
    decision: Decision | None = None


def standing(decisions: tuple[Decision, ...], dataset: str, now: str) -> PlanStanding:
    """What follows from decisions for one data set: the last one that concerns it counts.

    Args:
        decisions: All decisions about a plan, in order.
        dataset: Name of the data set; empty: what is best over all that decisions are about.
        now: The time (UTC, ISO 8601).
    """
    if not dataset:
        named = sorted({each.dataset for each in decisions if each.dataset})
        found = [_standing(decisions, "", now), *(_standing(decisions, name, now) for name in named)]
        return min(found, key=lambda each: (_RANK[each.status], -each.decision.number if each.decision else 0))
    return _standing(decisions, dataset, now)


_RANK: dict[Status, int] = {"approved": 0, "expired": 1, "rejected": 2, "pending": 3}


def _standing(decisions: tuple[Decision, ...], dataset: str, now: str) -> PlanStanding:
    """As `standing`; an empty name stands for a data set that no decision names."""
    concern = [each for each in decisions if each.dataset in ("", dataset)]
    if not concern or concern[-1].status == "withdrawn":
        return PlanStanding("pending", concern[-1] if concern else None)
    last = concern[-1]
    if last.status == "rejected":
        return PlanStanding("rejected", last)
    return PlanStanding("expired" if last.expires and last.expires <= now else "approved", last)


def utc_now() -> str:
    """The time now (UTC, ISO 8601, whole seconds): texts of this form sort as the times do."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def end_of(text: str) -> str:
    """When an approval ends that is given until a date, whose whole day still counts, or until a time.

    Args:
        text: ``"2027-01-31"``, or a time such as ``"2027-01-31T12:00"`` (UTC unless it says otherwise); empty: never.

    Raises:
        UsageError: It is neither, or it is past.
    """
    if not text.strip():
        return ""
    try:
        if len(text.strip()) == len("2027-01-31"):
            moment = datetime.combine(date.fromisoformat(text.strip()), time.max, UTC).replace(microsecond=0)
        else:
            moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is no date.", cure="Write it as 2027-01-31, or leave it out.") from None
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    end = moment.isoformat(timespec="seconds")
    if end <= utc_now():
        raise UsageError(f"{text} is past.", cure="Give a day to come, or leave it out.")
    return end
