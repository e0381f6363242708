"""Training plans: read them, see what has changed, and decide which may run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from markupsafe import Markup
from starlette.responses import Response

from fedplug.core.errors import FedplugError, UsageError
from fedplug.core.line_ends import as_python_reads
from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.records import PlanRecord
from fedplug.node.approval.review import ADVICE, review
from fedplug.node.approval.scan import Finding
from fedplug.node.web.forms import Form, beside
from fedplug.node.web.highlight import Row, code_rows, diff_rows
from fedplug.node.web.site import ACTOR, Handler, Site, Visit

_FIELD_OF = ((r"\bdate\b|is past", "until"), (r"\bnote\b", "note"), (r"data set", "dataset"))
"""Beside which field of the form a problem is shown, by what it is about."""


def list_(visit: Visit) -> Response:
    """All plans, those that wait first."""
    site = visit.site
    return visit.page(
        "plans.html", "plans", pending_part=pending_part(site), plans_part=plans_part(site),
        mode=site.policy_or_default().approval.mode,
    )  # fmt: skip


def pending_part(site: Site) -> Markup:
    """The plans that wait for a decision."""
    return site.render("part_pending.html", plans=site.approvals().pending())


def plans_part(site: Site) -> Markup:
    """All plans, the newest first."""
    approvals = site.approvals()
    rows = [(record, approvals.statuses(record)) for record in reversed(approvals.plans())]
    return site.render("part_plans.html", rows=rows)


def show(visit: Visit) -> Response:
    """One plan, as a whole or as what has changed."""
    return _page(visit, visit.site.approvals().plan(visit.part("plan")))


def decide(visit: Visit) -> Response:
    """Approve or reject a plan."""
    approvals, form = visit.site.approvals(), visit.form
    record = approvals.plan(visit.part("plan"))
    choices = {"dataset": form.text("dataset"), "note": form.text("note"), "by": ACTOR}
    try:
        match form.text("decision"):
            case "approve":
                decision = approvals.approve(record.hash, until=form.text("until"), **choices)
            case "reject":
                decision = approvals.reject(record.hash, **choices)
            case other:
                raise UsageError(f"There is no decision {other!r}.", cure="Approve the plan, or reject it.")
    except FedplugError as error:
        return _page(visit, record, refused=error)
    where = f"for data set {decision.dataset!r}" if decision.dataset else "for all data sets"
    until = f", until {decision.expires[:10]}" if decision.expires else ""
    return visit.go(f"/plans/{record.hash}", f"{record.class_name} is {decision.status} {where}{until}.")


def withdraw(visit: Visit) -> Response:
    """Take the decisions about a plan back."""
    approvals = visit.site.approvals()
    record = approvals.plan(visit.part("plan"))
    approvals.withdraw(record.hash, by=ACTOR)
    return visit.go(f"/plans/{record.hash}", f"{record.class_name} waits for a decision again.")


def _page(visit: Visit, record: PlanRecord, *, refused: FedplugError | None = None) -> Response:
    approvals = visit.site.approvals()
    earlier = approvals.approved_before(record)
    found = review(record.bundle, earlier.bundle if earlier else None)
    view = "changes" if earlier and visit.asked("view", "changes") == "changes" else "text"
    rows: list[Row] = []
    problem = None
    try:
        rows = diff_rows(earlier.bundle.text, record.bundle.text) if earlier and view == "changes" else []
    except FedplugError as error:
        problem, view = error, "text"
    if view == "text":
        rows = code_rows(record.bundle.text)
    marks = [(finding, line_of(record.bundle, finding)) for finding in found.findings]
    return visit.page(
        "plan.html",
        "plans",
        status=400 if refused else 200,
        plan=record,
        statuses=approvals.statuses(record),
        standings=_standings(visit, record),
        earlier=earlier,
        view=view,
        rows=rows,
        marked={line for finding, line in marks if finding.remark},
        problem=problem,
        imports=list(dict.fromkeys(finding.name for finding in found.imports)),
        remarks=[(finding, line) for finding, line in marks if finding.remark],
        advice=ADVICE,
        datasets=visit.store.datasets(),
        today=datetime.now(UTC).date().isoformat(),
        form=visit.form if refused else Form(),
        refused=refused,
        wrong=beside(refused, _FIELD_OF),
    )


def _standings(visit: Visit, record: PlanRecord) -> Iterator[tuple[str, str]]:
    """For each data set, whether the plan may run on it now."""
    approvals = visit.site.approvals()
    for dataset in visit.store.datasets():
        yield dataset.name, approvals.standing(record.hash, dataset.name).status


def line_of(bundle: PlanBundle, finding: Finding) -> int:
    """The line of `PlanBundle.text` on which a finding stands; in a helper module, its lines are counted anew."""
    if not finding.module:
        return finding.line
    title = f"# helper module {finding.module}\n\n"
    before = bundle.code
    for name, text in sorted(bundle.helpers.items()):
        before += f"\n\n# helper module {name}\n\n"
        if name == finding.module:
            break
        before += text
    assert before.endswith(title)
    return as_python_reads(before).count("\n") + finding.line


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/plans", list_),
    ("GET", "/plans/{plan}", show),
    ("POST", "/plans/{plan}/decide", decide),
    ("POST", "/plans/{plan}/withdraw", withdraw),
)
