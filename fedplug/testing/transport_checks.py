"""What every transport must do: move frames whole, in order, without blocking, and tell both ends of the end.

`check_transport` runs all laws on a transport: those of frames, those of keys (see `fedplug.testing.key_checks`) if it
knows keys, then those of a federation that runs over it (see `fedplug.testing.federation_checks`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from threading import Event, Thread

from fedplug.core.errors import AddressError, ConnectionLostError, TransportError
from fedplug.core.transport import (
    MAX_BODY,
    MAX_HEADER,
    Channel,
    Closed,
    Frame,
    Listener,
    Transport,
    TransportOptions,
)
from fedplug.testing import transport_case
from fedplug.testing.registry import Check, CheckResult, LawBrokenError, OnFail, Profile, Subject, law, run_checks
from fedplug.testing.transport_case import Line, TransportCase, expect, greet, push, quiet, refused, same, woken


def check_transport(
    transport: Transport | Callable[[], Transport],
    make_url: Callable[[], str],
    *,
    options: TransportOptions | None = None,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Check a transport.

    Args:
        transport: The transport, or what makes one.
        make_url: Gives an address that nobody uses, to listen at; with port 0 where there are ports.
        options: For the transport, e.g. where it needs keys.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``, which is the same here: there are no cases to have more of.
        expected_failures: Id of a law that it breaks and will break → why.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    from fedplug.testing.federation_checks import FEDERATION_CHECKS
    from fedplug.testing.key_checks import KEY_CHECKS

    make = (lambda: transport) if isinstance(transport, Transport) else transport
    case = TransportCase(make, make_url, options or TransportOptions())
    subject = Subject.of(case).with_options(expected_failures)
    return run_checks((*TRANSPORT_CHECKS, *KEY_CHECKS, *FEDERATION_CHECKS), subject, on_fail=on_fail, profile=profile)


# the laws --------------------------------------------------------------------------------------------------------


def check_frames(case: TransportCase) -> None:
    """Frames of all sizes arrive once, unchanged and in order, in both directions."""
    rng = random.Random(1)
    sizes = [0, 1, 255, 4096, 65_535, 65_536, 65_537, 1024 * 1024, MAX_BODY]
    frames = [(rng.randbytes(rng.choice([1, 60, 9000])), rng.randbytes(size)) for size in sizes]
    frames.append((rng.randbytes(MAX_HEADER), b""))
    with ExitStack() as stack:
        line = Line(case, stack)
        for number, (header, body) in enumerate(frames):
            # Sent without waiting for the one before; a full way is waited for.
            push(line.channel, partial(line.channel.send, header, body))
            push(line.listener, partial(line.listener.send, line.peer, header, body))
            if number % 3 == 2:
                _expect_frames(line, frames[number - 2 : number + 1])
        _expect_frames(line, frames[len(frames) // 3 * 3 :])


def check_order(case: TransportCase) -> None:
    """A thousand small frames keep their order while both ends send."""
    count = 1000
    with ExitStack() as stack:
        line = Line(case, stack)
        sent = {"up": 0, "down": 0}
        got = {"up": 0, "down": 0}
        end = time.monotonic() + transport_case.PATIENCE
        while min(got.values()) < count:
            if time.monotonic() > end:
                raise LawBrokenError(f"Of {count} frames each way only {got} arrived; the rest was lost in silence.")
            while sent["up"] < count and line.channel.send(b"up %d" % sent["up"]):
                sent["up"] += 1
            while sent["down"] < count and line.listener.send(line.peer, b"down %d" % sent["down"], b"x" * 100):
                sent["down"] += 1
            _count_up(line.listener, got, "up")
            _count_up(line.channel, got, "down")


def check_too_large(case: TransportCase) -> None:
    """A frame that is too large is refused with `TransportError` where it is sent; the connection goes on."""
    with ExitStack() as stack:
        line = Line(case, stack)
        for header, body in ((b"h", bytes(MAX_BODY + 1)), (bytes(MAX_HEADER + 1), b"")):
            what = f"A frame of {len(header):,} + {len(body):,} bytes"
            refused(partial(line.channel.send, header, body), TransportError, f"{what} from the node")
            refused(
                partial(line.listener.send, line.peer, header, body),
                TransportError,
                f"{what} from the researcher",
            )
        push(line.channel, lambda: line.channel.send(b"still", b"here"))
        same(expect(line.listener, Frame), b"still", b"here", "after a refused frame")


def check_back_pressure(case: TransportCase) -> None:
    """`send` never blocks and never drops: a full way says False, and everything that was taken arrives."""
    body = bytes(256 * 1024)
    with ExitStack() as stack:
        line = Line(case, stack)
        ways: list[tuple[Callable[[bytes], bool], Channel | Listener, str]] = [
            (lambda header: line.channel.send(header, body), line.listener, "the node"),
            (lambda header: line.listener.send(line.peer, header, body), line.channel, "the researcher"),
        ]
        for send, receiver, who in ways:
            taken = 0
            while send(b"%d" % taken):
                taken += 1
                if taken > 4000:
                    raise LawBrokenError(f"{who} could send 1 GB that nobody received; the way must be bounded.")
            for number in range(taken):
                frame = expect(receiver, Frame)
                same(frame, b"%d" % number, body, f"frame {number} of {taken} that {who} sent")
                del frame
            push(receiver, partial(send, b"again"))
            same(expect(receiver, Frame), b"again", body, f"after the way of {who} was full")


def check_many_peers(case: TransportCase) -> None:
    """Each connection has its own token, and its frames go nowhere else."""
    with ExitStack() as stack:
        line = Line(case, stack)
        options, address = case.for_node, line.listener.address
        channels = [stack.enter_context(line.transport.connect(address, options)) for _ in range(8)]
        peers = [greet(line.listener, channel) for channel in channels]
        if len({line.peer, *peers}) != len(peers) + 1:
            raise LawBrokenError(f"Nine connections must have nine tokens, but have {sorted({line.peer, *peers})}.")
        for index, peer in enumerate(peers):
            push(line.listener, partial(line.listener.send, peer, b"%d" % index))
        for index, channel in enumerate(channels):
            same(expect(channel, Frame), b"%d" % index, b"", f"the frame for connection {index}")
            push(channel, partial(channel.send, b"back"))
            frame = expect(line.listener, Frame)
            if frame.peer != peers[index]:
                raise LawBrokenError(f"A frame of {peers[index]!r} came in as one of {frame.peer!r}.")


def check_wake(case: TransportCase) -> None:
    """`wake` ends a `receive` that waits, or else the next one, from any thread."""
    with ExitStack() as stack:
        line = Line(case, stack)
        for end in (line.listener, line.channel):
            quiet(end)
            end.wake()
            woken(end, "that came after `wake`")
            about = Event()

            def ring(end: Listener | Channel = end, about: Event = about) -> None:
                about.wait()
                end.wake()

            thread = Thread(target=ring)
            thread.start()
            about.set()
            woken(end, "that waited when another thread called `wake`")
            thread.join()


def check_timeout(case: TransportCase) -> None:
    """`receive` comes back with None after its time-out, and at once with a time-out of 0."""
    with ExitStack() as stack:
        line = Line(case, stack)
        for end in (line.listener, line.channel):
            quiet(end)
            for timeout in (0, 0.01):
                item = end.receive(timeout)
                if item is not None:
                    raise LawBrokenError(f"Nothing was sent, but receive({timeout}) returned {item}.")


def check_node_leaves(case: TransportCase) -> None:
    """When a node closes its channel, what it sent before arrives, then the researcher is told."""
    with ExitStack() as stack:
        line = Line(case, stack)
        push(line.channel, lambda: line.channel.send(b"last words"))
        line.channel.close()
        line.channel.close()
        same(expect(line.listener, Frame), b"last words", b"", "what was sent before closing")
        closed = expect(line.listener, Closed)
        if closed.peer != line.peer:
            raise LawBrokenError(f"{line.peer!r} left, but {closed.peer!r} was reported as closed.")
        refused(lambda: line.listener.send(line.peer, b"x"), ConnectionLostError, "A frame for a node that has left")


def check_researcher_leaves(case: TransportCase) -> None:
    """When the researcher closes the listener, what he sent before arrives, then every node is told."""
    with ExitStack() as stack:
        line = Line(case, stack)
        push(line.listener, lambda: line.listener.send(line.peer, b"last words"))
        line.listener.close()
        line.listener.close()
        same(expect(line.channel, Frame), b"last words", b"", "what was sent before closing")
        expect(line.channel, Closed)
        refused(lambda: line.channel.send(b"x"), ConnectionLostError, "A frame for a researcher who has left")


def check_address_in_use(case: TransportCase) -> None:
    """An address has one listener: a second is refused with `AddressError`, until the first has closed."""
    with ExitStack() as stack:
        line = Line(case, stack)
        address = line.listener.address
        refused(lambda: line.transport.listen(address, case.options), AddressError, "Listening twice")
        line.listener.close()
        again = stack.enter_context(line.transport.listen(address, case.options))
        channel = stack.enter_context(line.transport.connect(address, case.for_node))
        greet(again, channel)


def check_nobody_listens(case: TransportCase) -> None:
    """Connecting to where nobody listens returns at once; `Closed` with a reason follows."""
    with ExitStack() as stack:
        transport = case.make()
        listener = transport.listen(case.make_url(), case.options)
        address = listener.address
        listener.close()
        channel = stack.enter_context(transport.connect(address, case.for_node))
        if not expect(channel, Closed).reason:
            raise LawBrokenError("A connection that could not be made was closed without a reason.")


def check_unknown_peer(case: TransportCase) -> None:
    """A frame for a peer that does not exist raises `ConnectionLostError`; dropping one is ignored."""
    with ExitStack() as stack:
        line = Line(case, stack)
        refused(lambda: line.listener.send(b"nobody", b"x"), ConnectionLostError, "A frame for an unknown peer")
        line.listener.drop(b"nobody")
        push(line.channel, lambda: line.channel.send(b"fine"))
        same(expect(line.listener, Frame), b"fine", b"", "after dropping an unknown peer")


def check_drop(case: TransportCase) -> None:
    """A dropped peer can send nothing and be sent nothing; the others go on."""
    with ExitStack() as stack:
        line = Line(case, stack)
        other = stack.enter_context(line.transport.connect(line.listener.address, case.for_node))
        kept = greet(line.listener, other)
        line.listener.drop(line.peer)
        refused(lambda: line.listener.send(line.peer, b"x"), ConnectionLostError, "A frame for a dropped peer")
        with suppress(ConnectionLostError):  # Told already, which is as good.
            line.channel.send(b"from the dead")
        push(other, lambda: other.send(b"from the living"))
        frame = expect(line.listener, Frame)
        if frame.peer != kept:
            raise LawBrokenError(f"A frame came from {frame.peer!r}, which was dropped.")


def check_bad_address(case: TransportCase) -> None:
    """A malformed address raises `AddressError`, when listening and when connecting."""
    transport = case.make()
    bad = case.make_url().partition("://")[0] + ":// no/such place:99999999"
    refused(lambda: transport.listen(bad, case.options), AddressError, f"Listening at {bad!r}")
    refused(lambda: transport.connect(bad, case.for_node), AddressError, f"Connecting to {bad!r}")


def check_counters(case: TransportCase) -> None:
    """`traffic` counts the frames and bytes, header and body together, of each direction."""
    with ExitStack() as stack:
        line = Line(case, stack)
        before = [(e.traffic.bytes_sent, e.traffic.bytes_received) for e in (line.listener, line.channel)]
        push(line.channel, lambda: line.channel.send(b"12345", b"x" * 100_000))
        expect(line.listener, Frame)
        push(line.listener, lambda: line.listener.send(line.peer, b"123", b"y"))
        expect(line.channel, Frame)
        after = [(e.traffic.bytes_sent, e.traffic.bytes_received) for e in (line.listener, line.channel)]
        moved = [(a[0] - b[0], a[1] - b[1]) for a, b in zip(after, before, strict=True)]
        if moved != [(4, 100_005), (100_005, 4)]:
            raise LawBrokenError(f"4 bytes went down and 100,005 up, but the counters moved by {moved}.")


def _expect_frames(line: Line, frames: list[tuple[bytes, bytes]]) -> None:
    for header, body in frames:
        same(expect(line.listener, Frame), header, body, "a frame on its way to the researcher")
        same(expect(line.channel, Frame), header, body, "a frame on its way to the node")


def _count_up(end: Listener | Channel, got: dict[str, int], way: str) -> None:
    item = end.receive(0.01)
    while item is not None:
        if isinstance(item, Frame):
            if item.header != b"%s %d" % (way.encode(), got[way]):
                raise LawBrokenError(f"Frame {got[way]} on the way {way} is {item.header!r}: the order was not kept.")
            got[way] += 1
        elif isinstance(item, Closed):
            raise LawBrokenError(f"The connection was closed on its own: {item.reason}.")
        item = end.receive(0)


TRANSPORT_CHECKS: tuple[Check, ...] = tuple(
    law(function)
    for function in (
        check_frames,
        check_order,
        check_too_large,
        check_back_pressure,
        check_many_peers,
        check_wake,
        check_timeout,
        check_node_leaves,
        check_researcher_leaves,
        check_address_in_use,
        check_nobody_listens,
        check_unknown_peer,
        check_drop,
        check_bad_address,
        check_counters,
    )
)
"""The laws of frames."""
