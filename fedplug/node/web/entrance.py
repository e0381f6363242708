"""Logging in and out."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fedplug.core.errors import FedplugError
from fedplug.node.web.auth import SESSION_SECONDS
from fedplug.node.web.forms import Form, read_form
from fedplug.node.web.site import ACTOR, Site, Visit


async def show(request: Request) -> Response:
    """The page behind the link.

    Only its button uses the link up: mail scanners, previews and browsers that look ahead follow links too.
    """
    site: Site = request.app.state.site
    if site.door.session(request.cookies.get(site.cookie, "")) is not None:
        return RedirectResponse("/", status_code=303)
    return HTMLResponse(site.render("login.html", token=request.query_params.get("token", ""), problem=""))


async def enter(request: Request) -> Response:
    """Use the link up, and set the cookie.

    The form needs no token of a session: there is none yet, and the one-time token is known to the owner only.
    """
    site: Site = request.app.state.site
    try:
        form = await read_form(request)
    except FedplugError:
        form = Form()
    key = site.door.open(form.text("token"))
    if key is None:
        problem = "This link has been used already, or is too old."
        return HTMLResponse(site.render("login.html", token="", problem=problem), status_code=403)
    # Written down before anything is shown: an owner can see that a link was used by somebody else.
    await run_in_threadpool(site.audit.note, "logged-in", actor=ACTOR)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        site.cookie, key, max_age=int(SESSION_SECONDS), path="/", httponly=True, samesite="strict"
    )  # no `secure`: the page is plain HTTP, and never leaves this machine
    return response


def leave(visit: Visit) -> Response:
    """Log out."""
    visit.site.door.close(visit.request.cookies.get(visit.site.cookie, ""))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(visit.site.cookie, path="/", httponly=True, samesite="strict")
    return response
