"""A task at the node, from TASK to COMMITTED."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedplug.core.link import FinishedTask
from fedplug.core.messages import TaskFailure, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params
from fedplug.protocol.bodies import AUX, PARAMS, Assembly, pack
from fedplug.wire import Blob, encode_header
from fedplug.wire import headers as h

FETCHING = "fetching"
RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"


@dataclass(slots=True, eq=False)
class Job:
    """One task.

    Attributes:
        key: Its name.
        request: What is asked for; None if the task was finished by an earlier run of the node.
        state: How far it is.
        assembly: What came, or is still to come, with the request.
        ack_due: When to acknowledge the task, if nothing else was said about it before; 0 if it was.
        blobs: What is to go to the researcher, by slot.
        due: When to send the end again if the researcher says nothing about it; 0 if it did.
        wait: Seconds until the time after that.
    """

    key: TaskKey
    request: TrainRequest | None = None
    assembly: Assembly = field(default_factory=lambda: Assembly({}))
    state: str = FETCHING
    ack_due: float = 0.0
    reply: TrainReply | None = None
    failure: TaskFailure | None = None
    blobs: dict[str, Blob] = field(default_factory=dict)
    due: float = 0.0
    wait: float = 0.0

    @classmethod
    def restored(cls, task: FinishedTask) -> Job:
        """The job of a task that an earlier run of the node has finished."""
        job = cls(task.reply.key)
        job.finish(task.reply, task.params, task.aux)
        return job

    @property
    def ended(self) -> bool:
        """Whether it only waits for the researcher to take note."""
        return self.state in (FINISHED, FAILED)

    def find(self, blob_id: str) -> Blob | None:
        """The blob of the result that has this id."""
        return next((blob for blob in self.blobs.values() if blob.id == blob_id), None)

    def finish(self, reply: TrainReply, params: Params, aux: Mapping[str, Params]) -> None:
        """Note the result."""
        self.state = FINISHED
        self.reply = reply
        self.blobs = {PARAMS: Blob.of_params(params)}
        self.blobs.update({AUX + name: Blob.of_params(aux[name]) for name in reply.aux})
        self.assembly = Assembly({})

    def fail(self, failure: TaskFailure) -> None:
        """Note the failure."""
        self.state = FAILED
        self.failure = failure
        self.assembly = Assembly({})

    def message(self, session: h.Session, inline: int) -> tuple[bytes, bytes]:
        """Header and body of the OFFER or ERROR that tells the end."""
        if self.failure is not None:
            failure = self.failure
            header = h.Error(session=session, code=failure.code, text=failure.text[:1024], failure=failure)
            return encode_header(header), b""
        if self.reply is None:
            raise RuntimeError(f"Task {self.key} has not ended.")
        packed = pack(self.blobs, inline)
        aux = {slot[len(AUX) :]: ref for slot, ref in packed.refs.items() if slot.startswith(AUX)}
        offer = h.Offer(
            session=session, reply=self.reply, params=packed.refs[PARAMS], tables=packed.tables.raw, aux=aux
        )
        return encode_header(offer), packed.body
