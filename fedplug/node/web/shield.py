"""What every request passes first: checks against other sites, and the headers of every answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
"""Largest form that is accepted, in bytes."""

_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With "no-referrer" browsers would not say where our own forms come from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Headers of every answer."""


class Shield:
    """Refuses requests that no page of ours has made, and sets `HEADERS`.

    A page on the internet can make a browser send requests to this machine. Three things tell them from ours: the
    name of the host (a name that an attacker pointed at 127.0.0.1 is not ours), where a form comes from, and, checked
    later, the token of the session.

    Args:
        app: What answers the requests that pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                # Pages show what only the owner may see; style sheet and script may be kept if asked for again.
                headers["cache-control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        headers = Headers(scope=scope)
        problem = host_problem(headers) or (origin_problem(headers) if scope["method"] not in {"GET", "HEAD"} else "")
        if problem:
            await PlainTextResponse(problem + "\n", status_code=403)(scope, receive, send_with_headers)
        elif _too_large(headers.getlist("content-length")):
            await PlainTextResponse("This is too large.\n", status_code=413)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def host_problem(headers: Headers) -> str:
    """Why a request does not name this machine; empty if it does. The port may be that of a tunnel."""
    hosts = headers.getlist("host")
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        return ""
    return "This page answers to 127.0.0.1, [::1] and localhost only. Use the link that the terminal shows."


def origin_problem(headers: Headers) -> str:
    """Why a form does not come from a page of ours; empty if it may."""
    site = headers.get("sec-fetch-site")
    if site not in {None, "same-origin"}:
        return "This form was sent by another site. Nothing was done."
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers.get('host', '')}".lower():
        return "This form was sent by another site. Nothing was done."
    return ""


def _too_large(lengths: Iterable[str]) -> bool:
    return any(not length.isdecimal() or int(length) > MAX_BODY for length in lengths)
