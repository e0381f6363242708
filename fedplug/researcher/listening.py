"""Where a researcher meets the nodes: an address, and the keys that are used there."""

from __future__ import annotations

from fedplug.core.plugins import PluginHost
from fedplug.core.transport import TransportOptions
from fedplug.protocol import ResearcherEndpoint
from fedplug.researcher.keys import ResearcherKeys
from fedplug.transports.registry import open_transport


def listen(
    url: str, host: PluginHost, options: TransportOptions, keys: ResearcherKeys | None = None
) -> ResearcherEndpoint:
    """Wait for nodes at an address.

    Args:
        url: E.g. ``"zmq://127.0.0.1:7400"``.
        host: Knows the transports that are installed.
        options: For the transport. Keys are added to them, unless they hold some, or allow traffic without.
        keys: The researcher's keys; by default those in ``$FEDPLUG_DIR``.

    Raises:
        AddressError: The address cannot be used, or not without keys.
        KeysError: The keys cannot be used.
    """
    transport = open_transport(url, host)
    return ResearcherEndpoint(transport, url, (keys or ResearcherKeys()).options(transport, url, options))
