"""``zmq://host:port``: what may be written there, and what is safe."""

from __future__ import annotations

import ipaddress
import re

from fedplug.core.errors import AddressError
from fedplug.core.transport import TransportOptions

_URL = re.compile(r"(?:zmq|tcp)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.*_-]+):(\d{1,5})/?", re.IGNORECASE)


def parse(url: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        AddressError: It is malformed.
    """
    found = _URL.fullmatch(url)
    if not found or int(found.group(2)) > 65_535:
        raise AddressError(f"{url!r} is no zmq address.", cure="Write zmq://host:port, e.g. zmq://127.0.0.1:7400.")
    return found.group(1), int(found.group(2))


def is_loopback(host: str) -> bool:
    """Whether traffic to ``host`` stays on this machine, as far as can be told without asking anybody."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_safe(host: str, url: str, options: TransportOptions, *, listens: bool) -> None:
    """Refuse to send anything unencrypted beyond this machine.

    Args:
        host: The host in the address.
        url: The address.
        options: Have keys, or allow plain traffic, or neither.
        listens: Whether a researcher is to listen there, and not a node to connect.

    Raises:
        AddressError: The host is not this machine, there are no keys, and plain traffic was not allowed.
    """
    if options.keys is not None or is_loopback(host) or options.insecure_plaintext:
        return
    keys = (
        "Make keys: fedplug researcher init"
        if listens
        else "Ask the researcher for their public key, which 'fedplug researcher init' has made, and type: "
        "fedplug node trust KEY"
    )
    raise AddressError(
        f"{url} is not on this machine, and without keys traffic is not encrypted: everybody on the way could read and "
        "change models and updates.",
        cure=f"{keys}\nOr, in a network where nobody else can listen, accept the risk with --insecure-plaintext (in a "
        "script: TransportOptions(insecure_plaintext=True)).",
    )


def endpoint(host: str, port: int, *, bind: bool) -> str:
    """The address as ZeroMQ wants it."""
    # ZeroMQ does not look names up when it binds.
    name = "127.0.0.1" if host.lower() == "localhost" else host
    return f"tcp://{name}:{'*' if bind and port == 0 else port}"
