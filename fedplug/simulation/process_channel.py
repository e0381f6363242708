"""Messages between a simulation and its worker processes: typed frames over a socket pair, many in one write.

A frame is four bytes of length, one byte with the number of file descriptors that come with it, and a msgpack body.
Arrays do not stand in a frame: they lie in shared memory, whose descriptor travels beside it.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from fedplug.core.errors import CodecError, ConnectionLostError
from fedplug.node.ipc import close_all
from fedplug.node.shared import SharedBuffer

_HEADER = struct.Struct("<IB")

_READ = 2**17
"""Bytes that are asked for at once."""

_MOST_FDS = 200
"""Most descriptors beside one write; the kernel passes at most 253."""

_ROOM = socket.CMSG_SPACE(253 * array.array("i").itemsize)

_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Parcel = tuple[msgspec.Struct, tuple[SharedBuffer, ...]]
"""A message, and the memory that goes with it."""

T = TypeVar("T")


class Channel(Generic[T]):
    """One end of the socket pair. It belongs to one thread.

    Args:
        sock: The socket; closed by `close`.
        incoming: The union of the messages that this end takes.
    """

    def __init__(self, sock: socket.socket, incoming: type[T]) -> None:
        self._socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, tuple[SharedBuffer, ...]]] = deque()

    def fileno(self) -> int:
        """The number of the socket, to wait for it."""
        return self._socket.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether something is still to be written: the other end does not read fast enough."""
        return bool(self._out)

    def send(self, parcels: Sequence[Parcel], *, wait: bool) -> None:
        """Send messages, in order, by as few writes as can be.

        Args:
            parcels: The messages, and the memory that goes with each, `_MOST_FDS` blocks at most.
            wait: Whether to wait until the other end has taken them; if not, `flush` sends the rest.

        Raises:
            ConnectionLostError: The other end is gone.
        """
        data, blocks = bytearray(), list[SharedBuffer]()
        for message, mine in parcels:
            if len(blocks) + len(mine) > _MOST_FDS:
                self._out.append((bytes(data), tuple(blocks)))
                data, blocks = bytearray(), []
            body = self._encoder.encode(message)
            data += _HEADER.pack(len(body), len(mine))
            data += body
            blocks += mine
        self._out.append((bytes(data), tuple(blocks)))
        self.flush(wait=wait)

    def flush(self, *, wait: bool) -> None:
        """Send what is still to be written, or as much of it as the other end takes at once.

        Raises:
            ConnectionLostError: The other end is gone.
        """
        flags = 0 if wait else socket.MSG_DONTWAIT
        while self._out:
            data, blocks = self._out[0]
            numbers = array.array("i", [block.fd for block in blocks])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if blocks else []
            try:
                sent = self._socket.sendmsg([data], ancillary, flags)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLostError(f"The other process is gone: {error.strerror}.") from None
            if sent < len(data):  # the descriptors went with the first byte
                self._out[0] = (data[sent:], ())
            else:
                self._out.popleft()

    def receive(self, *, wait: bool) -> list[tuple[T, list[int]]]:
        """The messages that have come, each with its file descriptors, which now belong to the caller.

        Args:
            wait: Whether to wait until there is one; if not, there may be none.

        Raises:
            ConnectionLostError: The other end is gone, and nothing that it sent is left.
            CodecError: What came is no message.
        """
        flags = _CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        while not (found := self._parsed()):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_READ, _ROOM, flags)
            except BlockingIOError:
                return []
            except OSError as error:
                raise ConnectionLostError(f"The other process is gone: {error.strerror}.") from None
            if not data:
                raise ConnectionLostError("The other process is gone.")
            self._buffer += data
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    self._fds.extend(numbers)
        return found

    def close(self) -> None:
        """Close the socket, and descriptors that nobody has taken. May be called twice."""
        self._out.clear()
        close_all(self._fds)
        with contextlib.suppress(OSError):  # whoever holds a copy of our end, such as a fork, does not keep it open
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _parsed(self) -> list[tuple[T, list[int]]]:
        """The whole frames at the beginning of what has come."""
        found: list[tuple[T, list[int]]] = []
        end = len(self._buffer)
        low = 0
        with memoryview(self._buffer) as view:
            while end - low >= _HEADER.size:
                length, count = _HEADER.unpack_from(view, low)
                start = low + _HEADER.size
                if end - start < length:
                    break
                if len(self._fds) < count:
                    raise CodecError(
                        f"{count} blocks of shared memory were announced, {len(self._fds)} came.",
                        cure="This process may not open any more files; raise the limit (ulimit -n).",
                    )
                try:
                    message = self._decoder.decode(view[start : start + length])
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise CodecError(
                        f"A message between the processes of a simulation is malformed: {error}."
                    ) from None
                found.append((message, self._fds[:count]))
                del self._fds[:count]
                low = start + length
        del self._buffer[:low]
        return found
