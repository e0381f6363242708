"""FPWP/1: every header that can travel between researcher and node, as one tagged union.

A frame is ``(header, body)``. The header says what the frame is about; the body holds nothing but blobs (in
`Task` and `Offer`, the small ones, one after the other) or one chunk of a blob (`Chunk`); elsewhere it is
empty. All types are strict, unknown fields are refused, and lengths are bounded; what cannot be said with
types is checked in `fedplug.wire.checks`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fedplug.core.messages import (
    DatasetCard,
    LogLine,
    NodeInfo,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)

Count = Annotated[int, Meta(ge=0, le=2**62)]
"""A size or a number of things."""

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Session = tuple[Number, Number]
"""(incarnation of the node, number of the session within it); grows lexicographically within an incarnation."""

Code = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=1024)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Digest = Annotated[str, Meta(min_length=64, max_length=64, pattern="^[0-9a-f]+$")]
"""SHA-256 in lower-case hexadecimal."""

Capabilities = Annotated[tuple[Code, ...], Meta(max_length=64)]
Keys = Annotated[tuple[TaskKey, ...], Meta(max_length=1024)]
Tables = Annotated[tuple[msgspec.Raw, ...], Meta(max_length=64)]
"""Layouts of arrays (`ParamsSpec.table`), each only once; blobs refer to them by number."""

Crc = Annotated[int, Meta(ge=0, le=2**32 - 1)]

SLOWEST = 3600
"""Most seconds between two signs of life."""

UNTOLD = -1
"""In `Chunk.crc`: who wants to know it asks for it."""

MOST_SUMS = 256
"""Checksums in one message: of chunks that are read again for them, which takes some 60 ms."""

RAW = -1
"""In `BlobRef.table`: the blob holds no arrays."""


class BlobRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Names a blob.

    Attributes:
        id: `Params.fingerprint` for arrays, SHA-256 of the bytes for others.
        nbytes: Its size.
        table: Which of the message's tables describes its arrays; `RAW` for none.
        inline: Whether its bytes are in the body of this frame.
    """

    id: Digest
    nbytes: Count
    table: Annotated[int, Meta(ge=-1, le=63)] = RAW
    inline: bool = False


AuxRefs = Annotated[dict[Name, BlobRef], Meta(max_length=64)]


class Header(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """Base of all headers.

    Attributes:
        session: The session that the sender believes in.
    """

    session: Session = (0, 0)


class Hello(Header, frozen=True, kw_only=True, tag="HELLO"):
    """Node: here I am. Starts a session.

    Attributes:
        versions: Lowest and highest protocol version that the node speaks.
        node: Who it says it is.
        held: Tasks of which it has all that it needs, until it has got rid of their ends. One that it is still fetching
            is not among them: it is given again, and goes on from what is there.
        capabilities: Optional things that it can do.
    """

    versions: tuple[Number, Number]
    node: NodeInfo
    held: Keys = ()
    capabilities: Capabilities = ()


class Welcome(Header, frozen=True, kw_only=True, tag="WELCOME"):
    """Researcher: the session stands, and these are its figures (bytes, chunks, seconds).

    Of the capabilities that HELLO lists, ``capabilities`` repeats those that the researcher has as well.
    """

    version: Number
    chunk: Annotated[int, Meta(ge=1, le=2**20)]
    credit: Annotated[int, Meta(ge=1, le=1024)]
    heartbeat: Annotated[float, Meta(gt=0, le=SLOWEST)]
    epoch: Annotated[str, Meta(max_length=64)] = ""
    researcher: Annotated[str, Meta(max_length=256)] = ""
    capabilities: Capabilities = ()


class Refuse(Header, frozen=True, kw_only=True, tag="REFUSE"):
    """Researcher: no session, because of ``code``; try again after ``retry_after`` seconds."""

    code: Code
    text: Text
    retry_after: Annotated[float, Meta(ge=0, le=86400)] = 0.0


class Rehello(Header, frozen=True, kw_only=True, tag="REHELLO"):
    """Researcher: I know of no such session (the one that is echoed); say HELLO again."""


class Hb(Header, frozen=True, kw_only=True, tag="HB"):
    """Both: I am alive. A node adds the tasks that it holds.

    A researcher may say in ``heartbeat`` how many seconds there are between two of them from now on, on both sides, to
    nodes with the capability ``pace``; 0 leaves it as it is.
    """

    seq: Number = 0
    held: Keys = ()
    heartbeat: Annotated[float, Meta(ge=0, le=SLOWEST)] = 0.0


class Search(Header, frozen=True, kw_only=True, tag="SEARCH"):
    """Researcher: which data sets carry all of these tags?"""

    query: Number
    tags: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()


class Datasets(Header, frozen=True, kw_only=True, tag="DATASETS"):
    """Node: these."""

    query: Number
    cards: Annotated[tuple[DatasetCard, ...], Meta(max_length=1024)] = ()


class PlanAsk(Header, frozen=True, kw_only=True, tag="PLAN_ASK"):
    """Researcher: may this plan run on this data set? Only to nodes with the capability ``plan-status``.

    Body: the plan, if it is marked inline; otherwise the node pulls it, if it is submitted.

    Attributes:
        query: Names the question.
        plan: The plan.
        class_name: Name of its class.
        dataset: Id of the node's data set.
        submit: Whether the owner is asked to approve it, if that was not done yet.
        description: What it is for.
    """

    query: Number
    plan: BlobRef
    class_name: Name
    dataset: Annotated[str, Meta(max_length=256)] = ""
    submit: bool = False
    description: Annotated[str, Meta(max_length=4096)] = ""


class PlanStatus(Header, frozen=True, kw_only=True, tag="PLAN_STATUS"):
    """Node: this is what its owner says."""

    query: Number
    answer: PlanAnswer


class Task(Header, frozen=True, kw_only=True, tag="TASK"):
    """Researcher: train this. Body: the blobs marked inline, in the order plan, params, aux."""

    request: TrainRequest
    plan: BlobRef
    params: BlobRef
    tables: Tables = ()
    aux: AuxRefs = {}


class TaskAck(Header, frozen=True, kw_only=True, tag="TASK_ACK"):
    """Node: I have this task (``held``), or had it and it ended.

    Attributes:
        key: The task.
        state: ``held``, ``committed``, ``cancelled``, ``interrupted``, or the code of its failure.
    """

    key: TaskKey
    state: Code


class Offer(Header, frozen=True, kw_only=True, tag="OFFER"):
    """Node: this task is done, here is what came out. Body: the blobs marked inline, params before aux."""

    reply: TrainReply
    params: BlobRef
    tables: Tables = ()
    aux: AuxRefs = {}


class Get(Header, frozen=True, kw_only=True, tag="GET"):
    """Receiver: send me these chunks of a blob, as ``(first, count)``. This is the credit to send them.

    With ``sums``: tell me their crc32 instead. Only to who sends chunks without one.
    """

    blob: Digest
    ranges: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=64)]
    sums: bool = False


