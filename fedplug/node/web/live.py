"""Parts of pages that follow what the node does, by server-sent events.

A part is a piece of a page that is made on the server, by the same template for the page and for its renewal. The
browser says which parts it shows; it gets each again when it has changed. Without JavaScript the parts stand still.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fedplug.node.status import NodeStatus, read_status
from fedplug.node.web import overview, plans, trainings
from fedplug.node.web.site import Site

INTERVAL = 0.25
"""Seconds between two looks at the node."""

_RENEW = 10.0  # seconds after which all is made again: "3 min ago" grows old by itself
_KEEP_ALIVE = 15.0  # seconds after which a silent connection says that it is still there
_QUIET = 1.0  # seconds without a training after which the last one is told: short rounds would be a chatter
_MOST_PARTS = 20

PARTS: Mapping[str, Callable[[Site], str]] = {
    "state": Site.state_part,
    "waiting": Site.waiting_part,
    "figures": overview.figures_part,
    "now": trainings.now_part,
    "recent": trainings.recent_part,
    "pending": plans.pending_part,
}
"""The parts by the name that pages give them."""


async def endpoint(request: Request) -> Response:
    """The stream of events for one page."""
    site: Site = request.app.state.site
    if site.door.session(request.cookies.get(site.cookie, "")) is None:
        return PlainTextResponse("You are not logged in.\n", status_code=403)
    names = list(dict.fromkeys(request.query_params.getlist("part")))[:_MOST_PARTS]
    known = [name for name in names if name in PARTS]
    headers = {"x-accel-buffering": "no"}
    return StreamingResponse(_events(site, request, known), media_type="text/event-stream", headers=headers)


async def _events(site: Site, request: Request, names: list[str]) -> AsyncIterator[str]:
    key = request.cookies.get(site.cookie, "")
    herald = Herald(site)
    sent: dict[str, str] = {}
    mark: object = None
    made = spoke = time.monotonic()
    yield "retry: 1000\n\n"
    while not site.closing():
        if site.door.session(key, look=True) is None:
            yield _event("bye", {})
            return
        now = time.monotonic()
        seen, status = await run_in_threadpool(_look, site)
        if seen != mark or now - made > _RENEW:
            mark, made = seen, now
            parts = await run_in_threadpool(lambda: {name: PARTS[name](site) for name in names})
            for name, html in parts.items():
                if sent.get(name) != html:
                    sent[name] = html
                    spoke = now
                    yield _event("part", {"name": name, "html": html})
        for text in await run_in_threadpool(herald.news, status):
            spoke = now
            yield _event("say", {"text": text})
        if now - spoke > _KEEP_ALIVE:
            spoke = now
            yield ": still here\n\n"
        await asyncio.sleep(INTERVAL)


class Herald:
    """Finds what people who cannot see the page should be told: few words, and only what is new.

    Args:
        site: The node.
    """

    def __init__(self, site: Site, clock: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._clock = clock
        self._plans = {plan.hash for plan in site.pending()}
        status = read_status(site.folder)
        self._running = status.running
        self._experiment = status.task.experiment if status.task else ""
        self._idle_since = clock()

    def news(self, status: NodeStatus) -> list[str]:
        """What has happened since the last call."""
        found = []
        pending = self._site.pending()
        found += [
            f"The training plan {plan.class_name} waits for your decision."
            for plan in pending
            if plan.hash not in self._plans
        ]
        self._plans |= {plan.hash for plan in pending}
        if status.running != self._running:
            self._running = status.running
            found.append("The node is running." if status.running else "The node has stopped.")
        if status.task is not None:
            if status.task.experiment != self._experiment:
                found.append(f"A training of {status.task.plan} on data set {status.task.dataset} has begun.")
            self._experiment, self._idle_since = status.task.experiment, self._clock()
        elif self._experiment and self._clock() - self._idle_since > _QUIET:
            self._experiment = ""
            found.append(status.last)
        return found


def _look(site: Site) -> tuple[object, NodeStatus]:
    """Something that differs whenever the node has done something, and what it does."""
    status = read_status(site.folder)
    (version,) = site.store.read("PRAGMA data_version")[0]
    (own,) = site.store.read("SELECT total_changes()")[0]
    return (version, own, status), status


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
