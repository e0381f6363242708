"""A node that is not let in: what its owner is told, and when it tries again."""

from __future__ import annotations

import random
from dataclasses import replace

from fedplug.core.keys import Refusal, allow_command, fingerprint
from fedplug.core.transport import Closed, TransportOptions

_MOST_WAITS = 4
"""After so many refusals in a row the wait stops doubling."""


class Handshakes:
    """How the last tries of a node to connect have ended.

    A researcher that is not there costs nobody anything, so a node tries again steadily. A handshake that is refused
    costs the researcher something, so the waits grow: up to 1, 2, 4, 8, 15 times ``retry``, each drawn anew from 0 to
    that much (full jitter), so that many nodes do not come at once.

    Args:
        node_id: The node's id.
        retry: Seconds between two tries to connect, give or take a quarter.
        chance: Draws the waits.
    """

    def __init__(self, node_id: str, retry: float, chance: random.Random) -> None:
        self._node_id = node_id
        self._retry = retry
        self._chance = chance
        self._refused = 0

    def opened(self) -> None:
        """A connection stands."""
        self._refused = 0

    def ended(self, closed: Closed, options: TransportOptions) -> Closed | None:
        """A connection has ended, or was not made.

        Args:
            closed: As the transport tells it.
            options: With which it was tried.

        Returns:
            The same with words for the node's owner; None if it is to be passed over in silence. A handshake that
            broke off looks like one with the wrong researcher, so that is said when it happens twice.
        """
        if closed.refusal is None:
            self._refused = 0
            return closed
        self._refused += 1
        if closed.refusal is Refusal.WRONG_KEY and self._refused == 1:
            return None
        return replace(closed, reason=refusal_words(closed.refusal, self._node_id, options))

    def wait(self) -> float:
        """Seconds until the next try."""
        if not self._refused:
            return self._retry * self._chance.uniform(0.75, 1.25)
        most = 2 ** (self._refused - 1) if self._refused <= _MOST_WAITS else 15
        return self._retry * most * self._chance.random()


def refusal_words(refusal: Refusal, node_id: str, options: TransportOptions) -> str:
    """Why a node is not connected, and what to do about it, for its owner.

    Args:
        refusal: Why.
        node_id: The node's id.
        options: With which it tried to connect.
    """
    match refusal:
        case Refusal.UNKNOWN_KEY:
            public = options.keys.public if options.keys else ""
            return (
                "they have not allowed this node's key, or not any more. Send them this line to type; then the node "
                f"gets in: {allow_command(node_id, public)}"
            )
        case Refusal.WRONG_KEY:
            return (
                f"who answers there does not have the key that this node trusts ({fingerprint(options.peer_key)}). Ask "
                "the researcher to compare it with what 'fedplug keys show' shows there. If it is another address, or "
                "somebody else, do not go on; if they have changed their keys, type: fedplug node trust KEY"
            )
        case Refusal.PLAINTEXT_NODE:
            return (
                "they take encrypted connections only, and this node has no key of theirs. Ask them for it, and type: "
                "fedplug node trust KEY"
            )
        case Refusal.PLAINTEXT_RESEARCHER:
            return (
                "they use no keys, and this node trusts a key there, so it does not talk to them unencrypted. They "
                "make keys with: fedplug researcher init"
            )
        case Refusal.NO_ANSWER:
            return (
                "they cannot tell at the moment which keys they have allowed, so they let nobody in. There is nothing "
                "to do here: the log on their side says what is wrong"
            )
        case Refusal.FULL:
            return "they have no room for more nodes. There is nothing to do here: the log on their side says more"
