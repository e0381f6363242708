"""The bad network breaks lines where it was told to, and nowhere else; proxies with a planted bug do not pass."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from fedplug.testing import fault_proxy
from fedplug.testing.fault_proxy import FaultProxy
from fedplug.testing.faults import Fault, Pace, every

TEXT = bytes(range(256)) * 1024  # 256 KiB, more than one read


class Rig:
    """A port that listens, and a proxy before it."""

    def __init__(self, make: type[FaultProxy], stack: ExitStack) -> None:
        self.stack = stack
        self.listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.proxy = stack.enter_context(make(self.listening.getsockname()[1], seed=1))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """The two ends of a connection: the node's and the researcher's."""
        node = self.stack.enter_context(socket.create_connection(("127.0.0.1", self.proxy.port)))
        researcher = self.stack.enter_context(self.listening.accept()[0])
        for end in (node, researcher):
            end.settimeout(30)
        return node, researcher

    def settled(self) -> None:
        """Return when the proxy has done whatever was due: another connection has talked both ways since."""
        node, researcher = self.connect()
        for source, dest in ((node, researcher), (researcher, node)):
            source.sendall(b"?")
            assert dest.recv(1) == b"?"


def everything(end: socket.socket) -> bytes:
    """What arrives until the other side leaves, with or without a word."""
    data = bytearray()
    try:
        while part := end.recv(1 << 20):
            data += part
    except ConnectionError:
        pass
    return bytes(data)


def exactly(end: socket.socket, size: int) -> bytes:
    """The next ``size`` bytes, less if the other side leaves before."""
    data = bytearray()
    while len(data) < size and (part := end.recv(size - len(data))):
        data += part
    return bytes(data)


def seal(data: bytes) -> tuple[int, str]:
    """What tells bytes apart. Where a law is broken, pytest would compare the bytes themselves for minutes."""
    return len(data), hashlib.sha256(data).hexdigest()


def waits(end: socket.socket) -> bool:
    """Whether nothing at all has arrived, not even an end."""
    end.setblocking(False)
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    finally:
        end.settimeout(30)
    return False


# the laws ------------------------------------------------------------------------------------------------------------


def carries_everything(rig: Rig) -> None:
    node, researcher = rig.connect()
    node.sendall(TEXT)
    node.shutdown(socket.SHUT_WR)
    assert seal(everything(researcher)) == seal(TEXT)
    researcher.sendall(b"thanks")
    researcher.close()
    assert everything(node) == b"thanks"
    rig.proxy.wait("researcher-left")
    assert [each.what for each in rig.proxy.happenings()] == ["opened", "node-left", "researcher-left"]
    assert (rig.proxy.carried("up"), rig.proxy.carried("down")) == (len(TEXT), 6)


def cuts_at_the_byte_and_counts_over_connections(rig: Rig) -> None:
    rig.proxy.play(*every("cut", 100_000, 2))
    for arrived in (100_000, 100_000, len(TEXT)):
        node, researcher = rig.connect()
        with contextlib.suppress(OSError):  # the line may be cut by now
            node.sendall(TEXT)
            node.shutdown(socket.SHUT_WR)
        assert seal(everything(researcher)) == seal(TEXT[:arrived])
        researcher.close()
        everything(node)
    assert rig.proxy.count("cut") == 2


def counts_each_direction_for_itself(rig: Rig) -> None:
    rig.proxy.play(Fault("cut", 10, "down"))
    node, researcher = rig.connect()
    node.sendall(TEXT)
    node.shutdown(socket.SHUT_WR)
    assert seal(everything(researcher)) == seal(TEXT)
    researcher.sendall(b"0123456789abc")
    assert everything(node) == b"0123456789"


def resets_both_ends(rig: Rig) -> None:
    rig.proxy.play(Fault("reset", 1000))
    node, researcher = rig.connect()
    node.sendall(TEXT[:1000])
    for end in (node, researcher):
        with pytest.raises(ConnectionResetError):
            exactly(end, 2000)


def a_hole_swallows_both_ways_and_tells_nobody(rig: Rig) -> None:
    rig.proxy.play(Fault("hole", 1000))
    node, researcher = rig.connect()
    node.sendall(TEXT[:2000])
    rig.proxy.wait("hole")
    assert seal(exactly(researcher, 1000)) == seal(TEXT[:1000])
    researcher.sendall(b"hello?")
    node.sendall(TEXT)
    rig.settled()
    assert waits(researcher)
    assert waits(node)
    sent, carried = rig.proxy.sent("up"), rig.proxy.carried("up")
    assert (sent, carried) == (2000 + len(TEXT) + 1, 1001)  # with a byte each for settling
    node.close()
    rig.proxy.wait("node-left")
    rig.settled()
    assert waits(researcher)
    assert rig.proxy.count("researcher-left") == 0
    researcher.close()
    rig.proxy.wait("researcher-left")


def flips_one_bit(rig: Rig) -> None:
    rig.proxy.play(Fault("flip", 0), Fault("flip", 1000), Fault("flip", 200_000))
    node, researcher = rig.connect()
    node.sendall(TEXT[:1000])  # the second is the first byte of what comes next
    first = exactly(researcher, 1000)
    assert len(first) == 1000
    node.sendall(TEXT[1000:])
    node.shutdown(socket.SHUT_WR)
    arrived = first + everything(researcher)
    wrong = {at: a ^ b for at, (a, b) in enumerate(zip(arrived, TEXT, strict=True)) if a != b}
    assert list(wrong) == [0, 1000, 200_000]
    assert all(bits.bit_count() == 1 for bits in wrong.values())


def is_as_slow_as_it_should(rig: Rig) -> None:
    rig.proxy.play(pace=Pace(rate=500_000))
    node, researcher = rig.connect()
    began = time.monotonic()
    node.sendall(TEXT[:100_000])
    node.shutdown(socket.SHUT_WR)
    assert seal(everything(researcher)) == seal(TEXT[:100_000])
    assert time.monotonic() - began >= 0.19


def bytes_travel_and_never_overtake_each_other(rig: Rig) -> None:
    rig.proxy.play(pace=Pace(latency=0.05, jitter=0.02))
    node, researcher = rig.connect()
    began = time.monotonic()
    for index in range(50):
        node.sendall(bytes([index]))
    assert exactly(researcher, 50) == bytes(range(50))
    assert time.monotonic() - began >= 0.05
    began = time.monotonic()
    researcher.sendall(b"!")
    assert node.recv(1) == b"!"
    assert time.monotonic() - began >= 0.05


def a_blackout_swallows_until_it_is_over(rig: Rig) -> None:
    old = rig.connect()
    rig.proxy.blackout()
    new = rig.connect()
    rig.proxy.wait("opened", 2)
    for node, _ in (old, new):
        node.sendall(b"anybody?")
    rig.proxy.restore()
    for node, _ in (old, new):
        node.sendall(b"still nobody?")
        node.shutdown(socket.SHUT_WR)
    rig.proxy.wait("node-left", 2)
    rig.settled()
    assert all(waits(researcher) for _, researcher in (old, new))


def cuts_when_told_to(rig: Rig) -> None:
    node, researcher = rig.connect()
    rig.proxy.cut()
    assert everything(node) == everything(researcher) == b""
    assert rig.proxy.count("cut") == 1


def says_that_nobody_listens(rig: Rig) -> None:
    rig.listening.close()
    with socket.create_connection(("127.0.0.1", rig.proxy.port)) as node:
        node.settimeout(30)
        assert everything(node) == b""
    assert rig.proxy.wait("refused").connection == 1


LAWS: dict[str, Callable[[Rig], None]] = {
    law.__name__: law
    for law in (
        carries_everything, cuts_at_the_byte_and_counts_over_connections, counts_each_direction_for_itself,
        resets_both_ends, a_hole_swallows_both_ways_and_tells_nobody, flips_one_bit, is_as_slow_as_it_should,
        bytes_travel_and_never_overtake_each_other, a_blackout_swallows_until_it_is_over, cuts_when_told_to,
        says_that_nobody_listens,
    )
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_the_proxy(law: str) -> None:
    with ExitStack() as stack:
        LAWS[law](Rig(FaultProxy, stack))


# planted bugs --------------------------------------------------------------------------------------------------------


class _Shifted(FaultProxy):
    def play(self, *faults, pace=None):
        super().play(*(Fault(fault.kind, fault.at + 1, fault.way) for fault in faults), pace=pace)


class _ForgetsBetweenConnections(FaultProxy):
    def _note(self, what, line):
        if what == "opened":
            self._carried.clear()
        super()._note(what, line)


class _TakesOneDirectionForTheOther(FaultProxy):
    def play(self, *faults, pace=None):
        super().play(*(Fault(fault.kind, fault.at, "up") for fault in faults), pace=pace)


class _CutsInsteadOfResets(FaultProxy):
    def _note(self, what, line):
        line.close = lambda: (line.node.close(), line.researcher.close())
        super()._note(what, line)


class _TellsOfTheEnd(FaultProxy):
    async def _read(self, line, way, pieces):
        await super()._read(line, way, pieces)
        line.end(way)


class _HoleInOneDirection(FaultProxy):
    async def _write(self, line, way, pieces):
        await super()._write(_Blind(line) if way == "down" else line, way, pieces)


class _Blind:
    """A line that does not know that it swallows."""

    swallows = False

    def __init__(self, line):
        self._line = line

    def __getattr__(self, name):
        return getattr(self._line, name)


class _FlipsNothing(FaultProxy):
    def play(self, *faults, pace=None):
        super().play(*(fault for fault in faults if fault.kind != "flip"), pace=pace)


class _InAHurry(FaultProxy):
    def play(self, *faults, pace=None):
        super().play(*faults)


class _Mended(FaultProxy):
    """A line that was dark is bright again."""

    def restore(self):
        super().restore()
        for line in self._lines.values():
            line.swallows = False


class _LosesALittle(FaultProxy):
    def _pieces(self, line, way, data):
        yield from super()._pieces(line, way, data[:-1] if len(data) > 60_000 else data)


@pytest.mark.parametrize(
    ("bug", "law"),
    [
        (_Shifted, "cuts_at_the_byte_and_counts_over_connections"),
        (_Shifted, "flips_one_bit"),
        (_ForgetsBetweenConnections, "cuts_at_the_byte_and_counts_over_connections"),
        (_TakesOneDirectionForTheOther, "counts_each_direction_for_itself"),
        (_CutsInsteadOfResets, "resets_both_ends"),
        (_TellsOfTheEnd, "a_hole_swallows_both_ways_and_tells_nobody"),
        (_HoleInOneDirection, "a_hole_swallows_both_ways_and_tells_nobody"),
        (_FlipsNothing, "flips_one_bit"),
        (_InAHurry, "is_as_slow_as_it_should"),
        (_InAHurry, "bytes_travel_and_never_overtake_each_other"),
        (_Mended, "a_blackout_swallows_until_it_is_over"),
        (_LosesALittle, "carries_everything"),
    ],
)
def test_a_proxy_with_a_bug_breaks_a_law(bug: type[FaultProxy], law: str) -> None:
    # An OSError: a line that ends too early.
    with ExitStack() as stack, pytest.raises((AssertionError, OSError, pytest.fail.Exception)):
        LAWS[law](Rig(bug, stack))


def test_waiting_for_what_does_not_happen_says_what_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_proxy, "PATIENCE", 0.01)
    with ExitStack() as stack:
        rig = Rig(FaultProxy, stack)
        rig.connect()
        with pytest.raises(TimeoutError, match=r"'cut' happened 0 times, not 1.*opened"):
            rig.proxy.wait("cut")
        monkeypatch.undo()
