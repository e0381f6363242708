"""No network: a network namespace of its own, in which there is not even a loopback that is up."""

from __future__ import annotations

import os
from pathlib import Path

from fedplug.node.isolation import kernel
from fedplug.node.isolation.layers import Layer

_NEW_NETWORK = 0x40000000
_NEW_USER = 0x10000000


def leave_network() -> Layer:
    """Leave the system's network for good. Must be called before the process has a second thread."""
    try:
        try:
            kernel.syscall("unshare", _NEW_NETWORK)
        except PermissionError:
            _as_other_user()
    except OSError as error:
        text = f"the process keeps the system's network ({error.strerror or error}); allow user namespaces, or run the "
        return Layer("network", "missing", text + "node as a service (fedplug node start --service)")
    return Layer("network", "on", "the process is in a network of its own, in which nothing can be reached")


def _as_other_user() -> None:
    """Without privileges, through a user namespace in which this user is what it was."""
    user, group = os.getuid(), os.getgid()
    kernel.syscall("unshare", _NEW_USER | _NEW_NETWORK)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
