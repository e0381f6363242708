"""Training plans."""

from __future__ import annotations

from markupsafe import Markup

from fedplug.node.web.site import Handler, Site


def pending_part(site: Site) -> Markup:
    """The plans that wait for a decision."""
    return site.render("part_pending.html", plans=site.pending())


ROUTES: tuple[tuple[str, str, Handler], ...] = ()
