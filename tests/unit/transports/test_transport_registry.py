"""Addresses lead to transports."""

from __future__ import annotations

import pytest

from fedplug.core.components import Component
from fedplug.core.errors import AddressError, PluginError
from fedplug.core.markers import hookimpl
from fedplug.core.plugins import PluginHost
from fedplug.transports import open_transport, scheme_of
from fedplug.transports.inproc import InprocTransport


class Offers:
    __fedplug_api__ = 1

    def __init__(self, target):
        self.target = target

    @hookimpl
    def fedplug_register_transports(self):
        return [Component("pigeon", self.target)]


@pytest.fixture
def host():
    import fedplug.builtin

    host = PluginHost()
    host.register(fedplug.builtin, "builtin")
    return host


def test_the_scheme_decides(host):
    assert isinstance(open_transport("inproc://here", host), InprocTransport)
    assert isinstance(open_transport("INPROC://here", host), InprocTransport)


def test_an_unknown_scheme_lists_what_is_known_and_what_to_install(host):
    with pytest.raises(AddressError) as caught:
        open_transport("carrier-pigeon://loft", host)
    assert "inproc://" in str(caught.value)
    assert "pip install 'fedplug[zmq]'" in str(caught.value)


def test_a_missing_zmq_says_how_to_get_it(host):
    with pytest.raises(AddressError, match=r"fedplug\[zmq\]"):
        open_transport("zmq://127.0.0.1:7400", host)


@pytest.mark.parametrize("bad", ["", "here", "://x", "inproc:", "inproc://"])
def test_something_that_is_no_address_is_refused(bad):
    with pytest.raises(AddressError, match="address"):
        scheme_of(bad)


def test_a_component_that_is_no_transport_names_the_culprit(host):
    host.register(Offers(dict), "loft")
    with pytest.raises(PluginError, match="pigeon://"):
        open_transport("pigeon://loft", host)


def test_a_strangers_transport_is_used(host):
    host.register(Offers(InprocTransport), "loft")
    assert isinstance(open_transport("pigeon://loft", host), InprocTransport)
