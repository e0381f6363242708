"""What is wrong on this machine, and with the node in a folder, and how to mend it. Nothing is changed by looking."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from fedplug.core.errors import AddressError, FedplugError
from fedplug.core.journal import Journal
from fedplug.core.keys import fingerprint
from fedplug.core.plugins import default_host
from fedplug.core.transport import TransportOptions
from fedplug.node.audit.log import AuditLog
from fedplug.node.commands import node_command
from fedplug.node.datasets.freshness import check_unchanged
from fedplug.node.journal.records import Record
from fedplug.node.journal.tasks import JOURNAL_FILE
from fedplug.node.keys import NodeKeys, keys_command
from fedplug.node.lock import is_locked, locked_by
from fedplug.node.migrations import APPLICATION_ID, MIGRATIONS
from fedplug.node.policy.file import POLICY_FILE, parse_policy, read_text
from fedplug.node.policy.remarks import remarks
from fedplug.node.policy.schema import Policy
from fedplug.node.service.findings import Finding, guarded, ok, problem, warning
from fedplug.node.service.machine import disk_findings, machine_findings
from fedplug.node.status import STATUS_FILE, NodeStatus
from fedplug.node.store import STORE_FILE, NodeStore
from fedplug.transports.registry import open_transport

_CONNECT_SECONDS = 2.0
_SECRET = re.compile(r"(node|journal)\.(sqlite|toml)")
_CLOCK_ERROR = timedelta(minutes=2)


def examine(folder: Path | None) -> list[Finding]:
    """Look at this machine, and at a node.

    Args:
        folder: The node's folder; None to look at the machine only.
    """
    found = list(machine_findings())
    if folder is not None:
        found += node_findings(folder.expanduser().absolute())
    return found


def node_findings(folder: Path) -> Iterator[Finding]:
    """Look at the node in ``folder``."""
    if not (folder / STORE_FILE).is_file():
        yield problem("folder", f"{folder} is not a node.", f"Make one: fedplug node init {folder}")
        return
    yield from guarded("folder", _folder(folder))
    yield from guarded("disk", disk_findings(folder, "the node"))
    yield from guarded("process", _process(folder))
    policy, found = _rules(folder)
    yield from found
    yield from guarded("store", _store(folder, policy))


def _folder(folder: Path) -> Iterator[Finding]:
    status = folder.stat()
    if os.geteuid() not in (0, status.st_uid):
        yield problem(
            "folder", f"{folder} belongs to {folder.owner()}, and not to the user of this command.",
            f"Run it as that user: sudo -u {folder.owner()} ...",
        )  # fmt: skip
        return
    others = status.st_mode & 0o077
    if others:
        yield problem("folder", f"Others may look into {folder}.", f"chmod 700 '{folder}'")
    for path in sorted(folder.iterdir()):
        if _SECRET.match(path.name) and path.stat().st_mode & 0o077:
            what = problem if others else warning
            yield what("folder", f"Others may read {path.name} if they get into its folder.", f"chmod 600 '{path}'")
    if not others:
        yield ok("folder", f"{folder}, which only its owner may look into")


def _process(folder: Path) -> Iterator[Finding]:
    if is_locked(folder):
        yield ok("process", f"The node is running (process {locked_by(folder) or 'unknown'}).")
        return
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if msgspec.json.decode((folder / STATUS_FILE).read_bytes(), type=NodeStatus).running:
            yield warning(
                "process", "The node is not running, and did not end in order: it crashed, or was killed.",
                f"See its last messages: {node_command(folder, 'logs')}",
            )  # fmt: skip
            return
    yield ok("process", "The node is not running.")


def _rules(folder: Path) -> tuple[Policy, list[Finding]]:
    file = folder / POLICY_FILE
    if not file.exists():
        text = f"There is no {POLICY_FILE}: the defaults are in force, and training plans need approval."
        return Policy(), [warning("rules", text, f"See them: {node_command(folder, 'check')}")]
    try:
        policy, problems = parse_policy(read_text(file), file)
    except FedplugError as error:
        return Policy(), [problem("rules", error.message, error.cure)]
    if problems:
        cure = f"Correct {file}; it is read again by itself."
        return Policy(), [problem("rules", str(each), cure) for each in problems]
    found = [ok("rules", f"{POLICY_FILE} can be used")]
    if policy.approval.mode == "off":
        found.append(warning("approval", "Every training plan runs, approved or not.", 'Set mode = "on" in node.toml.'))
    else:
        found.append(ok("approval", "Training plans run only after they were approved."))
    return policy, found


def _store(folder: Path, policy: Policy) -> Iterator[Finding]:
    before = _version(folder / STORE_FILE)
    if before is not None and before < len(MIGRATIONS):
        yield warning(
            "store", f"It has version {before}. It is upgraded to {len(MIGRATIONS)} by the next command that opens it.",
            f"Nothing to do, as a copy is made then. To upgrade it now: {node_command(folder, 'status')}",
        )  # fmt: skip
        return
    with NodeStore.open(folder) as store:
        yield ok("store", f"version {store.version}, and whole")
        yield from guarded("audit log", _audit(store, folder))
        yield from guarded("journal", _journal(folder))
        yield from guarded("keys", _keys(store, folder))
        yield from guarded("data sets", _datasets(store, folder, policy))
        yield from guarded("researcher", _researchers(store.identity.researchers))


def _version(store: Path) -> int | None:
    """The version of a store of ours, without changing anything; None if it cannot be told."""
    try:
        with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as db:
            if db.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                return None
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return None


def _audit(store: NodeStore, folder: Path) -> Iterator[Finding]:
    log = AuditLog(store)
    verdict = log.verify()
    if not verdict.ok:
        yield problem(
            "audit log", verdict.problem,
            f"Somebody has worked around the node. Keep the folder as it is, and a copy of it; then look with: "
            f"{node_command(folder, 'audit', 'verify')}",
        )  # fmt: skip
    else:
        yield ok("audit log", f"{verdict.count:,} entries, all as they were written")
    last = log.entries(limit=1)
    now = datetime.now(UTC)
    if last and datetime.fromisoformat(last[0].time) > now + _CLOCK_ERROR:
        yield problem(
            "clock", f"The clock says {now:%Y-%m-%d %H:%M} UTC, but the audit log goes on until {last[0].time[:16]}.",
            "Set the clock, e.g. timedatectl set-ntp true.",
        )  # fmt: skip
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def _journal(folder: Path) -> Iterator[Finding]:
    if is_locked(folder):
        yield ok("journal", "It was whole when the node was started.")
    elif (folder / JOURNAL_FILE).exists():
        with Journal[Record](folder / JOURNAL_FILE, Record) as journal:
            yield ok("journal", f"{sum(1 for _ in journal.entries()):,} records, all as they were written")


def _keys(store: NodeStore, folder: Path) -> Iterator[Finding]:
    keys = NodeKeys(folder)
    pair, trusted = keys.own.pair(), keys.researchers.entries()
    if pair is not None:
        yield ok(
            "keys", f"The node's own have the fingerprint {fingerprint(pair.public)}; only its owner can read them."
        )
    elif trusted:
        yield problem("keys", "This node has no keys of its own.", f"Make them: {keys_command(folder, 'new')}")
    else:
        yield ok("keys", "This node has no keys of its own yet. They are made when it first trusts a researcher's.")
    for url in store.identity.researchers:
        if not trusted:
            try:
                open_transport(url, default_host()).check(url, TransportOptions())
            except AddressError as error:
                yield warning("keys", error.message, error.cure)
            else:
                yield ok("keys", f"No key is trusted at {url}: traffic is not encrypted, and stays on this machine.")
        elif not keys.trusted(url):
            yield problem(
                "keys", f"No key is trusted at {url}, and some are elsewhere: the node does not start.",
                f"Trust one: {node_command(folder, 'trust', 'KEY', '--researcher', url)}, or leave that researcher: "
                f"{node_command(folder, 'untrust', url)}",
            )  # fmt: skip
        else:
            prints = " or ".join(fingerprint(key) for key in keys.trusted(url))
            yield ok("keys", f"The researcher at {url} must have the key {prints}.")


def _datasets(store: NodeStore, folder: Path, policy: Policy) -> Iterator[Finding]:
    records = store.datasets()
    if not records:
        add = node_command(folder, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD")
        yield warning("data sets", "There is none, so no researcher finds anything here.", f"Add one: {add}")
    for record in records:
        try:
            check_unchanged(record, policy)
        except FedplugError as error:
            yield problem("data sets", error.message, error.cure)
        else:
            yield ok("data sets", f"{record.name!r} is as it was registered")
    for note in remarks(policy, records) if policy.file else ():
        yield warning("rules", note, f"Look at the rules: {node_command(folder, 'check')}")


def _researchers(urls: Sequence[str]) -> Iterator[Finding]:
    for url in urls:
        try:
            open_transport(url, default_host())
        except FedplugError as error:
            yield problem("researcher", error.message, error.cure)
            continue
        parts = urlsplit(url)
        try:
            place = (parts.hostname or "", parts.port or 0)
        except ValueError:
            place = ("", 0)
        if not all(place):
            yield ok("researcher", f"{url} (not tried)")
            continue
        try:
            socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            yield warning(
                "researcher", f"{url} cannot be reached now: {error.strerror or error}.",
                "Nothing to do if the researcher is away. Else ask for the address, and let it through the firewall.",
            )  # fmt: skip
        else:
            yield ok("researcher", f"{url} can be reached")
