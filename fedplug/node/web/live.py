"""Parts of pages that follow what the node does, by server-sent events.

A part is a piece of a page that is made on the server, by the same template for the page and for its renewal. The
browser says which parts it shows; it gets each again when it has changed. Without JavaScript the parts stand still.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fedplug.node.status import NodeStatus, read_status
from fedplug.node.web import overview, plans, settings, trainings
from fedplug.node.web.site import Site

INTERVAL = 0.25
"""Seconds between two looks at the node."""

_RENEW = 10.0  # seconds after which all is made again: "3 min ago" grows old by itself
_KEEP_ALIVE = 15.0  # seconds after which a silent connection says that it is still there
_QUIET = 1.0  # seconds without a training after which the last one is told: short rounds would be a chatter
_MOST_PARTS = 20


class Part(NamedTuple):
    """A part of a page.

    Attributes:
        make: Makes it.
        store: Whether it shows what stands in the store, and not only what the node does now.
    """

    make: Callable[[Site], str]
    store: bool


PARTS: Mapping[str, Part] = {
    "state": Part(Site.state_part, store=False),
    "waiting": Part(Site.waiting_part, store=True),
    "now": Part(trainings.now_part, store=False),
    "figures": Part(overview.figures_part, store=True),
    "isolation": Part(settings.isolation_part, store=False),
    "links": Part(overview.links_part, store=False),
    "recent": Part(trainings.recent_part, store=True),
    "past": Part(trainings.past_part, store=True),
    "pending": Part(plans.pending_part, store=True),
    "plans": Part(plans.plans_part, store=True),
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
    herald = await run_in_threadpool(Herald, site)
    sent: dict[str, str] = {}
    last: Look | None = None
    made = spoke = time.monotonic()
    yield "retry: 1000\n\n"
    while not site.closing():
        if site.door.session(key, look=True) is None:
            yield _event("bye", {})
            return
        now = time.monotonic()
        look = await run_in_threadpool(_look, site)
        renew = last is None or now - made > _RENEW
        made = now if renew else made
        stale = renew or last is None or look.store != last.store
        wanted = [name for name in names if renew or (stale if PARTS[name].store else look != last)]
        last = look
        for name in wanted:
            html = await run_in_threadpool(PARTS[name].make, site)
            if sent.get(name) != html:
                sent[name], spoke = html, now
                yield _event("part", {"name": name, "html": html})
        for text in await run_in_threadpool(herald.news, look.node, stale):
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
        self._plans = {plan.hash for plan in site.approvals().pending()}
        status = read_status(site.folder)
        self._running = status.running
        self._experiment = status.task.experiment if status.task else ""
        self._idle_since = clock()

    def news(self, status: NodeStatus, stale: bool) -> list[str]:
        """What has happened since the last call.

        Args:
            status: What the node does.
            stale: Whether the store may have changed.
        """
        found = []
        pending = self._site.approvals().pending() if stale else []
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


class Look(NamedTuple):
    """What is compared to find out whether anything has changed.

    Attributes:
        store: Something that is another one whenever the store was written to.
        node: What the node does.
    """

    store: tuple[int, int]
    node: NodeStatus


def _look(site: Site) -> Look:
    (others,) = site.store.read("PRAGMA data_version")[0]  # counts what other connections write
    (own,) = site.store.read("SELECT total_changes()")[0]
    return Look((others, own), read_status(site.folder))


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
