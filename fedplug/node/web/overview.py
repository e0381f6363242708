"""The overview: what the node does, and what waits for its owner."""

from __future__ import annotations

from markupsafe import Markup
from starlette.responses import Response

from fedplug.node.status import read_status
from fedplug.node.web import plans, trainings
from fedplug.node.web.site import Handler, Site, Visit


def show(visit: Visit) -> Response:
    """The page."""
    site = visit.site
    return visit.page(
        "overview.html",
        "overview",
        now_part=trainings.now_part(site),
        pending_part=plans.pending_part(site),
        figures_part=figures_part(site),
        links_part=links_part(site),
        recent_part=trainings.recent_part(site),
    )


def figures_part(site: Site) -> Markup:
    """How much there is."""
    return site.render("part_figures.html", datasets=len(site.store.datasets()), plans=site.approvals().count())


def links_part(site: Site) -> Markup:
    """The ways to the researchers."""
    return site.render("part_links.html", now=read_status(site.folder), urls=site.store.identity.researchers)


ROUTES: tuple[tuple[str, str, Handler], ...] = (("GET", "/", show),)
