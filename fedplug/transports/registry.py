"""Which transport serves an address: the one that is registered under its scheme."""

from __future__ import annotations

import re

from fedplug.core.errors import AddressError, PluginError, UnknownNameError
from fedplug.core.plugins import PluginHost, default_host
from fedplug.core.transport import Transport, TransportOptions

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)", re.DOTALL)


def scheme_of(url: str) -> str:
    """The part of an address before ``://``, in lower case.

    Raises:
        AddressError: There is none.
    """
    found = _URL.fullmatch(url)
    if not found:
        raise AddressError(
            f"{url!r} is not an address.", cure="Write scheme://place, e.g. zmq://127.0.0.1:7400 or inproc://here."
        )
    return found.group(1).lower()


def open_transport(url: str, host: PluginHost) -> Transport:
    """The transport for an address. It opens nothing yet: call its ``listen`` or ``connect``.

    Args:
        url: E.g. ``"zmq://127.0.0.1:7400"``.
        host: Knows the transports that are installed.

    Raises:
        AddressError: The address has no scheme, or no transport is registered under it.
        PluginError: What is registered is not a transport.
    """
    scheme = scheme_of(url)
    try:
        found = host.component("transport", scheme)
    except UnknownNameError as error:
        known = ", ".join(f"{name}://" for name in error.known) or "none"
        hint = "" if "fedplug[zmq]" in error.cure else " zmq:// comes with: pip install 'fedplug[zmq]'."
        raise AddressError(
            f"There is no transport for {scheme}:// addresses ({url}). Known: {known}.", cure=error.cure + hint
        ) from None
    transport = found() if isinstance(found, type) else found
    if not isinstance(transport, Transport):
        raise PluginError(
            f"The transport that is registered for {scheme}:// is a {type(transport).__name__}, not a Transport.",
            cure="It must derive from fedplug.core.transport.Transport.",
        )
    return transport


def check_address(url: str) -> None:
    """Refuse an address that a node could not connect to, whether a researcher is there or not.

    Whether it is safe to talk there without keys is seen when the node connects.

    Args:
        url: E.g. ``"zmq://127.0.0.1:7400"``.

    Raises:
        AddressError: It is malformed, or nothing serves its scheme.
    """
    open_transport(url, default_host()).check(url, TransportOptions(insecure_plaintext=True))
