"""The kit for transports finds what is broken."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cache
from itertools import count

import pytest

import fedplug.testing.transport_case as kit
from fedplug.core.errors import KeysError
from fedplug.core.transport import MAX_BODY, MAX_HEADER, Closed, Frame, Opened, Transport
from fedplug.testing import LawBrokenError, check_transport
from fedplug.testing.federation_checks import FEDERATION_CHECKS
from fedplug.testing.key_checks import KEY_CHECKS
from fedplug.testing.transport_checks import TRANSPORT_CHECKS
from fedplug.transports.inproc import InprocTransport, _InprocChannel, _InprocListener, _listeners

_numbers = count()


def make_url():
    return f"inproc://kit-{next(_numbers)}"


class Broken(InprocTransport):
    """Lets a subclass spoil what passes through an end."""

    def listen(self, url, options):
        return self.spoil_listener(super().listen(url, options))

    def connect(self, url, options):
        return self.spoil_channel(super().connect(url, options))

    def spoil_listener(self, listener: _InprocListener) -> _InprocListener:
        return listener

    def spoil_channel(self, channel: _InprocChannel) -> _InprocChannel:
        return channel


class Reorders(Broken):
    """Two frames that wait change places."""

    def spoil_listener(self, listener):
        receive, held = listener.receive, deque()

        def swapped(timeout):
            if held:
                return held.popleft()
            first = receive(timeout)
            if isinstance(first, Frame) and (second := receive(0)) is not None:
                held.append(first)
                return second
            return first

        listener.receive = swapped
        return listener


class Corrupts(Broken):
    """A bit of every large body is flipped."""

    def spoil_channel(self, channel):
        send = channel.send

        def flipped(header, body=b""):
            return send(header, bytes([body[0] ^ 1]) + bytes(body[1:]) if len(body) > 4000 else body)

        channel.send = flipped
        return channel


class Drops(Broken):
    """Every fiftieth frame is lost without a word."""

    def spoil_channel(self, channel):
        send, sent = channel.send, count(1)
        channel.send = lambda header, body=b"": next(sent) % 50 == 0 or send(header, body)
        return channel


class Repeats(Broken):
    """Every fiftieth frame arrives twice."""

    def spoil_channel(self, channel):
        send, sent = channel.send, count(1)

        def twice(header, body=b""):
            return send(header, body) and (next(sent) % 50 != 0 or send(header, body))

        channel.send = twice
        return channel


class Unbounded(Broken):
    """There is always room."""

    def spoil_channel(self, channel):
        class Endless:
            used = 0
            full = False

            def taken(self):
                pass

        channel.up = Endless()
        Endless.__setattr__ = lambda self, name, value: None
        return channel


class TakesAnySize(Broken):
    """Frames that are too large are cut instead of refused."""

    def spoil_channel(self, channel):
        send = channel.send
        channel.send = lambda header, body=b"": send(bytes(header)[:MAX_HEADER], bytes(body)[:MAX_BODY])
        return channel


class KeepsTheEndToItself(Broken):
    """The researcher is not told when a node goes."""

    def spoil_listener(self, listener):
        receive = listener.receive

        def deaf(timeout):
            item = receive(timeout)
            return None if isinstance(item, Closed) else item

        listener.receive = deaf
        return listener


class SleepsOn(Broken):
    """`wake` does nothing."""

    def spoil_listener(self, listener):
        listener.wake = lambda: None
        return listener


class MixesPeersUp(Broken):
    """All nodes share one token."""

    def spoil_listener(self, listener):
        receive = listener.receive

        def masked(timeout):
            item = receive(timeout)
            if isinstance(item, Frame) and self.first is not None:
                return Frame(self.first, item.header, item.body)
            if isinstance(item, Opened) and self.first is None:
                self.first = item.peer
            return item

        self.first = None
        listener.receive = masked
        return listener


class CountsNothing(Broken):
    """What is sent is not counted."""

    def spoil_channel(self, channel):
        send = channel.send

        def uncounted(header, body=b""):
            sent = send(header, body)
            channel.traffic.bytes_sent = 0
            return sent

        channel.send = uncounted
        return channel


class ProvesNothing(Broken):
    """It is not known whose messages come in."""

    def spoil_listener(self, listener):
        receive = listener.receive

        def nameless(timeout):
            item = receive(timeout)
            return replace(item, key="") if isinstance(item, Frame | Opened) else item

        listener.receive = nameless
        return listener


class LetsEverybodyIn(Broken):
    """Any key will do."""

    def listen(self, url, options):
        return super().listen(url, replace(options, enrolled=lambda key: "n1"))


class TrustsAnybody(Broken):
    """The researcher's key is whatever it is."""

    def connect(self, url, options):
        return super().connect(url, replace(options, peer_key=_listeners[url.partition("//")[2]].key))


