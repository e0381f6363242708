"""The keys of a node, and the researchers that it trusts, in the folder ``keys`` in the node's own.

As soon as a node trusts a key, it talks only to researchers who hold one that it trusts, and never unencrypted.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.key_folder import KeyFolder
from fedplug.core.key_list import KeyEntry, KeyList
from fedplug.core.keys import KeyPair, fingerprint
from fedplug.core.plugins import default_host
from fedplug.core.transport import TransportOptions
from fedplug.node.audit.log import AuditLog
from fedplug.node.commands import node_command
from fedplug.node.store import DEFAULT_URL, NodeStore
from fedplug.transports.registry import check_address, open_transport, scheme_of

KEYS_FOLDER = "keys"
TRUST_FILE = "researchers"

_IN_PROCESS = "inproc"
_log = logging.getLogger("fedplug.node")
_HEAD = (
    "Researchers that this node trusts: address, public key, since when.",
    "Changed by: fedplug node trust KEY, fedplug node untrust ADDRESS",
)


class NodeKeys:
    """The keys of the node in a folder.

    Args:
        place: The node's folder.
    """

    def __init__(self, place: Path) -> None:
        folder = place / KEYS_FOLDER
        self.own = KeyFolder(folder, renew=node_command(place, "rotate"))
        self.researchers = KeyList(folder / TRUST_FILE, _HEAD)
        self._place = place
        self._tries: Counter[str] = Counter()

    def trusted(self, url: str) -> tuple[str, ...]:
        """The public keys that a researcher at an address may have: one, or two while they change theirs.

        Raises:
            KeysError: The list cannot be read, or others could have written it.
        """
        return tuple(entry.key for entry in self.researchers.entries() if same_address(entry.name, url))

    def options(self, url: str, given: TransportOptions) -> TransportOptions:
        """The options of the next connection to an address, with the keys for it.

        If several keys are trusted there, each call takes the next one.

        Args:
            url: The address.
            given: All other options. If they hold keys, these stay.

        Returns:
            Options with keys; ``given`` if the node trusts nobody yet, or the address lies within this process.

        Raises:
            KeysError: The node trusts others but not whoever is at this address, or its keys cannot be used.
        """
        if given.keys is not None or scheme_of(url) == _IN_PROCESS or not self.researchers.entries():
            return given
        trusted = self.trusted(url)
        if not trusted:
            raise KeysError(
                f"This node trusts no key of a researcher at {url}. It trusts others, so it talks to nobody without.",
                cure=f"Ask them for their public key, and type: "
                f"{node_command(self._place, 'trust', 'KEY', '--researcher', url)}\n"
                f"If the node is not to connect there: {node_command(self._place, 'untrust', url)}",
            )
        pair = self.own.pair()
        if pair is None:
            raise KeysError(
                f"This node has lost its keys: there are none in {self.own.path}.",
                cure=f"Bring them back from a copy, or make new ones: {keys_command(self._place, 'new')}",
            )
        self._tries[url] += 1
        return replace(given, keys=pair, peer_key=trusted[(self._tries[url] - 1) % len(trusted)])


class LinkOptions:
    """Gives the options of each connection to an address, and says in the log what protects it, whenever that changes.

    Args:
        keys: The keys of the node; None for a node without a folder.
        url: The address.
        given: All other options.
    """

    def __init__(self, keys: NodeKeys | None, url: str, given: TransportOptions) -> None:
        self._keys = keys
        self._url = url
        self._given = given
        self._state = ""
        self._had_keys = False

    def __call__(self) -> TransportOptions:
        """The options of the next connection.

        Raises:
            KeysError: There may be none, as `NodeKeys.options` says.
        """
        try:
            options = self._keys.options(self._url, self._given) if self._keys else self._given
            if options.keys is None and self._had_keys:
                raise KeysError(
                    "No key of the researcher there is trusted any more, and a running node does not go on without.",
                    cure="Trust one (fedplug node trust KEY), or start the node again.",
                )
        except KeysError as error:
            first = not self._state
            if (
                self._is_news(error.message) and not first
            ):  # else the node is being started, and whoever does it gets the error
                _log.error("No connection to %s: %s %s", self._url, error.message, error.cure)
            raise
        if options.keys is not None:
            self._had_keys = True
            trusted = (self._keys and self._keys.trusted(self._url)) or (options.peer_key,)
            whose = " or ".join(fingerprint(key) for key in trusted)
            if self._is_news(whose):
                _log.info("Traffic with %s is encrypted; the researcher there must have key %s.", self._url, whose)
        elif self._is_news("plain") and options.insecure_plaintext:
            _log.warning("Traffic with %s is not encrypted, as --insecure-plaintext allows.", self._url)
        return options

    def holds(self, options: TransportOptions) -> bool:
        """Whether a connection that was made with these options may stay.

        Not so if the researcher's key is not trusted any more; nor without keys, if any key is trusted by now.

        Args:
            options: As this object has given them.
        """
        if self._keys is None or self._given.keys is not None or scheme_of(self._url) == _IN_PROCESS:
            return True
        try:
            if options.keys is None:
                return not self._keys.researchers.entries()
            return options.peer_key in self._keys.trusted(self._url)
        except KeysError:
            return False  # the next connection tells what is wrong

    def _is_news(self, state: str) -> bool:
        before, self._state = self._state, state
        return state != before


def keys_command(place: Path, *words: str) -> str:
    """A command of ``fedplug keys`` for the node in a folder."""
    return node_command(place, *words).replace("fedplug node", "fedplug keys", 1)


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same, as far as their text says."""
    return one.lower().rstrip("/") == other.lower().rstrip("/")


