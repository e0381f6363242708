"""Which keys a node uses for an address, and what its log says of it."""

from __future__ import annotations

import logging

import pytest

from fedplug.core.errors import KeysError
from fedplug.core.key_list import KeyList
from fedplug.core.keys import KeyPair, fingerprint
from fedplug.core.transport import TransportOptions
from fedplug.node.keys import LinkOptions, NodeKeys, trust, untrust
from fedplug.node.store import NodeStore

HERE = "zmq://127.0.0.1:7400"
LAB = "zmq://lab.example:7400"
OWN = KeyPair("0a" * 32, "0b" * 32)
A, B = "aa" * 32, "bb" * 32


@pytest.fixture
def keys(tmp_path):
    keys = NodeKeys(tmp_path)
    keys.own.add(OWN)
    return keys


def test_a_node_that_trusts_nobody_yet_uses_no_keys(keys):
    given = TransportOptions(heartbeat=0.5)
    assert keys.options(HERE, given) is given
    assert keys.options(LAB, given) is given, "the transport refuses that, with the cure"


def test_a_node_uses_its_keys_where_it_trusts_somebody_and_never_talks_without(keys):
    keys.researchers.add(LAB, A)
    for given in (TransportOptions(heartbeat=0.5), TransportOptions(heartbeat=0.5, insecure_plaintext=True)):
        options = keys.options("zmq://LAB.example:7400/", given)
        assert (options.keys, options.peer_key, options.heartbeat) == (OWN, A, 0.5)
        with pytest.raises(KeysError, match=f"trusts no key of a researcher at {HERE}"):
            keys.options(HERE, given)
    assert keys.options("inproc://here", TransportOptions()).keys is None, "nobody can listen within a process"
    own = TransportOptions(keys=KeyPair(B, B), peer_key=A)
    assert keys.options(HERE, own) is own, "a script that brings keys knows what it does"


def test_while_a_researcher_changes_keys_the_node_tries_one_after_the_other(keys):
    keys.researchers.add(LAB, A)
    keys.researchers.add(HERE, A)
    keys.researchers.add(LAB, B)
    given = TransportOptions()
    assert [keys.options(LAB, given).peer_key for _ in range(4)] == [A, B, A, B]
    assert [keys.options(HERE, given).peer_key for _ in range(2)] == [A, A]
    keys.researchers.remove(A)
    assert [keys.options(LAB, given).peer_key for _ in range(2)] == [B, B], "a running node obeys at once"


def test_a_node_that_has_lost_its_keys_says_so(tmp_path):
    keys = NodeKeys(tmp_path)
    keys.researchers.add(HERE, A)
    with pytest.raises(KeysError, match="has lost its keys") as caught:
        keys.options(HERE, TransportOptions())
    assert "fedplug keys --folder" in caught.value.cure


def test_the_log_says_how_traffic_is_protected_whenever_that_changes(keys, caplog):
    caplog.set_level(logging.INFO)
    link = LinkOptions(keys, HERE, TransportOptions(insecure_plaintext=True))

    def told():
        link()
        link()
        found = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return found

    assert told() == [("WARNING", f"Traffic with {HERE} is not encrypted, as --insecure-plaintext allows.")]
    keys.researchers.add(HERE, A)
    ((level, text),) = told()
    assert level == "INFO"
    assert text.endswith(f"is encrypted; the researcher there must have key {fingerprint(A)}.")
    keys.researchers.add(HERE, B)
    ((_, text),) = told()
    assert text.endswith(f"must have key {fingerprint(A)} or {fingerprint(B)}.")
    (keys.own.path / "own.key").chmod(0o644)
    for _ in range(2):
        with pytest.raises(KeysError, match="Others can read"):
            link()
    ((level, text),) = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert level == "ERROR"
    assert "chmod 600" in text
    assert LinkOptions(None, HERE, TransportOptions())() == TransportOptions()


def test_who_starts_a_node_gets_its_first_error_and_does_not_read_it_in_the_log_as_well(keys, caplog):
    keys.researchers.add(LAB, A)
    link = LinkOptions(keys, HERE, TransportOptions())
    with pytest.raises(KeysError, match="trusts no key"):
        link()
    assert not caplog.records


def test_a_connection_may_stay_as_long_as_its_key_is_trusted(keys):
    link = LinkOptions(keys, HERE, TransportOptions())
    plain = link()
    assert link.holds(plain)
    keys.researchers.add(HERE, A)
    assert not link.holds(plain), "a node that trusts a key goes on with it at once"
    options = link()
    assert link.holds(options)
    keys.researchers.add(HERE, B)
    keys.researchers.remove(A)
    assert not link.holds(options)
    assert link.holds(link())
    keys.researchers.path.chmod(0o666)
    assert not link.holds(options)
    own = TransportOptions(keys=KeyPair(B, B), peer_key=A)
    assert LinkOptions(keys, HERE, own).holds(own)
    assert LinkOptions(keys, "inproc://here", plain).holds(plain)
    assert LinkOptions(None, HERE, plain).holds(plain)


def test_a_running_node_never_goes_on_without_keys(keys, caplog):
    keys.researchers.add(HERE, A)
    link = LinkOptions(keys, HERE, TransportOptions(insecure_plaintext=True))
    assert link().keys == OWN
    keys.researchers.remove(A)
    with pytest.raises(KeysError, match="a running node does not go on without"):
        link()
    assert "fedplug node trust KEY" in caplog.records[-1].getMessage()
    assert LinkOptions(keys, HERE, TransportOptions())().keys is None, "a node that is started again may"


def test_addresses_that_two_commands_add_at_the_same_time_are_both_kept(tmp_path, monkeypatch):
    add = KeyList.add

    def and_another_command(self, *given, **more):
        monkeypatch.setattr(KeyList, "add", add)
        with NodeStore.open(tmp_path) as other:
            trust(other, B, "inproc://other")
        return add(self, *given, **more)

    with NodeStore.create(tmp_path, researcher="inproc://first") as store:
        NodeKeys(tmp_path).own.add(OWN)
        monkeypatch.setattr(KeyList, "add", and_another_command)
        trust(store, A, "inproc://lab")
        assert set(store.identity.researchers) == {"inproc://first", "inproc://other", "inproc://lab"}
        remove = KeyList.remove

        def and_one_adds(self, name):
            monkeypatch.setattr(KeyList, "remove", remove)
            with NodeStore.open(tmp_path) as other:
                trust(other, A, "inproc://new")
            return remove(self, name)

        monkeypatch.setattr(KeyList, "remove", and_one_adds)
        untrust(store, "inproc://lab")
        assert "inproc://new" in store.identity.researchers
        assert "inproc://lab" not in store.identity.researchers