class TalksWithoutKeys(Broken):
    """If one end has no keys, the other needs none either."""

    def connect(self, url, options):
        listener = _listeners[url.partition("//")[2]]
        if options.keys is None:
            listener.key, listener._keeper = "", None
        if not listener.key:
            options = replace(options, keys=None, peer_key="")
        return super().connect(url, options)


class RemembersForEver(Broken):
    """Who was enrolled once stays so."""

    def listen(self, url, options):
        return super().listen(url, replace(options, enrolled=cache(options.enrolled)))


class FailsOpen(Broken):
    """Who cannot be looked up gets in."""

    def listen(self, url, options):
        def enrolled(key):
            try:
                return options.enrolled(key)
            except OSError:
                return "n1"

        return super().listen(url, replace(options, enrolled=enrolled))


class MakesDo(Broken):
    """Keys that lack something are as good as none."""

    def connect(self, url, options):
        try:
            return super().connect(url, options)
        except KeysError:
            return super().connect(url, replace(options, keys=None, peer_key=""))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Reorders, "frames"),
        (Corrupts, "frames"),
        (Drops, "order"),
        (Repeats, "order"),
        (Unbounded, "back-pressure"),
        (TakesAnySize, "too-large"),
        (KeepsTheEndToItself, "node-leaves"),
        (SleepsOn, "wake"),
        (MixesPeersUp, "many-peers"),
        (CountsNothing, "counters"),
        (ProvesNothing, "keys-prove"),
        (ProvesNothing, "keys-at-opening"),
        (LetsEverybodyIn, "unknown-key"),
        (TrustsAnybody, "wrong-researcher"),
        (TalksWithoutKeys, "plaintext-node"),
        (TalksWithoutKeys, "plaintext-researcher"),
        (RemembersForEver, "denied"),
        (RemembersForEver, "denied-hears-nothing"),
        (FailsOpen, "enrolment-fails"),
        (MakesDo, "keys-belong-together"),
    ],
)
def test_a_broken_transport_is_found(broken, law, monkeypatch):
    monkeypatch.setattr(kit, "PATIENCE", 1.0)
    check = next(check for check in TRANSPORT_CHECKS + KEY_CHECKS if check.id == law)
    with pytest.raises(LawBrokenError):
        check(kit.TransportCase(broken, make_url))


def test_the_kit_reports_every_law():
    results = check_transport(InprocTransport(), make_url, on_fail="report")
    assert [result.check for result in results] == [c.id for c in TRANSPORT_CHECKS + KEY_CHECKS + FEDERATION_CHECKS]
    assert {result.outcome for result in results} == {"pass"}
    assert all(result.law for result in results)


class Keyless(InprocTransport):
    new_keys = Transport.new_keys


def test_a_transport_without_keys_is_not_asked_about_them():
    results = {result.check: result for result in check_transport(Keyless, make_url)}
    skipped = {name for name, result in results.items() if result.outcome == "skip"}
    assert skipped == {check.id for check in KEY_CHECKS}
    assert results["unknown-key"].reason == "Keyless knows no keys."


def test_the_kit_stops_at_the_first_broken_law_if_asked():
    with pytest.raises(LawBrokenError, match="changed"):
        check_transport(Corrupts, make_url)
