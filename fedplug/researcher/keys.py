"""A researcher's keys, and the nodes that they let in, in ``$FEDPLUG_DIR/keys``.

Once there are keys, experiments take encrypted connections only, and only from nodes whose keys are in the list. The
list is read again when it changes, so who is denied is out at once, in an experiment that runs too.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.key_folder import KeyFolder
from fedplug.core.key_list import KeyEntry, KeyList
from fedplug.core.keys import KeyPair
from fedplug.core.plugins import default_host
from fedplug.core.transport import Transport, TransportOptions
from fedplug.researcher.folders import home_folder
from fedplug.transports.registry import open_transport, scheme_of

KEYS_FOLDER = "keys"
NODES_FILE = "nodes"
DEFAULT_ADDRESS = "zmq://127.0.0.1:7400"
"""Where a researcher listens who says nothing else."""

_IN_PROCESS = "inproc"
_HEAD = (
    "Nodes that may connect: id, public key, since when. A running experiment obeys changes at once.",
    "Changed by: fedplug researcher allow NODE KEY, fedplug researcher deny NODE",
)

_log = logging.getLogger("fedplug.experiment")


class ResearcherKeys:
    """The keys of a researcher, and the keys of the nodes that they let in.

    Args:
        home: The researcher's folder; by default ``$FEDPLUG_DIR``.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or home_folder()
        self.own = KeyFolder(self.home / KEYS_FOLDER, renew=self.command("rotate"))
        self.nodes = KeyList(self.home / KEYS_FOLDER / NODES_FILE, _HEAD)

    def command(self, *words: str) -> str:
        """A command for this folder, which is named only if it is not where the command looks anyway."""
        place = [] if self.home == home_folder() else ["--folder", str(self.home)]
        return shlex.join(["fedplug", "researcher", *place, *words])

    def options(self, transport: Transport, url: str, given: TransportOptions) -> TransportOptions:
        """The options to listen with: with these keys, wherever they can be used.

        Args:
            transport: What will listen.
            url: Where.
            given: All other options. If they hold keys, or allow traffic without, they stay as they are.

        Returns:
            Options with keys; ``given`` if there are no keys, or the address lies within this process.

        Raises:
            KeysError: The keys cannot be used.
        """
        if given.keys is not None or scheme_of(url) == _IN_PROCESS:
            return given
        if given.insecure_plaintext:
            _log.warning("Traffic with the nodes at %s is not encrypted, as insecure_plaintext allows.", url)
            return given
        pair = self.own.pair()
        if pair is None:
            return given
        if type(transport).new_keys is Transport.new_keys:
            _log.warning("Your keys are not used at %s: this kind of transport knows none.", url)
            return given
        return replace(given, keys=pair, enrolled=self.nodes.name_of)

    def allow(self, node_id: str, key: str, *, only: bool = False) -> Sequence[KeyEntry]:
        """Let the node of that id in by a key.

        Args:
            node_id: The node's id.
            key: Its public key, as `check_public` returns it.
            only: Whether the other keys of that node are not let in any more.

        Returns:
            All that the node is let in by now.

        Raises:
            UsageError: There are no keys of the researcher's own yet, or the id cannot be one.
            KeysError: It is the researcher's own key or that of another node; or the files cannot be used.
        """
        own = self.own.pair()
        if own is None:
            raise UsageError(
                "You have no keys yet, so nothing can be encrypted.", cure=f"Make them: {self.command('init')}"
            )
        if key == own.public:
            raise KeysError("This is your own public key.", cure="A node's owner sees theirs with: fedplug keys show")
        other = next((entry.name for entry in self.nodes.entries() if entry.key == key and entry.name != node_id), "")
        if other:
            raise KeysError(
                f"This key is that of the node {other}, and two nodes cannot share one.",
                cure=f"If it calls itself {node_id} now, type: {self.command('deny', other)}\n"
                f"and then this command again.",
            )
        return self.nodes.add(node_id, key, only=only)


def usual_address() -> str:
    """Where the researcher listens, unless an experiment says otherwise."""
    return os.environ.get("FEDPLUG_TRANSPORT") or DEFAULT_ADDRESS


def new_pair() -> KeyPair:
    """A pair of keys for the transport that the researcher uses.

    Raises:
        AddressError: It is not installed.
        KeysError: It knows no keys.
    """
    return open_transport(usual_address(), default_host()).new_keys()
