"""The pages of a node, joined to one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fedplug.node.web import audit, datasets, entrance, live, overview, plans, settings, trainings
from fedplug.node.web.shield import Shield
from fedplug.node.web.site import Handler, Site, guarded, on_bug, on_http_error

_PAGES: tuple[tuple[str, str, Handler], ...] = (
    *overview.ROUTES,
    *datasets.ROUTES,
    *plans.ROUTES,
    *trainings.ROUTES,
    *audit.ROUTES,
    *settings.ROUTES,
)


def make_routes(site: Site) -> list[BaseRoute]:
    """All addresses. Every one but the log-in and the static files needs a session, and every form its token.

    Args:
        site: The node.
    """
    return [
        Mount("/static", StaticFiles(packages=[("fedplug.node.web", "static")])),
        Route("/login", entrance.show, methods=["GET"]),
        Route("/login", entrance.enter, methods=["POST"]),
        Route("/logout", guarded(site, entrance.leave), methods=["POST"]),
        Route("/live", live.endpoint, methods=["GET"]),
        *(Route(path, guarded(site, handler), methods=[method]) for method, path, handler in _PAGES),
    ]


def make_app(site: Site) -> ASGIApp:
    """The application that serves the pages of a node.

    Args:
        site: The node.
    """
    app = Starlette(routes=make_routes(site), exception_handlers={HTTPException: on_http_error, Exception: on_bug})
    app.state.site = site
    return Shield(app)  # around all, so that its headers are on answers to bugs too
