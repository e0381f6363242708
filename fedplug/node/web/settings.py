"""Settings: the rules in ``node.toml``, what they have led to, keys, and whether this system is well."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from starlette.responses import Response

from fedplug.core.errors import FedplugError
from fedplug.node.policy.budget import Budget
from fedplug.node.policy.file import POLICY_FILE, check_text, parse_policy, read_text, save_policy
from fedplug.node.policy.remarks import remarks
from fedplug.node.policy.template import policy_text
from fedplug.node.service.doctor import examine
from fedplug.node.service.findings import Finding
from fedplug.node.status import read_status
from fedplug.node.web import keys
from fedplug.node.web.forms import check_mark, mark_of
from fedplug.node.web.keys import keys_part
from fedplug.node.web.site import ACTOR, Handler, Site, Visit

_STATES = ("problem", "warning", "ok")


def show(visit: Visit) -> Response:
    """The rules as they stand."""
    text, problem = _stands(visit)
    return _page(visit, text, problem=problem)


def save(visit: Visit) -> Response:
    """Check the text, and make it the rules if that is what was asked for."""
    text = visit.form.text("text")
    if visit.form.text("action") == "check" or check_text(text):
        return _page(visit, text, checked=True)
    try:
        before, _ = _stands(visit)
        check_mark(visit.form, before, POLICY_FILE, page="Settings")
        save_policy(visit.site.folder, text)
    except FedplugError as error:
        return _page(visit, text, problem=error)
    visit.site.audit.note("rules-changed", actor=ACTOR, before=mark_of(before), after=mark_of(text))
    return visit.go(
        "/settings", "The rules are saved. A running node takes them over for the next training, except those under "
        "[resources], for which it is restarted.",
    )  # fmt: skip


def look(visit: Visit) -> Response:
    """Look at this machine and at the node, as ``fedplug doctor`` does."""
    text, problem = _stands(visit)
    findings = sorted(examine(visit.site.folder), key=lambda each: _STATES.index(each.state))
    return _page(visit, text, problem=problem, findings=findings)


def _page(
    visit: Visit,
    text: str,
    *,
    problem: FedplugError | None = None,
    checked: bool = False,
    findings: Sequence[Finding] | None = None,
) -> Response:
    file = visit.site.folder / POLICY_FILE
    policy, problems = parse_policy(text, file)
    return visit.page(
        "settings.html",
        "settings",
        status=400 if problem or (problems and checked) else 200,
        file=file,
        text=text,
        mark=visit.form.text("mark") or mark_of(text),
        problems=problems,
        problem=problem,
        checked=checked,
        remarks=[] if problems else remarks(policy, visit.store.datasets()),
        accounts=Budget(visit.store, visit.site.policy_or_default()).report(),
        keys_part=keys_part(visit),
        isolation_part=isolation_part(visit.site),
        findings=findings,
    )


def isolation_part(site: Site) -> Markup:
    """How far trainings are shut in, as the node has found out when it was started."""
    now = read_status(site.folder)
    return site.render("part_isolation.html", layers=now.isolation if now.running else (), running=now.running)


def _stands(visit: Visit) -> tuple[str, FedplugError | None]:
    """The text that stands in the file; a new node's if there is none."""
    file = visit.site.folder / POLICY_FILE
    if not file.exists():
        return policy_text(), None
    try:
        return read_text(file), None
    except FedplugError as error:
        return "", error


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/settings", show),
    ("POST", "/settings", save),
    ("POST", "/settings/look", look),
    *keys.ROUTES,
)
