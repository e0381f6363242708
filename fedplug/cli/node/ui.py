"""``fedplug node ui``: the page for the owner of a node."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from fedplug.cli.node.common import open_store
from fedplug.cli.output import say

_NEEDED = ("jinja2", "pygments", "starlette", "uvicorn")


def ui(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="127.0.0.1 or ::1: the page is for this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 0,
    browse: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open it in a browser; by default where there is a screen.")
    ] = None,
) -> None:
    """Serve a page for data sets, training plans, trainings, audit and settings, until Ctrl-C.

    Nobody else can reach it: it is served to this machine only, and needs the link that this command prints.
    It works whether the node runs or not.

    \b
    Examples:
      fedplug node ui
      fedplug node ui --port 8800 --no-open
    """  # noqa: D301
    from fedplug.core.errors import UsageError

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"The page needs packages that are not installed: {', '.join(missing)}.",
            cure='Install them with: pip install "fedplug[ui]"',
        )
    from fedplug.node.web.server import serve

    with open_store(ctx) as store:
        serve(store, host=host, port=port, browse=_has_screen() if browse is None else browse, say=_say)


def _say(line: str) -> None:
    """Print a line at once, for a program that waits for the link at the other end of a pipe."""
    import sys

    say(line)
    sys.stdout.flush()


def _has_screen() -> bool:
    """Whether a person sits at this machine: a terminal that did not come through SSH, and a desktop."""
    import os
    import sys

    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
