"""A bad network on this machine: a TCP proxy that breaks lines where a script says so, by counts of bytes.

A node connects to the proxy, the proxy to the researcher. Bytes on their way to the researcher go ``"up"``, the others
``"down"``. A script is a list of `Fault`: what happens when so many bytes have been carried in one direction, over all
connections since `FaultProxy.play`. So the same script breaks the same transfer at the same places however fast the
machine is. What happens, and which side leaves, is written down and can be waited for; nothing has to be timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from threading import Condition, Thread

from fedplug.core.closing import Closing
from fedplug.testing.faults import Fault, Happening, Pace, Way, What

PATIENCE = 60.0
"""Seconds after which something that must happen counts as not happening."""

_READ = 64 * 1024
_BUFFER = 256 * 1024  # of the proxy's sockets: little is in nobody's hands when a line breaks
_SLICE = 0.02  # seconds of a slow line that are sent at a time
_IN_FLIGHT = 256  # pieces that a line with latency holds
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing throws away what waits and sends RST


class FaultProxy(Closing):
    """A proxy in a thread of its own, between nodes and one port of this machine.

    Args:
        target: The port of the researcher, who need not be there yet.
        seed: Decides the jitter and which bits are flipped.

    Attributes:
        port: Where nodes connect to.
    """

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self._target = target
        self._rng = random.Random(seed)
        self._changed = Condition()
        self._happenings: list[Happening] = []
        self._carried: Counter[Way] = Counter()
        self._sent: Counter[Way] = Counter()
        self._script: dict[Way, deque[Fault]] = {"up": deque(), "down": deque()}
        self._pace = Pace()
        self._dark = False
        self._free: dict[Way, float] = {"up": 0.0, "down": 0.0}
        self._lines: dict[asyncio.Task[None], _Line] = {}
        self._count = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.port: int = self._server.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = Thread(target=self._run, name=f"fault-proxy {self.port}", daemon=True)
        self._thread.start()

    # -- for the test -------------------------------------------------------------------------------------------

    def play(self, *faults: Fault, pace: Pace | None = None) -> None:
        """Begin a script, in place of the one before: the counts start at zero. Connections stay as they are.

        Args:
            faults: What is to happen, in any order.
            pace: How slow the line is; not slow by default.
        """

        def begin() -> None:
            ordered = sorted(faults, key=lambda fault: fault.at)
            self._script = {
                "up": deque(fault for fault in ordered if fault.way == "up"),
                "down": deque(fault for fault in ordered if fault.way == "down"),
            }
            self._pace = pace or Pace()
            with self._changed:
                self._carried.clear()
                self._sent.clear()
                self._happenings.clear()

        self._call(begin)

    def blackout(self) -> None:
        """Swallow everything, on new connections too, until `restore`."""
        self._call(self._darken)

    def restore(self) -> None:
        """Let new connections through. Those of the blackout stay dead: what they swallowed cannot be mended."""
        self._call(lambda: setattr(self, "_dark", False))

    def cut(self) -> None:
        """Cut all connections now."""
        self._call(self._cut_all)

    def carried(self, way: Way) -> int:
        """Bytes that were handed on in a direction."""
        with self._changed:
            return self._carried[way]

    def sent(self, way: Way) -> int:
        """Bytes that were sent into a direction, those that did not get through among them."""
        with self._changed:
            return self._sent[way]

    def happenings(self) -> list[Happening]:
        """What has happened since `play`, in order."""
        with self._changed:
            return list(self._happenings)

    def count(self, what: What) -> int:
        """How often something has happened since `play`."""
        return sum(1 for happening in self.happenings() if happening.what == what)

    def wait(self, what: What, times: int = 1) -> Happening:
        """Wait until something has happened, in all ``times`` times since `play`; returns the last of them.

        Raises:
            TimeoutError: It has not happened in time.
        """
        until = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                found = [happening for happening in self._happenings if happening.what == what]
                if len(found) >= times:
                    return found[times - 1]
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{what!r} happened {len(found)} times, not {times}: {self._happenings}")
                self._changed.wait(left)

    def close(self) -> None:
        """End all connections and give the port back."""
        if self._thread.is_alive():
            self._call(self._over.set)
        self._thread.join()

    def _call(self, action: Callable[[], object]) -> None:
        """Do something in the proxy's thread, before this call returns."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(PATIENCE)

    # -- the proxy's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, self._server:
            runner.run(self._serve())

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._over.wait()
        for task in (accepting, *self._lines):
            task.cancel()
        await asyncio.gather(accepting, *self._lines, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            node, _ = await self._loop.sock_accept(self._server)
            self._count += 1
            line = _Line(self._count, node)
            task = asyncio.create_task(self._keep(line))
            self._lines[task] = line
            task.add_done_callback(self._lines.pop)

    def _darken(self) -> None:
        self._dark = True
        for line in self._lines.values():
            line.swallows = True

    def _cut_all(self) -> None:
        for task, line in self._lines.items():
            self._note("cut", line)
            task.cancel()

    async def _keep(self, line: _Line) -> None:
        """One connection, from its beginning to the end of both its sides."""
        try:
            line.swallows = self._dark
            self._note("opened", line)
            try:
                await self._loop.sock_connect(line.researcher, ("127.0.0.1", self._target))
            except OSError:
                self._note("refused", line)
                return
            async with asyncio.TaskGroup() as group:
                for way in ("up", "down"):
                    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT if self._pace.latency else 1)
                    group.create_task(self._read(line, way, pieces))
                    group.create_task(self._write(line, way, pieces))
        except* _BrokenError:
            pass
        finally:
            line.close()

    async def _read(self, line: _Line, way: Way, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Take in what one side says, until it leaves."""
        source, arrives = line.source(way), 0.0
        while True:
            try:
                data = await self._loop.sock_recv(source, _READ)
            except OSError:
                data = b""
            with self._changed:
                self._sent[way] += len(data)
            if not data:
                self._note("node-left" if way == "up" else "researcher-left", line)
            travel = self._pace.latency + self._rng.uniform(0, self._pace.jitter)
            arrives = max(arrives, time.monotonic() + travel)
            await pieces.put((arrives, data))
            if not data:
                return

    async def _write(self, line: _Line, way: Way, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Hand on to the other side what the script lets through."""
        while True:
            arrives, data = await pieces.get()
            if (early := arrives - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if not data:
                if not line.swallows:
                    line.end(way)
                return
            for piece in self._pieces(line, way, data):
                if line.swallows:
                    break
                try:
                    await self._paced(way, piece, lambda part: self._loop.sock_sendall(line.source(_OTHER[way]), part))
                except OSError as error:
                    raise _BrokenError from error

    def _pieces(self, line: _Line, way: Way, data: bytes) -> Iterator[bytes]:
        """Cut the data at the places where something is to happen, and let it happen there."""
        script = self._script[way]
        while script and (room := script[0].at - self.carried(way)) <= len(data):
            fault = script[0]
            if fault.kind == "flip" and room == len(data):
                break  # it is the first byte of what comes next
            script.popleft()
            yield data[:room]
            data = data[room:]
            self._note(fault.kind, line)
            if fault.kind == "flip":
                data = bytes([data[0] ^ (1 << self._rng.randrange(8))]) + data[1:]
            elif fault.kind == "hole":
                line.swallows = True
            else:
                line.reset = fault.kind == "reset"
                raise _BrokenError
        yield data

    async def _paced(self, way: Way, piece: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand a piece on as fast as the line allows. All connections share the line."""
        rate = self._pace.rate
        for part in _parts(piece, max(1, int(rate * _SLICE)) if rate else len(piece)):
            if rate:
                now = time.monotonic()
                self._free[way] = max(now, self._free[way]) + len(part) / rate
                await asyncio.sleep(self._free[way] - now)
            await send(part)
            with self._changed:
                self._carried[way] += len(part)
                self._changed.notify_all()

    def _note(self, what: What, line: _Line) -> None:
        with self._changed:
            self._happenings.append(Happening(what, line.number, time.monotonic()))
            self._changed.notify_all()


class _BrokenError(Exception):
    """A connection is to end, both sides at once."""


_OTHER: dict[Way, Way] = {"up": "down", "down": "up"}


class _Line:
    """One connection: the socket of the node, and the one to the researcher."""

    def __init__(self, number: int, node: socket.socket) -> None:
        self.number = number
        self.node = node
        self.researcher = socket.socket()
        self.swallows = False
        self.reset = False
        for end in (self.node, self.researcher):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.researcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def source(self, way: Way) -> socket.socket:
        """Where the bytes of a direction come from; those of the other one go there."""
        return self.node if way == "up" else self.researcher

    def end(self, way: Way) -> None:
        """Pass on that one side has left."""
        with contextlib.suppress(OSError):
            self.source(_OTHER[way]).shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends."""
        for end in (self.node, self.researcher):
            if self.reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


def _parts(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), max(1, size)))
