"""When a researcher listens with keys, and what the log says when they do not."""

from __future__ import annotations

import pytest

from fedplug.core.errors import KeysError
from fedplug.core.keys import KeyPair
from fedplug.core.transport import Transport, TransportOptions
from fedplug.researcher.keys import ResearcherKeys
from fedplug.transports.inproc import InprocTransport

OWN = KeyPair("0a" * 32, "0b" * 32)
NODE = "aa" * 32
URL = "zmq://127.0.0.1:0"


class Keyed(InprocTransport):
    def new_keys(self):
        return OWN


class Keyless(InprocTransport):
    new_keys = Transport.new_keys


@pytest.fixture
def keys(tmp_path):
    return ResearcherKeys(tmp_path / "home")


def test_without_keys_all_stays_as_it_is_and_nothing_is_written(keys):
    given = TransportOptions(heartbeat=0.5)
    assert keys.options(Keyed(), URL, given) is given
    assert not keys.home.exists()


def test_with_keys_nodes_are_let_in_by_the_list_as_it_is_at_that_time(keys):
    keys.own.add(OWN)
    options = keys.options(Keyed(), URL, TransportOptions(heartbeat=0.5))
    assert (options.keys, options.heartbeat) == (OWN, 0.5)
    assert options.enrolled(NODE) == ""
    ResearcherKeys(keys.home).allow("clinic-1", NODE)
    assert options.enrolled(NODE) == "clinic-1"
    ResearcherKeys(keys.home).nodes.remove("clinic-1")
    assert options.enrolled(NODE) == ""


def test_keys_are_left_aside_only_knowingly_and_that_is_said(keys, caplog):
    keys.own.add(OWN)
    plain = TransportOptions(insecure_plaintext=True)
    assert keys.options(Keyed(), URL, plain) is plain
    assert "is not encrypted, as insecure_plaintext allows" in caplog.records.pop().getMessage()
    given = TransportOptions()
    assert keys.options(Keyless(), "pigeon://here", given) is given
    assert "this kind of transport knows none" in caplog.records.pop().getMessage()
    assert keys.options(Keyed(), "inproc://here", given) is given
    other = TransportOptions(keys=KeyPair(NODE, NODE), enrolled=str)
    assert keys.options(Keyed(), URL, other) is other
    assert not caplog.records


def test_keys_that_others_can_read_stop_an_experiment(keys):
    keys.own.add(OWN)
    (keys.own.path / "own.key").chmod(0o640)
    with pytest.raises(KeysError, match="Others can read"):
        keys.options(Keyed(), URL, TransportOptions())


def test_the_folder_is_the_one_of_the_environment(fedplug_dir):
    assert ResearcherKeys().home == fedplug_dir
    assert ResearcherKeys().command("list") == "fedplug researcher list"
    assert ResearcherKeys(fedplug_dir / "b").command("list") == f"fedplug researcher --folder {fedplug_dir / 'b'} list"
