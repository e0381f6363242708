"""CurveZMQ: keys on both sides of a connection, and the door at which the researcher looks at them.

libzmq asks the door (ZAP, https://rfc.zeromq.org/spec/27/) once, in the middle of a handshake. Left to its defaults it
lets everybody in when nobody answers; with a domain and ``ZAP_ENFORCE_DOMAIN`` it lets nobody in. The door also gives
each connection its public key as user id, which comes with every message and can be looked at again.
"""

from __future__ import annotations

import zmq
from zmq.utils import z85

from fedplug.core.errors import KeysError
from fedplug.core.keys import Doorkeeper, KeyPair, Refusal, fingerprint
from fedplug.core.transport import MAX_BODY, TurnedAway

DOOR = "inproc://zeromq.zap.01"
_DOMAIN = b"fedplug"
_VERSION = b"1.0"
_ENVELOPE = 64
"""Room, in bytes, for what encryption adds to a frame: 33 (https://rfc.zeromq.org/spec/26/)."""

_CODES = {Refusal.UNKNOWN_KEY: b"400", Refusal.NO_ANSWER: b"500"}
"""Status codes of ZAP: the node is told of these two; of the others (300) it would hear nothing."""


def new_keys() -> KeyPair:
    """A pair of keys of Curve25519."""
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public).hex(), z85.decode(secret).hex())


def check_pair(keys: KeyPair) -> None:
    """Refuse a secret that belongs to another public key: nobody could tell later what is wrong.

    Raises:
        KeysError: They are not of one pair.
    """
    if z85.decode(zmq.curve_public(z85.encode(bytes.fromhex(keys.secret)))).hex() != keys.public:
        raise KeysError(
            f"The secret key does not belong to the public key {fingerprint(keys.public)}.",
            cure="Bring the file with the keys back from a copy, or make new keys.",
        )


def lock(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    """Make a socket of the researcher's take nothing but encrypted traffic of those whom the `Door` lets in."""
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BODY + _ENVELOPE)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.secret))
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def carry(socket: zmq.Socket[bytes], keys: KeyPair, peer_key: str) -> None:
    """Make a socket of a node's talk to the holder of ``peer_key`` and to nobody else."""
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BODY + _ENVELOPE)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(keys.public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.secret))
    socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(peer_key))


class Door:
    """Answers who may connect. It is opened before the socket that it guards is bound, in the same context.

    Args:
        context: Of that socket.
        keeper: Decides.

    Attributes:
        socket: To be polled; when it can be read, `answer` has work.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keeper: Doorkeeper) -> None:
        self._keeper = keeper
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(DOOR)

    def answer(self) -> list[TurnedAway]:
        """Answer all who wait at the door. Returns those who were turned away."""
        away: list[TurnedAway] = []
        while True:
            try:
                request = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return away
            number = request[1] if len(request) > 1 else b""
            key, refused = self._judge(request)
            code = b"200" if refused is None else _CODES[refused.refusal]
            self.socket.send_multipart([_VERSION, number, code, b"", key.encode(), b""])
            if refused is not None:
                away.append(refused)

    def _judge(self, request: list[bytes]) -> tuple[str, TurnedAway | None]:
        """The key of who knocks, and who is turned away."""
        match request:
            case [version, _, domain, address, _, b"CURVE", raw] if version == _VERSION and domain == _DOMAIN:
                key = raw.hex()
            case _:
                return "", TurnedAway(Refusal.NO_ANSWER)
        refusal = self._keeper.refuses(key)
        return (key, None) if refusal is None else ("", TurnedAway(refusal, key, address.decode(errors="replace")))