class Chunk(Header, frozen=True, kw_only=True, tag="CHUNK"):
    """Holder: one chunk. Body: its bytes.

    Attributes:
        blob: Of which blob.
        index: Which one.
        crc: The crc32 of the body; `UNTOLD` if the receiver has the capability ``chunk-sums``.
    """

    blob: Digest
    index: Count
    crc: Annotated[int, Meta(ge=-1, le=2**32 - 1)] = UNTOLD


class Sums(Header, frozen=True, kw_only=True, tag="SUMS"):
    """Holder: the crc32 of chunks, from chunk ``first`` on."""

    blob: Digest
    first: Count
    crcs: Annotated[tuple[Crc, ...], Meta(max_length=MOST_SUMS)]


class Committed(Header, frozen=True, kw_only=True, tag="COMMITTED"):
    """Researcher: the ends of these tasks are mine now; forget them."""

    keys: Keys


class Cancel(Header, frozen=True, kw_only=True, tag="CANCEL"):
    """Researcher: give this task up; forget all of it."""

    key: TaskKey
    reason: Text = ""


class Bye(Header, frozen=True, kw_only=True, tag="BYE"):
    """Both: I am leaving."""

    reason: Text = ""


class Error(Header, frozen=True, kw_only=True, tag="ERROR"):
    """Both: something cannot be done: a task (``failure``, repeated until COMMITTED), a blob (``blob``)."""

    code: Code
    text: Text = ""
    failure: TaskFailure | None = None
    blob: Annotated[str, Meta(max_length=64)] = ""


class Event(Header, frozen=True, kw_only=True, tag="EVENT"):
    """Node: signs of life and log lines; may be lost. ``dropped`` counts those that were, since the start."""

    progress: Annotated[tuple[Progress, ...], Meta(max_length=256)] = ()
    logs: Annotated[tuple[LogLine, ...], Meta(max_length=256)] = ()
    dropped: Number = 0


AnyHeader = (
    Hello | Welcome | Refuse | Rehello | Hb | Search | Datasets | PlanAsk | PlanStatus | Task | TaskAck | Offer | Get
    | Chunk | Sums | Committed | Cancel | Bye | Error | Event
)  # fmt: skip

PlainValue = Any
"""What ``model_args`` and ``training_args`` may hold: None, bool, int, float, str, list, dict with text keys."""
