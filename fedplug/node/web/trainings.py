"""Trainings: the one under way, and those of the past."""

from __future__ import annotations

from markupsafe import Markup
from starlette.responses import Response

from fedplug.node.commands import node_command
from fedplug.node.status import read_status
from fedplug.node.web.site import Handler, Site, Visit

_RECENT, _MANY = 5, 200


def show(visit: Visit) -> Response:
    """The page."""
    return visit.page("trainings.html", "trainings", now_part=now_part(visit.site), past_part=past_part(visit.site))


def now_part(site: Site) -> Markup:
    """The training under way, with its progress."""
    return site.render("part_now.html", now=read_status(site.folder), next=node_command(site.folder, "start"))


def recent_part(site: Site) -> Markup:
    """The last few trainings."""
    return _table(site, _RECENT)


def past_part(site: Site) -> Markup:
    """Many of the last trainings."""
    return _table(site, _MANY)


def _table(site: Site, limit: int) -> Markup:
    return site.render("part_trainings.html", trainings=site.audit.trainings(limit), most=limit)


ROUTES: tuple[tuple[str, str, Handler], ...] = (("GET", "/trainings", show),)
