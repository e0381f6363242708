"""C1: 100 MB in 60 tensors through the wire codec, to bytes and back, as an offer and its chunks.

Counted is what the codec does: the blob, the offer with its table, the requests for chunks, each chunk's header with a
view of its bytes; on the other side the checks of all that, and the arrays over the memory in which the bytes then lie.
Tables are new in each trip, so that none is remembered from before.

Not counted is what integrity costs with any codec: SHA-256, taken once for a model, and crc32, taken only where the
digest is wrong. Both are among the details.
"""

from __future__ import annotations

import hashlib
import statistics
import time
import tracemalloc

import numpy as np

from benchmarks.common import Result, cpu_time
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Array, Params, ParamsSpec
from fedplug.protocol.bodies import PARAMS, chunks, unpack
from fedplug.protocol.limits import Limits
from fedplug.wire import Blob, Tables, decode_header, encode_header, params_of, start_digest
from fedplug.wire import headers as h

VALUES, TENSORS = 25_000_000, 60
LIMITS = Limits()
SESSION = (1, 1)


def model(values: Array, tensors: int, prefix: str) -> Params:
    """Equal arrays over ``values``, which are not copied, with names that begin with ``prefix``."""
    shape = (len(values) // tensors // 16 * 16,)  # multiples of 64 bytes, so that there are no gaps between them
    spec = ParamsSpec.build([(f"{prefix}.{number}", shape, "float32") for number in range(tensors)])
    digest = hashlib.sha256(prefix.encode()).hexdigest()  # a name will do: nobody checks the bytes here
    return params_of(spec, values.view(np.uint8)[: spec.nbytes], digest)


def trip(blob: Blob, received: Array) -> Params:
    """From a blob to arrays, through every header that travels.

    Args:
        blob: What is sent.
        received: Where the transport puts the bytes.
    """
    tables = Tables()
    ref = tables.ref(blob, inline=False)
    reply = TrainReply(key=TaskKey(experiment_id="experiment", round=0, node_id="node"), sample_count=1)
    offer = encode_header(h.Offer(session=SESSION, reply=reply, params=ref, tables=tables.raw))

    came = decode_header(offer)
    assert isinstance(came, h.Offer)
    slots, _ = unpack(came, memoryview(b""))
    slot = slots[PARAMS]
    assert slot.spec is not None

    count = -(-blob.nbytes // LIMITS.chunk)
    total = 0
    for first in range(0, count, LIMITS.peer_credit):
        ranges = ((first, min(LIMITS.peer_credit, count - first)),)
        get = decode_header(encode_header(h.Get(session=SESSION, blob=slot.ref.id, ranges=ranges)))
        assert isinstance(get, h.Get)
        for frame, body in chunks(blob, get, SESSION, LIMITS, bare=True):
            chunk = decode_header(frame)
            assert isinstance(chunk, h.Chunk)
            total += body.nbytes
    assert total == slot.ref.nbytes, "chunks are missing"
    params = params_of(slot.spec, received, slot.ref.id)
    for name in params:
        params[name]
    return params


def run(quick: bool = False) -> list[Result]:
    """CPU of a trip, and the memory that it takes beside the arrays."""
    values = np.random.default_rng(0).standard_normal(VALUES // 10 if quick else VALUES, np.float32)
    trips = 5 if quick else 25
    seconds = [_timed(values, number) for number in range(trips)]
    peak = memory(values)
    params = model(values, TENSORS, "integrity")
    blob = Blob.of_params(params)
    hashed, checked = _integrity(blob, params.spec)
    details = {
        "tensors": TENSORS, "megabytes": round(blob.nbytes / 1e6, 1), "chunk": LIMITS.chunk, "trips": trips,
        "cold_sha256_ms": round(hashed, 2), "cold_crc32_ms": round(checked, 2), "peak_bytes": peak,
    }  # fmt: skip
    what = f"{details['megabytes']:.0f} MB in {TENSORS} tensors to bytes and back"
    return [
        Result("C1", what, 1000 * statistics.median(seconds), "ms CPU", None, 2.0, details),
        Result("C1", "memory taken beside the arrays", peak * TENSORS / blob.nbytes, "tensors", None, 0.5, details),
    ]


def memory(values: Array) -> int:
    """Most bytes that a trip holds at once beside the arrays."""
    blob = Blob.of_params(model(values, TENSORS, "memory"))
    received = np.frombuffer(blob.buffer, np.uint8)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = trip(blob, received)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # memory that is mapped is not traced: the arrays must lie in what was received
    assert all(np.shares_memory(found[name], received) for name in found), "arrays were copied"
    return peak - before


def _timed(values: Array, number: int) -> float:
    """CPU seconds of a trip with names that no trip had before."""
    sent = model(values, TENSORS, f"trip{number}")
    blob = Blob.of_params(sent)
    with cpu_time() as taken:
        found = trip(blob, np.frombuffer(blob.buffer, np.uint8))
    _check(sent, found)
    return taken[0]


def _check(sent: Params, found: Params) -> None:
    assert sent.spec == found.spec, "the layout changed on the way"
    assert sent.fingerprint() == found.fingerprint(), "the name changed on the way"
    for name in sent:
        assert np.array_equal(sent[name][:16], found[name][:16]), "the values changed on the way"


def _integrity(blob: Blob, spec: ParamsSpec) -> tuple[float, float]:
    """Milliseconds of the digest of all bytes, and of the checksums of all chunks."""
    began = time.process_time()
    start_digest(spec).update(blob.buffer)
    hashed = time.process_time() - began
    for index in range(-(-blob.nbytes // LIMITS.chunk)):
        blob.crc(index, LIMITS.chunk)
    return 1000 * hashed, 1000 * (time.process_time() - began - hashed)
