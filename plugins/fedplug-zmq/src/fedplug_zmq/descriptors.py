"""Connections of libzmq, seen from outside by their file descriptors: how full they are, and how to end one.

libzmq keeps a connection whose messages nobody wants, gathers a message that never ends, and accepts until the process
has no descriptor left; then it tries again without a pause. Its monitor tells the descriptor of each connection, and
with that the system can be asked, and told.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import TypeVar

from fedplug.core.transport import MAX_BODY

T = TypeVar("T")

_ROOM = 64
"""Descriptors that are kept free for what else a researcher opens: files, spools, journals."""

_UNREAD = 80 * MAX_BODY
"""Bytes that may come over a connection before the next message of it is read: what ZeroMQ keeps in its queue, and the
system below it."""

_BYTES_RECEIVED = struct.Struct("=128xQ")  # struct tcp_info since Linux 4.1
_TCP_INFO = getattr(socket, "TCP_INFO", None)


def hang_up(fd: int, port: int) -> None:
    """End a connection that libzmq would keep. It notices, and reports it as any other end.

    Args:
        fd: The connection's file descriptor. It may serve another one by now, which then has to be made anew.
        port: Where this side listens: the descriptor may also serve something that is none of our business.
    """

    def end(line: socket.socket) -> None:
        if line.getsockname()[1] == port:
            line.shutdown(socket.SHUT_RDWR)

    _borrow(fd, end)


def is_last(fd: int) -> bool:
    """Whether hardly a descriptor is left. The system gives out the lowest that is free."""
    try:
        import resource
    except ImportError:
        return False
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit != resource.RLIM_INFINITY and fd >= limit - min(_ROOM, limit // 4)


class FloodWatch:
    """Finds connections that bring more than anybody reads: a message without an end, above all."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, int]] = {}  # messages that had been read, and bytes that had come by then
        self._next = 0.0

    def accepted(self, fd: int) -> None:
        """A connection was accepted."""
        self._open[fd] = (0, 0)

    def ended(self, fd: int) -> None:
        """A connection ended."""
        self._open.pop(fd, None)

    @property
    def due(self) -> bool:
        """Whether it is time for `floods`."""
        return _TCP_INFO is not None and time.monotonic() >= self._next

    def floods(self, read: Callable[[int], int]) -> list[int]:
        """The descriptors of connections that bring too much. Looks now and then, the more there are the more rarely.

        Args:
            read: Gives the number of messages of a connection that were read, by its descriptor.
        """
        if not self.due:
            return []
        self._next = time.monotonic() + max(0.1, len(self._open) / 1000)
        found = []
        for fd, (before, base) in self._open.items():
            received, count = _received(fd), read(fd)
            if count != before:
                self._open[fd] = (count, received)
            elif received - base > _UNREAD:
                found.append(fd)
        return found


def _received(fd: int) -> int:
    """Bytes that have come over a connection, whoever has them now; 0 where the system does not tell."""
    told = _borrow(fd, lambda line: line.getsockopt(socket.IPPROTO_TCP, _TCP_INFO or 0, _BYTES_RECEIVED.size))
    return int(_BYTES_RECEIVED.unpack(told)[0]) if told and len(told) == _BYTES_RECEIVED.size else 0


def _borrow(fd: int, use: Callable[[socket.socket], T]) -> T | None:
    """Use a socket of somebody else, without a descriptor of its own: there may be none left. None if it is gone."""
    try:
        line = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        return use(line)
    except OSError:
        return None
    finally:
        line.detach()
