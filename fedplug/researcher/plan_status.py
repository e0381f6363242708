"""Asking nodes whether their owners let a training plan run, and waiting for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedplug.core.errors import PlanError
from fedplug.core.messages import PlanAnswer
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import NodePool, PlanAnswered
from fedplug.researcher.progress.text import one_line

_PATIENCE = 10.0
"""Seconds that a connected node has to answer."""

_TEXTS: Mapping[str, str] = {
    "approved": "lets the plan run",
    "pending": "waits for its owner to approve the plan",
    "rejected": "does not let the plan run: its owner has rejected it",
    "expired": "does not let the plan run any more: the approval has ended",
    "unknown": "has never seen the plan; training_plan_approve sends it to its owner",
    "not required": "runs every plan that it is sent",
    "refused": "does not take the plan in",
    "not connected": "is not connected and cannot be asked",
    "no answer": "is connected, but did not answer",
}

OPEN_STATUS = frozenset({"pending", "unknown", "expired", "not connected", "no answer"})
"""What may still become an approval."""


class PlanStatus(NamedTuple):
    """Whether a node lets a training plan run.

    Attributes:
        node: What people call the node.
        plan: The identity of the plan: the SHA-256 of what travels.
        status: ``"approved"``, ``"pending"``, ``"rejected"``, ``"expired"``, ``"unknown"`` (it was never sent there),
            ``"not required"`` (the node runs every plan), ``"refused"`` (the node does not take it in),
            ``"not connected"`` or ``"no answer"``.
        text: The same in a sentence.
        note: What the owner says about it.
        until: When an approval ends (UTC, ISO 8601); empty: never.
    """

    node: str
    plan: str
    status: str
    text: str
    note: str = ""
    until: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the plan runs there."""
        return self.status in ("approved", "not required")


def ask_plan(
    pool: NodePool,
    query: int,
    plan: PlanBundle,
    datasets: Mapping[str, str],
    names: Mapping[str, str],
    description: str | None = None,
) -> dict[str, PlanStatus]:
    """Ask nodes about a plan, and wait for those that are connected.

    Args:
        pool: Where the nodes are.
        query: A number that nothing was asked under on this pool.
        plan: The plan.
        datasets: Id of the data set that it is to run on, by node id.
        names: What people call the nodes, by id.
        description: What it is for, if the owners are to be asked to approve it.
    """
    pool.ask_plan(query, plan, datasets, description)
    answers: dict[str, PlanAnswer] = {}
    deadline = time.monotonic() + _PATIENCE
    while any(node in pool.nodes and node not in answers for node in datasets):
        left = 0.0 if pool.is_fixed else deadline - time.monotonic()
        event = pool.next_event(max(0.0, min(left, 0.5)))
        if isinstance(event, PlanAnswered) and event.query == query:
            answers[event.node_id] = event.answer
        elif event is None and left <= 0:
            break
    found = {}
    for node in datasets:
        answer = answers.get(node)
        gone = "no answer" if node in pool.nodes else "not connected"
        found[node] = _status(names.get(node) or node, plan.hash, answer or PlanAnswer(plan=plan.hash, status=gone))
    return found


def wait_for_plan(
    ask: Callable[[], dict[str, PlanStatus]], say: Callable[[str], None], timeout: float | None, interval: float
) -> dict[str, PlanStatus]:
    """Ask again until every owner has let the plan run.

    Args:
        ask: Asks all nodes.
        say: Told about every change.
        timeout: Seconds to wait; None for as long as it takes.
        interval: Seconds between two questions.

    Raises:
        PlanError: An owner has rejected the plan, or the time is up.
    """
    end = None if timeout is None else time.monotonic() + timeout
    told: dict[str, str] = {}
    while True:
        found = ask()
        for node, status in found.items():
            if told.get(node) != status.text:
                told[node] = status.text
                say(status.text)
        if all(status.is_allowed for status in found.values()):
            return found
        refused = [status for status in found.values() if not status.is_allowed and status.status not in OPEN_STATUS]
        if refused:
            raise PlanError(
                "\n".join(status.text for status in refused),
                cure="Change the plan and ask again with training_plan_approve, or train without these nodes "
                "(set_nodes).",
                node=refused[0].node,
            )
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            missing = [status for status in found.values() if not status.is_allowed]
            raise PlanError(
                "Not every owner has approved the plan:\n" + "\n".join(f"  {status.text}" for status in missing),
                cure="Ask them to look at it: fedplug node plan list. wait_for_approval() waits on.",
                node=missing[0].node,
            )
        time.sleep(interval if left is None else min(interval, left))


def _status(name: str, plan: str, answer: PlanAnswer) -> PlanStatus:
    status = answer.status if answer.status in _TEXTS else "no answer"
    text = f"Node {name!r} {_TEXTS[status]}"
    if answer.until:
        end = one_line(answer.until[:16].replace("T", " "))
        text += f" {'until' if status == 'approved' else 'since'} {end} (UTC)"
    text += f". Its owner says: {one_line(answer.note)}" if answer.note else "."
    return PlanStatus(name, plan, status, text, answer.note, answer.until)
