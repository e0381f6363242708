"""Serving the page on this machine, and the links that the terminal shows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import uvicorn

from fedplug.core.errors import AddressError, UsageError
from fedplug.node.store import NodeStore
from fedplug.node.web.app import make_app
from fedplug.node.web.auth import Door
from fedplug.node.web.site import Site

HOSTS = ("127.0.0.1", "::1", "localhost")
"""Where the page may be served."""

_SAMPLE_PORT = 8800


def serve(
    store: NodeStore, *, host: str = "127.0.0.1", port: int = 0, browse: bool = False, say: Callable[[str], None]
) -> None:
    """Serve the page of a node until Ctrl-C or SIGTERM.

    Args:
        store: The node's store, which stays the caller's to close.
        host: One of `HOSTS`.
        port: Port to listen on; 0 for a free one.
        browse: Whether to open the page in a browser.
        say: Shows a line to the person at the terminal.

    Raises:
        UsageError: The host is not this machine alone.
        AddressError: The port cannot be used.
    """
    with contextlib.closing(listen(host, port)) as listener:
        name, number = listener.getsockname()[:2]
        address = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"
        asyncio.run(_serve(store, listener, address, number, browse=browse, say=say))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens to this machine only.

    Raises:
        UsageError: The host is not this machine alone.
        AddressError: The port cannot be used.
    """
    if host not in HOSTS:
        raise UsageError(
            f"The page is served to this machine only, not on {host!r}.",
            cure="To see it from another machine, let SSH carry it. On the node's machine: "
            f"fedplug node ui --port {port or _SAMPLE_PORT}\n"
            f"On yours: ssh -N -L {port or _SAMPLE_PORT}:127.0.0.1:{port or _SAMPLE_PORT} YOU@THIS-MACHINE\n"
            "Then open the link that fedplug node ui has printed.",
        )
    place = "127.0.0.1" if host == "localhost" else host
    listener = socket.socket(socket.AF_INET6 if ":" in place else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place, port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise AddressError(
            f"The page cannot be served on {place}, port {port}: {reason}.",
            cure="Choose another --port, or leave it out: a free one is found.",
        ) from None
    return listener


async def _serve(
    store: NodeStore, listener: socket.socket, address: str, port: int, *, browse: bool, say: Callable[[str], None]
) -> None:
    door = Door()
    site = Site(store, door, cookie=f"fedplug-{port}", closing=lambda: server.should_exit)
    config = uvicorn.Config(
        make_app(site),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,  # the lines would hold the one-time tokens
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    with _signals(server):
        await _attend(server, listener, address, door, site, browse=browse, say=say)
    say("The page has ended.")


async def _attend(
    server: uvicorn.Server,
    listener: socket.socket,
    address: str,
    door: Door,
    site: Site,
    *,
    browse: bool,
    say: Callable[[str], None],
) -> None:
    """Show a link, and serve until the server is told to end."""

    def new_link() -> str:
        return f"{address}/login?{urlencode({'token': door.new_link()})}"

    def show_link() -> None:
        say(f"Log in, within 5 minutes and once: {new_link()}")

    say(f"The page of node {site.identity.name!r} is served on {address}, to this machine only.")
    show_link()
    say("Enter shows a new link. Ctrl-C ends the page; the node goes on." if sys.stdin.isatty() else "Ctrl-C ends it.")
    with _on_enter(show_link), _opened(new_link, wanted=browse):
        await server.serve([listener])


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the server, and nothing else.

    uvicorn has handlers of its own, but only while it serves: a signal may come before, and it raises those that it has
    had once more when it is done.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _on_enter(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` for each line that is typed. Without a terminal or a pipe nothing is ever typed."""
    loop = asyncio.get_running_loop()
    try:
        typed = sys.stdin.fileno()
    except (OSError, ValueError):
        yield
        return

    def read() -> None:
        data = os.read(typed, 4096)
        if not data:
            loop.remove_reader(typed)
        for _ in range(min(data.count(b"\n"), 1)):
            action()

    try:
        loop.add_reader(typed, read)
    except (OSError, NotImplementedError):  # a file or /dev/null, which cannot be waited for
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(typed)


@contextlib.contextmanager
def _opened(new_link: Callable[[], str], *, wanted: bool) -> Iterator[None]:
    """Open a link in a browser.

    The command line of a browser is seen by all users of a machine, so it is given a file that only this one may
    read, and the file leads to the link.
    """
    if not wanted:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fedplug-ui-") as folder:
        page = Path(folder) / "open.html"
        page.touch(mode=0o600)
        target = escape(new_link(), quote=True)
        page.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>FedPlug</title>'
            f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on</a></html>',
            encoding="utf-8",
        )
        # A browser that runs in the terminal would take it away from us, and one may take seconds to start.
        asyncio.get_running_loop().run_in_executor(None, webbrowser.open, page.as_uri())
        yield
