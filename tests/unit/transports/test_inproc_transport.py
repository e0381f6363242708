"""``inproc://`` is a transport like any other."""

from __future__ import annotations

from itertools import count

import pytest

from fedplug.core.errors import AddressError
from fedplug.core.transport import Frame, Opened, TransportOptions
from fedplug.testing.federation_checks import FEDERATION_CHECKS
from fedplug.testing.key_checks import KEY_CHECKS
from fedplug.testing.transport_case import TransportCase
from fedplug.testing.transport_checks import TRANSPORT_CHECKS
from fedplug.transports.inproc import InprocTransport

_numbers = count()


def make_url():
    return f"inproc://test-{next(_numbers)}"


@pytest.mark.parametrize("check", TRANSPORT_CHECKS + FEDERATION_CHECKS, ids=lambda check: check.id)
def test_inproc_keeps_the_law(check):
    check(TransportCase(InprocTransport, make_url))


@pytest.mark.parametrize("check", TRANSPORT_CHECKS + FEDERATION_CHECKS + KEY_CHECKS, ids=lambda check: check.id)
def test_inproc_with_keys_keeps_the_law(check):
    check(TransportCase(InprocTransport, make_url).with_keys())


def test_bodies_are_passed_on_without_a_copy():
    transport, url = InprocTransport(), make_url()
    body = bytes(100)
    with transport.listen(url, TransportOptions()) as listener, transport.connect(url, TransportOptions()) as channel:
        assert isinstance(channel.receive(1), Opened)
        channel.send(b"h", body)
        assert isinstance(listener.receive(1), Opened)
        frame = listener.receive(1)
        assert isinstance(frame, Frame)
        assert frame.body.obj is body


def test_an_address_in_use_says_what_to_do():
    transport, url = InprocTransport(), make_url()
    with (
        transport.listen(url, TransportOptions()),
        pytest.raises(AddressError, match="another name"),
    ):
        transport.listen(url, TransportOptions())
