"""docs/security.md says what the code does: names of files, figures, messages, and commands that are there."""

from __future__ import annotations

import re
from pathlib import Path

import zmq

from fedplug.core.key_folder import OWN_FILE
from fedplug.core.keys import KeyPair, Refusal
from fedplug.core.transport import TransportOptions
from fedplug.node import keys as node_keys
from fedplug.node.commands import DEFAULT_FOLDER
from fedplug.protocol.handshakes import refusal_words
from fedplug.protocol.limits import Limits
from fedplug.researcher import keys as researcher_keys
from fedplug.researcher.folders import DEFAULT_HOME
from fedplug_zmq.sockets import configure

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_files_lie_where_the_page_says():
    for place in (
        f"{DEFAULT_FOLDER}/{node_keys.KEYS_FOLDER}/{OWN_FILE}",
        f"{DEFAULT_FOLDER}/{node_keys.KEYS_FOLDER}/{node_keys.TRUST_FILE}",
        f"{DEFAULT_HOME}/{researcher_keys.KEYS_FOLDER}/{OWN_FILE}",
        f"{DEFAULT_HOME}/{researcher_keys.KEYS_FOLDER}/{researcher_keys.NODES_FILE}",
    ):
        assert f"| `{place}` |" in PAGE


def test_figures_and_messages_are_those_of_the_code():
    assert f"after {Limits().malformed} in a minute" in PAGE
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        configure(socket, TransportOptions(), asks=True)
        assert f"handshakes have {socket.getsockopt(zmq.HANDSHAKE_IVL) // 1000} seconds" in PAGE
    options = TransportOptions(keys=KeyPair("0a" * 32, "0b" * 32), peer_key="0c" * 32)
    (message,) = re.findall(r"`… (does not have the key.*?)`", PAGE)
    assert message in refusal_words(Refusal.WRONG_KEY, "a", options)


def test_the_page_for_owners_has_every_refusal_about_which_they_can_do_something():
    page = (ROOT / "docs" / "setting-up-a-node.md").read_text(encoding="utf-8")
    table = page[page.index("| message | what to do |") :]
    told = re.findall(r"^\| `… (they .*?|does not .*?)` \|", table, re.MULTILINE)
    options = TransportOptions(keys=KeyPair("0a" * 32, "0b" * 32), peer_key="0c" * 32)
    for refusal in Refusal:
        words = refusal_words(refusal, "a", options)
        assert "There is nothing to do here" in words or any(phrase in words for phrase in told), words


def test_the_commands_that_it_names_are_there(typed):
    named = set(re.findall(r"`fedplug ((?:node|researcher|keys|plugins) [a-z]+|doctor)", PAGE))
    assert len(named) > 12
    for command in sorted(named):
        assert typed(*command.split(), "--help")[0] == 0, command
