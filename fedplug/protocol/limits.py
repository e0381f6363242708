"""The figures of the protocol, in one place, so that tests can make them small."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedplug.wire.headers import SLOWEST


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Attributes:
        heartbeat: A side that has said nothing for so long says that it is alive.
        signs: Signs of life a second that a researcher takes from all nodes together. Where that is too few for so many
            nodes, each speaks more rarely: see `pace`.
        missed: So many heartbeats may fail to arrive before the other side counts as lost.
        patience: While chunks are due the silence may be this many times longer, because heartbeats queue
            behind them on a slow line.
        strangers: A connection without a session is dropped after so many times the silence of a session.
        chunk: Size of the pieces in which blobs are pulled.
        inline: Blobs up to this size travel in the message that names them.
        peer_credit: Chunks that may be under way from one peer.
        pool_credit: Chunks that may be under way to one receiver, from all peers together.
        offer: Largest update that a researcher accepts, arrays and extra arrays together.
        task: Largest task that a node accepts, likewise.
        repeat: An unanswered request is sent again after so long, then after twice that, ...
        repeat_longest: ... but at least so often. Chunks of which none has come for so long are asked for again.
        ack_delay: A node acknowledges a task that it has not finished after this time. A shorter one needs
            no acknowledgement: its result is one.
        sign_rate: Signs of life and log lines that a node sends per second.
        sign_backlog: How many of them wait at most; the oldest give way.
        malformed: Whoever sends so many unusable messages within `mute` seconds is dropped ...
        mute: ... and not let in again for so long.
        bad_chunks: A blob of which so many chunks arrived damaged is given up.
        peer_backlog: Frames that may wait for one peer before its requests for chunks are ignored.
        remembered: Ended tasks that are remembered, to recognise what comes late.
    """

    heartbeat: float = 2.0
    signs: float = 250.0
    missed: int = 3
    patience: float = 5.0
    strangers: float = 10.0
    chunk: int = 1024 * 1024
    inline: int = 64 * 1024
    peer_credit: int = 16
    pool_credit: int = 32
    offer: int = 8 * 1024**3
    task: int = 8 * 1024**3
    repeat: float = 5.0
    repeat_longest: float = 60.0
    ack_delay: float = 0.2
    sign_rate: float = 50.0
    sign_backlog: int = 256
    malformed: int = 16
    mute: float = 60.0
    bad_chunks: int = 64
    peer_backlog: int = 256
    remembered: int = 65_536

    @property
    def silence(self) -> float:
        """Seconds of silence after which the other side is lost."""
        return self.heartbeat * self.missed

    def pace(self, nodes: int) -> float:
        """Seconds between two signs of life of each of so many connected nodes: the heartbeat, or a multiple of it."""
        most = max(1.0, SLOWEST / self.heartbeat)
        return self.heartbeat * min(max(1, math.ceil(nodes / (self.signs * self.heartbeat))), most)

    @property
    def sweep(self) -> float:
        """Seconds between two looks at everything that depends on time."""
        return self.heartbeat / 4
