"""Why a handshake failed.

libzmq says much to the researcher and little to the node: a wrong key, a missing key and a tunnel that leads nowhere
all look alike there. So a stranger asks once more who is at the address. Every end of ZMTP 3 begins with a greeting of
64 bytes that names how it wants to be talked to (NULL: without keys, CURVE: with them;
https://rfc.zeromq.org/spec/23/). The stranger sends the beginning of a greeting, reads the other's, says how it would
talk itself, so that the other side hears of a mismatch too, and leaves. What it hears serves for a message and for
nothing else.
"""

from __future__ import annotations

import errno
import socket
import time

import zmq

from fedplug.core.keys import Refusal

_HELLO = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03"
"""Signature and version: enough to be greeted in full."""

_GREETING = 64
_ZAP_REFUSED = 400
_SIGNATURE = (b"\xff", b"\x7f")
_MECHANISM = slice(12, 32)


def refusal_at_researcher(event: int, value: int, *, keys: bool) -> Refusal | None:
    """Why the ROUTER did not let somebody in.

    Args:
        event: Of its monitor.
        value: What came with the event.
        keys: Whether this side has keys.

    Returns:
        None if it was no node of ours: garbage, or a connection that broke off.
    """
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            return Refusal.WRONG_KEY
        if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return Refusal.PLAINTEXT_NODE if keys else Refusal.PLAINTEXT_RESEARCHER
    elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EFAULT:
        return Refusal.NO_ANSWER  # Nobody is at the door.
    return None


def refusal_at_node(event: int, value: int, host: str, port: int, *, keys: bool, waited: bool) -> Refusal | None:
    """Why the DEALER was not let in, or did not go in. May ask at the address, which takes a second at most.

    Args:
        event: Of its monitor.
        value: What came with the event.
        host: The researcher's address.
        port: His port.
        keys: Whether this side has keys.
        waited: Whether the handshake had been under way for long. Who cannot read what was encrypted for somebody else
            hangs up at once; where nobody is at the door, time passes.

    Returns:
        None if it has nothing to do with keys.
    """
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return Refusal.UNKNOWN_KEY if value == _ZAP_REFUSED else Refusal.NO_ANSWER
    if event not in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
        return None
    match mechanism_of(host, port, keys=keys), keys:
        case "NULL", True:
            return Refusal.PLAINTEXT_RESEARCHER
        case "CURVE", False:
            return Refusal.PLAINTEXT_NODE
        case "CURVE", True:
            return Refusal.NO_ANSWER if waited else Refusal.WRONG_KEY
    return None


def mechanism_of(host: str, port: int, *, keys: bool, patience: float = 1.0) -> str:
    """How whoever listens there wants to be talked to.

    Args:
        host: Its address.
        port: Its port.
        keys: Whether this side has keys; the other side is told.
        patience: Seconds that this may take in all.

    Returns:
        ``"NULL"``, ``"CURVE"`` or another name; empty if nobody there greets as ZeroMQ does.
    """
    end = time.monotonic() + patience
    greeting = b""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=patience) as line:
            line.sendall(_HELLO)
            while len(greeting) < _GREETING:
                line.settimeout(max(0.001, end - time.monotonic()))
                part = line.recv(_GREETING - len(greeting))
                if not part:
                    return ""
                greeting += part
            mine = b"CURVE" if keys else b"NULL"
            line.sendall((b"\x01" + mine.ljust(20, b"\0")).ljust(_GREETING - len(_HELLO), b"\0"))
    except OSError:
        return ""
    if (greeting[:1], greeting[9:10]) != _SIGNATURE:
        return ""
    return greeting[_MECHANISM].rstrip(b"\0").decode("ascii", errors="replace")
