"""What all pages share: the node behind them, one visit to one page, and the templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fedplug.core.errors import FedplugError, UnknownNameError
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.policy.file import read_policy
from fedplug.node.policy.schema import Policy
from fedplug.node.status import read_status
from fedplug.node.store import NodeIdentity, NodeStore
from fedplug.node.web import words
from fedplug.node.web.auth import Door, Session
from fedplug.node.web.forms import Form, read_form

ACTOR = "web"
"""Who did it, in the audit log."""

_PAGES = (
    ("overview", "/", "Overview"),
    ("datasets", "/data-sets", "Data sets"),
    ("plans", "/plans", "Training plans"),
    ("trainings", "/trainings", "Trainings"),
    ("audit", "/audit", "Audit"),
    ("settings", "/settings", "Settings"),
)


class Site:
    """The node of this page.

    Args:
        store: The node's store, which stays the caller's to close.
        door: Who may come in.
        cookie: Name of the cookie. Browsers keep one set of cookies for all ports of a machine, so that two pages
            at once need two names.
        closing: Whether the server is about to end; live parts end with it.
    """

    def __init__(
        self, store: NodeStore, door: Door, *, cookie: str = "fedplug", closing: Callable[[], bool] = lambda: False
    ) -> None:
        assert store.folder is not None
        self.store = store
        self.folder: Path = store.folder
        self.door = door
        self.cookie = cookie
        self.closing = closing
        self.identity: NodeIdentity = store.identity
        self.audit = AuditLog(store)
        self.templates = Environment(
            loader=PackageLoader("fedplug.node.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= words.FILTERS
        self.templates.globals |= {"pages": _PAGES, "node": self.identity, "link": link}

    def policy(self) -> Policy:
        """The rules, as they stand in the file now.

        Raises:
            UsageError: The file is wrong.
        """
        return read_policy(self.folder)

    def policy_or_default(self) -> Policy:
        """The rules; the defaults while the file is wrong. For pages that must be seen even so."""
        try:
            return self.policy()
        except FedplugError:
            return Policy()

    def approvals(self) -> Approvals:
        """The owner's decisions about training plans."""
        return Approvals(self.store, self.policy_or_default())

    def render(self, template: str, **facts: Any) -> Markup:
        """A template as HTML, in which every fact is escaped."""
        return Markup(self.templates.get_template(template).render(**facts))  # noqa: S704 - autoescape is on

    def state_part(self) -> Markup:
        """A word on what the node does, for the top of every page."""
        return self.render("part_state.html", now=read_status(self.folder))

    def waiting_part(self) -> Markup:
        """How many plans wait for the owner, for the menu."""
        return self.render("part_waiting.html", number=len(self.approvals().pending()))


@dataclass
class Visit:
    """One request of somebody who is logged in.

    Attributes:
        request: The request.
        site: The node.
        session: Whose request it is.
        form: The fields, if it carries a form.
    """

    request: Request
    site: Site
    session: Session
    form: Form = field(default_factory=Form)

    @property
    def store(self) -> NodeStore:
        """The node's store."""
        return self.site.store

    def asked(self, name: str, default: str = "") -> str:
        """A value behind the question mark of the address."""
        return self.request.query_params.get(name, default)

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def page(self, template: str, here: str, *, status: int = 200, **facts: Any) -> Response:
        """A page.

        Args:
            template: Its template.
            here: Which entry of the menu it belongs to.
            status: The status of the answer.
            **facts: What the template shows.
        """
        text = self.site.render(
            template,
            here=here,
            csrf=self.session.csrf,
            told=self.session.take_notes(),
            state_part=self.site.state_part(),
            waiting_part=self.site.waiting_part(),
            **facts,
        )
        return HTMLResponse(text, status_code=status)

    def go(self, path: str, note: str = "", *, more: tuple[str, ...] = ()) -> Response:
        """Lead to another page after something was done.

        Args:
            path: Its path.
            note: What was done; the page begins with it.
            more: Further notes.
        """
        self.session.notes.extend(("done", text) for text in (note, *more) if text)
        return RedirectResponse(path, status_code=303)


Handler = Callable[[Visit], Response]


def guarded(site: Site, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Let only those in who are logged in, and only forms that their own page has sent.

    Every page but the log-in is made by this function. The handler runs in a thread, since it may read files.
    """

    async def endpoint(request: Request) -> Response:
        session = site.door.session(request.cookies.get(site.cookie, ""))
        if session is None:
            if request.method in {"GET", "HEAD"}:
                return RedirectResponse("/login", status_code=303)
            return _error(site, 403, "You are not logged in (any more). Nothing was done.")
        visit = Visit(request, site, session)
        if request.method not in {"GET", "HEAD"}:
            try:
                visit.form = await read_form(request)
            except FedplugError as error:
                return _error(site, 400, error.message, error.cure)
            if not session.owns(visit.form.text("csrf")):
                return _error(
                    site, 403, "This form does not belong to your session. Nothing was done.",
                    "Go back, load the page again, and send the form from there.",
                )  # fmt: skip
        try:
            return await run_in_threadpool(handler, visit)
        except UnknownNameError as error:
            return _error(site, 404, error.message, error.cure)
        except FedplugError as error:
            return _error(site, 400, error.message, error.cure)

    return endpoint


async def on_http_error(request: Request, error: Exception) -> Response:
    """Say what is wrong with an address or a method."""
    assert isinstance(error, HTTPException)
    site: Site = request.app.state.site
    if error.status_code == 404:
        return _error(site, 404, "There is no such page.", "Use the menu.")
    return _error(site, error.status_code, f"{error.detail}.")


async def on_bug(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette calls it with both
    """Say that something of ours went wrong; the terminal shows what."""
    site: Site = request.app.state.site
    return _error(site, 500, "This should not happen.", "The terminal of this page shows the cause; please report it.")


def link(place: str, /, **asked: object) -> str:
    """A path with values behind a question mark; empty ones are left out."""
    query = urlencode({name: str(value) for name, value in asked.items() if value not in {None, ""}})
    return f"{place}?{query}" if query else place


def _error(site: Site, status: int, message: str, cure: str = "") -> Response:
    return HTMLResponse(site.render("error.html", message=message, cure=cure), status_code=status)
