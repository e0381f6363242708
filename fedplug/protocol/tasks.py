"""A task at the researcher, from `NodePool.train` to `NodePool.commit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedplug.core.errors import CodecError
from fedplug.core.messages import TaskKey, TrainReply, TrainRequest
from fedplug.core.pool import UpdateOffered
from fedplug.protocol.bodies import AUX, PARAMS, PLAN, Assembly, pack
from fedplug.protocol.sessions import Node
from fedplug.wire import Blob, encode_header
from fedplug.wire.headers import Session
from fedplug.wire.headers import Task as TaskHeader

WAITING = "waiting"
SENT = "sent"
OFFERED = "offered"
FETCHING = "fetching"
FETCHED = "fetched"


@dataclass(slots=True, eq=False)
class Task:
    """One task.

    Attributes:
        blobs: What goes to the node, by slot; emptied when the node has offered a result.
        state: How far it is.
        incarnation: The incarnation of the node that was sent the task; None before.
        acked: Whether the node has said that it holds it.
        due: When to send it again if it is not acknowledged.
        wait: Seconds until the time after that.
        reply: The offer's reply.
        assembly: The offer's arrays.
    """

    request: TrainRequest
    blobs: dict[str, Blob]
    state: str = WAITING
    incarnation: int | None = None
    acked: bool = False
    due: float = 0.0
    wait: float = 0.0
    reply: TrainReply | None = None
    assembly: Assembly = field(default_factory=lambda: Assembly({}))
    parts: dict[str, memoryview] = field(default_factory=dict)

    @property
    def key(self) -> TaskKey:
        """Its name."""
        return self.request.key

    def find(self, blob_id: str) -> Blob | None:
        """The blob of this task that has this id."""
        return next((blob for blob in self.blobs.values() if blob.id == blob_id), None)

    def message(self, node: Node, inline: int) -> tuple[bytes, bytes]:
        """Header and body of the TASK for ``node``, which then knows its plan and model.

        Raises:
            CodecError: The header is too large.
        """
        data = self.encode(node.session, node.known, inline)
        node.known_plan = self.blobs[PLAN].id
        node.known_params = self.blobs[PARAMS].id
        return data

    def encode(self, session: Session, known: frozenset[str], inline: int) -> tuple[bytes, bytes]:
        """Header and body of the TASK."""
        packed = pack(self.blobs, inline, known)
        aux = {slot[len(AUX) :]: ref for slot, ref in packed.refs.items() if slot.startswith(AUX)}
        header = TaskHeader(
            session=session,
            request=self.request,
            plan=packed.refs[PLAN],
            params=packed.refs[PARAMS],
            tables=packed.tables.raw,
            aux=aux,
        )
        return encode_header(header), packed.body

    def offered(self, reply: TrainReply, assembly: Assembly, parts: Mapping[str, memoryview]) -> UpdateOffered:
        """Note what the node has to give. The inputs are not needed any more."""
        self.state = OFFERED
        self.reply = reply
        self.assembly = assembly
        self.parts = dict(parts)
        self.blobs = {}
        params = assembly.slots[PARAMS].spec
        aux = {s[len(AUX) :]: slot.spec for s, slot in assembly.slots.items() if s.startswith(AUX) and slot.spec}
        if params is None:
            raise CodecError("OFFER: the parameters have no table.")
        return UpdateOffered(reply, params, aux)
