"""The audit log: entries by filters, page by page; whether it is whole; and an export."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from starlette.responses import Response

from fedplug.core.errors import UnknownNameError
from fedplug.node.audit.entry import EVENTS, Verdict
from fedplug.node.audit.export import export_entries
from fedplug.node.web.site import Handler, Visit

_ON_A_PAGE = 50
_ACTORS = ("node", "owner", "web", "researcher")
_KINDS: dict[str, tuple[Literal["jsonl", "csv"], str]] = {
    "jsonl": ("jsonl", "application/jsonl"),
    "csv": ("csv", "text/csv; charset=utf-8"),
}


def show(visit: Visit) -> Response:
    """A page of entries, the newest first."""
    return _page(visit)


def verify(visit: Visit) -> Response:
    """Look whether the log is whole."""
    head = visit.form.text("head").strip()
    return _page(visit, verdict=visit.site.audit.verify(head), head=head)


def export(visit: Visit) -> Response:
    """The whole log as a file."""
    kind = visit.asked("format", "jsonl")
    if kind not in _KINDS:
        raise UnknownNameError("format", kind, _KINDS)
    word, media = _KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="fedplug-audit-") as folder:
        file = Path(folder) / "audit"
        export_entries(visit.site.audit.all(), file, word)
        data = file.read_bytes()
    name = f"audit-{visit.site.identity.node_id}.{kind}"
    return Response(data, media_type=media, headers={"content-disposition": f'attachment; filename="{name}"'})


def _page(visit: Visit, *, verdict: Verdict | None = None, head: str = "") -> Response:
    wanted = {name: visit.asked(name) for name in ("event", "dataset", "actor", "since", "until")}
    before = visit.asked("before")
    number = int(before) if before.isdecimal() and len(before) < 18 else None
    found = visit.site.audit.entries(
        since=wanted["since"],
        until=f"{wanted['until']}T24" if wanted["until"] else "",  # the whole of that day
        events=[wanted["event"]] if wanted["event"] in EVENTS else [],
        dataset=wanted["dataset"],
        actor=wanted["actor"],
        before=number,
        limit=_ON_A_PAGE + 1,
    )
    return visit.page(
        "audit.html",
        "audit",
        entries=found[:_ON_A_PAGE],
        older=found[_ON_A_PAGE - 1].number if len(found) > _ON_A_PAGE else None,
        newer=number is not None,
        wanted=wanted,
        filtered=any(wanted.values()),
        events=EVENTS,
        actors=_ACTORS,
        names=sorted(record.name for record in visit.store.datasets()),
        verdict=verdict,
        head=head,
    )


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/audit", show),
    ("POST", "/audit", verify),
    ("GET", "/audit/export", export),
)
