"""One entry of the audit log, what entries there are, and the chain that ties them together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

EVENTS: Mapping[str, str] = {
    "node-started": "The node's process began to serve.",
    "node-stopped": "It ended in order; what is missing here was a crash.",
    "connected": "A researcher welcomed the node.",
    "refused-by-researcher": "A researcher did not let the node in.",
    "search-answered": "A researcher asked for data sets, and got the names, types and shapes of those that fit.",
    "plan-received": "A researcher sent a training plan, with a request to approve it or to train.",
    "plan-approved": "The owner let a training plan run.",
    "plan-rejected": "The owner refused a training plan.",
    "plan-withdrawn": "The owner took a decision about a training plan back.",
    "training-started": "A training was let through all rules, and began.",
    "training-finished": "A training ended, and its update was handed over; bytes_out is its size.",
    "training-failed": "A training did not end well; nothing but its error left the node.",
    "training-cancelled": "A training was given up by its researcher, or because the node stopped.",
    "training-refused": "A rule of the owner's forbade a training, or what it wanted to send.",
    "dataset-added": "The owner offered a data set.",
    "dataset-edited": "The owner changed what is known of a data set, or accepted that its files have changed.",
    "dataset-removed": "The owner offers a data set no longer.",
    "logged-in": "Somebody opened the web page with one of its one-time links.",
    "researcher-trusted": "The owner trusts a researcher's key.",
    "researcher-untrusted": "The owner trusts a researcher's key no more.",
    "keys-changed": "The owner gave the node other keys of its own.",
    "rules-changed": "The owner changed the rules by the web page.",
}
"""Every event that is written down, and what it means."""

START = "0" * 64
"""What stands for the hash of the entry before the first one."""

_MOST_TEXT = 1000
_MOST_ITEMS = 100
_MOST_DEPTH = 4


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        number: Its place in the log, from 1.
        time: When it was written (UTC, ISO 8601, with microseconds).
        event: What happened, one of `EVENTS`.
        actor: Who caused it: ``"node"``, ``"owner"`` (command line), ``"web"``, or ``"researcher:ADDRESS"``.
        facts: Plain data about it, as JSON.
        previous: Hash of the entry before; `START` for the first.
        hash: SHA-256 (hex) over all of the above; see `digest`.
    """

    number: int
    time: str
    event: str
    actor: str
    facts: str
    previous: str
    hash: str

    @property
    def data(self) -> dict[str, Any]:
        """The facts, decoded; empty if they are not what they should be."""
        try:
            return msgspec.json.decode(self.facts, type=dict[str, Any])
        except msgspec.MsgspecError:
            return {}

    def digest(self) -> str:
        """The hash that this entry must have.

        SHA-256 of the JSON list of number, time, event, actor, facts (as a text) and previous, without blanks, in
        UTF-8: it can be worked out anew with any tool.
        """
        return digest_of((self.number, self.time, self.event, self.actor, self.facts, self.previous))

    def plain(self) -> dict[str, Any]:
        """As plain data, the facts as the text that was hashed."""
        return dict(vars(self))


@dataclass(frozen=True)
class Verdict:
    """Whether a log is whole.

    Attributes:
        count: Entries that were looked at.
        head: Hash of the last one; `START` if there is none.
        problem: What is wrong with the first entry that is not as it was written; empty if all are.
    """

    count: int
    head: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem


def digest_of(row: tuple[int, str, str, str, str, str]) -> str:
    """The hash of an entry: see `Entry.digest`.

    Args:
        row: Number, time, event, actor, facts and previous.
    """
    return hashlib.sha256(msgspec.json.encode(row)).hexdigest()


def verify_chain(entries: Iterable[Entry], expected_head: str = "") -> Verdict:
    """Look whether each entry is as it was written, and follows the one before.

    Args:
        entries: All entries, in order.
        expected_head: A head that was noted earlier. It must still be in the chain: who cuts entries off at the end,
            or writes the whole log anew, cannot keep it.
    """
    count, previous, seen = 0, START, not expected_head or expected_head == START
    for entry in entries:
        if entry.number != count + 1:
            what = "stands twice" if entry.number <= count else "is missing"
            return Verdict(count, previous, f"Entry {min(entry.number, count + 1)} {what}.")
        if entry.previous != previous:
            return Verdict(count, previous, f"Entry {entry.number} does not follow the entry before it.")
        if entry.digest() != entry.hash:
            return Verdict(count, previous, f"Entry {entry.number} was changed after it was written.")
        count, previous = entry.number, entry.hash
        seen = seen or entry.hash == expected_head
    if not seen:
        text = f"No entry has the hash {expected_head[:16]}… that was noted: entries were cut off, or written anew."
        return Verdict(count, previous, text)
    return Verdict(count, previous)


def bounded(value: Any, depth: int = 0) -> Any:
    """``value`` as plain data of bounded size: long texts are cut, and so are long lists."""
    if isinstance(value, str):  # most are: it comes before the slow questions
        return value if len(value) <= _MOST_TEXT else value[: _MOST_TEXT - 1] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, Mapping) and depth < _MOST_DEPTH:
        return {str(key)[:_MOST_TEXT]: bounded(each, depth + 1) for key, each in list(value.items())[:_MOST_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset) and depth < _MOST_DEPTH:
        return [bounded(each, depth + 1) for each in list(value)[:_MOST_ITEMS]]
    return bounded(str(value))
