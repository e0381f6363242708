"""The zmq:// transport for FedPlug: nodes connect outward over ZeroMQ. Only the hook stands here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.components import Component
from fedplug.core.markers import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fedplug_zmq.transport import ZmqTransport

__fedplug_api__ = API_VERSION

__all__ = ["ZmqTransport", "fedplug_register_transports"]


@hookimpl
def fedplug_register_transports() -> list[Component]:
    """ZeroMQ over TCP."""
    return [Component("zmq", "fedplug_zmq.transport:ZmqTransport", "TCP through ZeroMQ; nodes connect outward.")]


def __getattr__(name: str) -> Any:
    if name != "ZmqTransport":
        raise AttributeError(f"module 'fedplug_zmq' has no attribute {name!r}")
    from fedplug_zmq.transport import ZmqTransport

    return ZmqTransport
