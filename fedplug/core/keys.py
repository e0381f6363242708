"""Keys: what a node and a researcher prove to each other before they talk.

A key is 32 bytes, written as 64 hexadecimal digits: safe in a shell, in TOML and in a spreadsheet, unlike the Z85 of
ZeroMQ, in which nearly every key holds a ``>``, ``&`` or ``$``. Who knows a public key can recognise its owner; who
knows a secret key can pass for its owner. Pairs are made by the transport that uses them (`Transport.new_keys`).
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from fedplug.core.errors import FedplugError, KeysError

KEY_DIGITS = 64
"""Hexadecimal digits of a key."""

_log = logging.getLogger("fedplug.keys")
_RESTORE = "Bring its file back from a copy, or make new keys."
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and the secret that belongs to it.

    Attributes:
        public: What others are given, to recognise the owner.
        secret: What proves it. It never shows in a text or a log, and must not leave its machine.

    Raises:
        KeysError: One of them is not a key.
    """

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.public):
            raise KeysError(
                f"The public key of a pair of keys is damaged: it is not {KEY_DIGITS} hexadecimal digits.",
                cure=_RESTORE,
            )
        if not _HEX.fullmatch(self.secret):
            raise KeysError(
                f"The secret key that belongs to {fingerprint(self.public)} is damaged: it is not "
                f"{KEY_DIGITS} hexadecimal digits.",
                cure=_RESTORE,
            )


class Refusal(StrEnum):
    """Why two ends that reached each other do not talk."""

    UNKNOWN_KEY = "unknown-key"
    """The node has proved who it is, and its key is not enrolled, or not any more."""

    WRONG_KEY = "wrong-key"
    """The researcher is not the one whose key the node trusts."""

    PLAINTEXT_NODE = "plaintext-node"
    """The researcher takes only encrypted traffic, and the node has no keys."""

    PLAINTEXT_RESEARCHER = "plaintext-researcher"
    """The node sends only encrypted traffic, and the researcher has no keys."""

    NO_ANSWER = "no-answer"
    """The researcher cannot tell whether the node's key is enrolled, so nobody gets in."""

    FULL = "full"
    """The researcher's process has as many connections and files open as it may. The node is told nothing."""


class Doorkeeper:
    """Decides at a researcher's whether the holder of a key may talk to them.

    Args:
        enrolled: The id of the node that a public key is enrolled for; empty if nobody may use it.
    """

    def __init__(self, enrolled: Callable[[str], str]) -> None:
        self._enrolled = enrolled
        self._failing = False

    def refuses(self, key: str) -> Refusal | None:
        """Why the holder of a key may not talk; None if they may. Who cannot be looked up may not."""
        try:
            found = bool(self._enrolled(key))
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer must not become yes
            if not self._failing:
                why = str(error) if isinstance(error, FedplugError) else f"{type(error).__name__}: {error}"
                _log.error(
                    "Nobody gets in, since it cannot be found out whose keys are enrolled: %s", why.replace("\n", " ")
                )
                _log.debug("Where it went wrong:", exc_info=error)
            self._failing = True
            return Refusal.NO_ANSWER
        self._failing = False
        return None if found else Refusal.UNKNOWN_KEY


def check_public(text: str, what: str = "The key") -> str:
    """A public key as people give it, tidied: without blanks around it, in small letters.

    Args:
        text: The key.
        what: What it is, for the message, e.g. ``"The key of hospital-a"``.

    Returns:
        The key in its one form, by which keys can be compared.

    Raises:
        KeysError: It is no key.
    """
    key = text.strip().lower()
    if not _HEX.fullmatch(key):
        shown = f"{key[:16]}..." if len(key) > 16 else key
        raise KeysError(
            f"{what} is no public key: {shown!r} ({len(key)} characters).",
            cure=f"A public key is {KEY_DIGITS} digits and letters from a to f. Its owner sees it with: "
            "fedplug keys show",
        )
    return key


def fingerprint(public: str) -> str:
    """A short name of a public key that two people can compare over the telephone.

    Args:
        public: The key, as `check_public` returns it.

    Returns:
        The first 80 bits of its SHA-256 in groups of four digits, e.g. ``"3f2a-91bc-77d0-e1e2-0b6c"``.
    """
    digest = hashlib.sha256(bytes.fromhex(public)).hexdigest()
    return "-".join(digest[start : start + 4] for start in range(0, 20, 4))


def allow_command(node_id: str, public: str) -> str:
    """What the researcher types to let a node in.

    Args:
        node_id: The node's id.
        public: Its public key.
    """
    return shlex.join(["fedplug", "researcher", "allow", node_id, public])
