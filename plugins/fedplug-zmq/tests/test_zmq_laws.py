"""``zmq://`` is a transport like any other, with keys and without."""

from __future__ import annotations

import pytest

from fedplug.testing.federation_checks import FEDERATION_CHECKS
from fedplug.testing.transport_case import TransportCase
from fedplug.testing.transport_checks import TRANSPORT_CHECKS
from fedplug_zmq.transport import ZmqTransport

CASE = TransportCase(ZmqTransport, lambda: "zmq://127.0.0.1:0")


@pytest.mark.parametrize("check", TRANSPORT_CHECKS + FEDERATION_CHECKS, ids=lambda check: check.id)
def test_zmq_keeps_the_law(check):
    check(CASE)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS + FEDERATION_CHECKS, ids=lambda check: check.id)
def test_zmq_with_keys_keeps_the_law(check):
    check(CASE.with_keys())
