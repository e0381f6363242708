"""``zmq://``: a ROUTER at the researcher, a DEALER at the node, two frames a message."""

from __future__ import annotations

from fedplug.core.errors import AddressError
from fedplug.core.keys import KeyPair
from fedplug.core.transport import Channel, Listener, Transport, TransportOptions
from fedplug_zmq.address import check_safe, parse
from fedplug_zmq.channel import ZmqChannel
from fedplug_zmq.curve import new_keys
from fedplug_zmq.listener import ZmqListener


class ZmqTransport(Transport):
    """``zmq://host:port``. Port 0 takes any free port when listening."""

    def new_keys(self) -> KeyPair:
        """As `Transport.new_keys`: of Curve25519."""
        return new_keys()

    def listen(self, url: str, options: TransportOptions) -> Listener:
        """As `Transport.listen`."""
        host, port = parse(url)
        check_safe(host, url, options, listens=True)
        return ZmqListener(host, port, url, options)

    def check(self, url: str, options: TransportOptions) -> None:
        """As `Transport.check`."""
        host, port = parse(url)
        check_safe(host, url, options, listens=False)
        if port == 0:
            raise AddressError(f"{url}: port 0 is no port to connect to.", cure="Give the researcher's port.")

    def connect(self, url: str, options: TransportOptions) -> Channel:
        """As `Transport.connect`."""
        self.check(url, options)
        host, port = parse(url)
        return ZmqChannel(host, port, url, options)
