"""Whether a HELLO may begin a session. The one place where identity is decided.

On a connection without keys a node is who it says it is. With keys it is the node that its key is enrolled for, and
calling itself by another id does not help.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from fedplug.core.keys import allow_command
from fedplug.protocol.limits import Limits
from fedplug.protocol.sessions import VERSIONS, Node, Peer, negotiate
from fedplug.wire.headers import Hello


@dataclass(frozen=True, slots=True)
class No:
    """What REFUSE says.

    Attributes:
        code: What kind of refusal.
        text: Why, for the node's owner.
        retry_after: Seconds until the node may try again.
    """

    code: str
    text: str
    retry_after: float


def unfit(peer: Peer, hello: Hello, enrolled: Callable[[str], str] | None) -> No | None:
    """Why nobody who says this over this connection can have a session; None if they can.

    Args:
        peer: The connection.
        hello: What came over it.
        enrolled: As in `TransportOptions`; None without keys.
    """
    if negotiate(hello.versions) is None:
        text = (
            f"The researcher speaks versions {VERSIONS[0]} to {VERSIONS[1]} of the protocol, this node "
            f"{hello.versions[0]} to {hello.versions[1]}. Upgrade FedPlug on the older side."
        )
        return No("version", text, 30.0)
    node_id = hello.node.node_id
    if not peer.key or (owner := _owner(peer.key, enrolled)) == node_id:
        return None
    if not owner:
        return No("unknown-key", f"This node's key is not allowed: {allow_command(node_id, peer.key)}", 2.0)
    text = (
        f"The researcher has allowed this node's key for a node with the id {owner!r}, but this node's id is "
        f"{node_id!r}. They change that with: {shlex.join(['fedplug', 'researcher', 'deny', peer.key])} and then: "
        f"{allow_command(node_id, peer.key)}"
    )
    return No("wrong-id", text, 30.0)


def outranked(peer: Peer, hello: Hello, node: Node, limits: Limits, now: float) -> No | None:
    """Why a HELLO must stand back behind the connection that the node has already; None if it takes that one's place.

    Two processes with one key are two copies of one node, of which the younger one is right: it is the older one that
    was left behind when the node was moved. Without keys the one who came first is right, until it falls silent: the
    other one could be anybody.

    Args:
        peer: The connection over which the HELLO came.
        hello: The HELLO, of another process than the one that the node's session is with.
        node: The node, connected otherwise.
        limits: Figures.
        now: The time.
    """
    if now - node.heard > node.heartbeat * limits.missed or (peer.key and hello.session[0] > node.session[0]):
        return None
    if peer.key:
        return replaced(limits)
    text = (
        f"A node with the id {node.node_id!r} is connected already. Ids must be unique: a copied node folder needs a "
        "new one."
    )
    return No("duplicate-node", text, limits.silence)


def replaced(limits: Limits) -> No:
    """What the older one of two processes with one key is told."""
    text = (
        "A younger copy of this node, with the same key, is connected from elsewhere, so this one is not let in. If "
        "you have moved the node, stop this one. If you have not, somebody has copied its secret key: tell the "
        "researcher, and make new keys with: fedplug node rotate"
    )
    return No("copied-key", text, limits.silence)


def muted(limits: Limits, left: float) -> No:
    """What a node is told that has sent too many unusable messages."""
    text = (
        f"This node has sent {limits.malformed} messages that make no sense, so the researcher does not listen to it "
        f"for {limits.mute:g} s. Upgrade FedPlug on both sides; if it happens again, tell the researcher."
    )
    return No("muted", text, left)


def mute_notice(sender: str, limits: Limits, what: str) -> str:
    """What the researcher is told of a node, or of a key, that is muted."""
    deny = shlex.join(["fedplug", "researcher", "deny", sender])
    return (
        f"{sender} has sent {limits.malformed} messages that make no sense and is not listened to for {limits.mute:g} "
        f"s. The last one: {what} If it happens again, upgrade FedPlug on both sides; with keys you keep it out with: "
        f"{deny}"
    )


def copy_alarm(peer: Peer, hello: Hello, node: Node, now: float) -> str:
    """What the researcher is told when two processes with one key want to take part; empty if it was, or is too early.

    It takes a sign of life of the connected one after the other one came: else it may be a dead line that is left of a
    node which was restarted after its clock was put back. It is said once for each process that takes part.

    Args:
        peer: The connection of the one that has to stand back.
        hello: What it said.
        node: The node, connected otherwise.
        now: The time.
    """
    if not peer.key or node.alarmed == node.session[0]:
        return ""
    if node.rival[0] != hello.session[0]:
        node.rival = (hello.session[0], now)
    if node.heard <= node.rival[1]:
        return ""
    node.alarmed = node.session[0]
    return (
        f"Two copies of the node {node.node_id}, with the same key, want to take part, and the younger one does. "
        "Ask its owner: if the node was not moved, its secret key was copied, and you keep both out with: "
        f"{shlex.join(['fedplug', 'researcher', 'deny', node.node_id])}"
    )


def _owner(key: str, enrolled: Callable[[str], str] | None) -> str:
    """The node that a key is enrolled for. Who cannot be looked up is nobody."""
    try:
        return enrolled(key) if enrolled is not None else ""
    except Exception:  # noqa: BLE001 - the transport asks the same question, and reports what is wrong
        return ""