def make_keys(store: NodeStore) -> KeyPair:
    """Make the keys of a node that has none.

    Raises:
        UsageError: It has some.
        KeysError: They cannot be written, or its transport knows no keys.
        AddressError: The transport of its researcher is not installed.
    """
    assert store.folder is not None
    pair = new_pair(store)
    NodeKeys(store.folder).own.add(pair)
    return pair


def new_pair(store: NodeStore) -> KeyPair:
    """A pair of keys for the transport by which a node reaches its researchers.

    Raises:
        KeysError: The transport knows no keys.
        AddressError: It is not installed.
    """
    url = next(iter(store.identity.researchers), DEFAULT_URL)
    return open_transport(url, default_host()).new_keys()


def trust(
    store: NodeStore, key: str, url: str = "", *, only: bool = False, actor: str = "owner"
) -> tuple[str, tuple[KeyEntry, ...]]:
    """Trust a researcher's key. Makes the keys of a node that has none yet.

    Args:
        store: The node's store.
        key: The key, as `check_public` returns it.
        url: Where that researcher listens; by default where the node connects to. A new address is added to those.
        only: Whether the other keys at that address are not trusted any more.
        actor: Who does so, for the audit log.

    Returns:
        The address, and what is trusted there now.

    Raises:
        UsageError: The address is not given, and the node has several.
        AddressError: The address cannot be used.
        KeysError: Keys cannot be read or written, or the key is the node's own.
    """
    assert store.folder is not None
    keys = NodeKeys(store.folder)
    known = store.identity.researchers
    if url:
        check_address(url)
        url = next((each for each in known if same_address(each, url)), url)
    elif len(known) == 1:
        url = known[0]
    else:
        raise UsageError(
            f"This node connects to several researchers: {', '.join(known)}.",
            cure=f"Say whose key it is: {node_command(store.folder, 'trust', 'KEY', '--researcher', 'ADDRESS')}",
        )
    pair = keys.own.pair() or make_keys(store)
    if key == pair.public:
        raise KeysError(
            "This is the node's own public key, and not the researcher's.",
            cure="The researcher sees theirs with: fedplug keys show",
        )
    entries = keys.researchers.add(url, key, only=only)
    with _addresses(store) as urls:
        if url not in urls:
            # The address that every node begins with stands for none, if another is named before it is used.
            unused = urls == [DEFAULT_URL] and not keys.trusted(DEFAULT_URL)
            urls[:] = [url] if unused else [*urls, url]
    AuditLog(store).note("researcher-trusted", actor=actor, researcher=url, key=key)
    return url, entries


def untrust(store: NodeStore, key_or_url: str, *, actor: str = "owner") -> tuple[KeyEntry, ...]:
    """Trust a key, or all keys at an address, no more.

    Where none is left, the node does not connect any more, unless it would connect nowhere then.

    Args:
        store: The node's store.
        key_or_url: The key or the address.
        actor: Who does so, for the audit log.

    Returns:
        What was trusted.

    Raises:
        KeysError: The list cannot be read or written.
    """
    assert store.folder is not None
    keys = NodeKeys(store.folder)
    known = store.identity.researchers
    url = next((each for each in known if same_address(each, key_or_url)), key_or_url)
    gone = keys.researchers.remove(url)
    for entry in gone:
        AuditLog(store).note("researcher-untrusted", actor=actor, researcher=entry.name, key=entry.key)
    places = {url, *(entry.name for entry in gone)}
    with _addresses(store) as urls:
        left = [each for each in urls if each not in places or keys.trusted(each)]
        urls[:] = left or urls
    return gone


@contextlib.contextmanager
def _addresses(store: NodeStore) -> Iterator[list[str]]:
    """The addresses that a node connects to, to be changed; no other command changes them meanwhile."""
    with store.transaction() as db:
        urls = list(store.identity.researchers)
        yield urls
        db.execute("UPDATE node SET researcher = ?", (" ".join(urls),))
