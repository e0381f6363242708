"""What types cannot say about a header: lengths inside core messages, depth, and tables of arrays.

Everything here raises `CodecError` and nothing else. The cost is a few microseconds a message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from fedplug.core.errors import CodecError, ParamsError
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
from fedplug.core.params import ParamsSpec
from fedplug.wire import headers as h

MAX_NAME = 256
MAX_DEPTH = 16
MAX_TENSORS = 8192
MAX_DIMENSIONS = 32
MAX_BLOB = 2**43
"""Largest size that a table may describe, in bytes. What is accepted is the receiver's quota, far lower."""

MAX_DETAILS = 32 * 1024
MAX_LINE = 8 * 1024

_SCALARS = frozenset((type(None), bool, int, float, str))
_STATE_ID = re.compile("[0-9a-f]{64}")


def check_header(header: h.AnyHeader) -> None:
    """Check the parts of a header that its types leave open.

    Raises:
        CodecError: Something is too long, too deep or out of range.
    """
    check = _CHECKS.get(type(header))
    if check is not None:
        check(header)


def _check_task(header: h.Task) -> None:
    _check_request(header.request)
    _check_refs(header.tables, [header.params, *header.aux.values()])
    if header.plan.table != h.RAW:
        raise CodecError("TASK: the plan is no table of arrays.")
    if set(header.aux) != set(header.request.aux):
        raise CodecError("TASK: the names of the extra arrays are not those that the request announces.")


def _check_offer(header: h.Offer) -> None:
    _check_reply(header.reply)
    _check_refs(header.tables, [header.params, *header.aux.values()])
    if set(header.aux) != set(header.reply.aux):
        raise CodecError("OFFER: the names of the extra arrays are not those that the reply announces.")


def _check_hello(header: h.Hello) -> None:
    _check_node(header.node)
    _check_keys(header.held)


def _check_datasets(header: h.Datasets) -> None:
    for card in header.cards:
        _check_card(card)


def _check_error(header: h.Error) -> None:
    if header.failure is not None:
        _check_failure(header.failure)


def _check_event(header: h.Event) -> None:
    for progress in header.progress:
        _check_progress(progress)
    for line in header.logs:
        _check_line(line)


def _check_plan_ask(header: h.PlanAsk) -> None:
    if header.plan.table != h.RAW:
        raise CodecError("PLAN_ASK: the plan is no table of arrays.")


def _check_answer(answer: PlanAnswer) -> None:
    if not _STATE_ID.fullmatch(answer.plan):
        raise CodecError("PLAN_STATUS: the plan's hash is none.")
    for name, text, most in (
        ("status", answer.status, 32), ("note", answer.note, 4096), ("until", answer.until, 64)
    ):  # fmt: skip
        if len(text) > most:
            raise CodecError(f"PLAN_STATUS: {name} has {len(text)} characters; {most} are the most.")


def decode_table(raw: Any) -> ParamsSpec:
    """The layout that ``raw`` encodes, after it was rebuilt and found equal.

    A hostile table cannot make arrays overlap, leave the buffer or claim another size than their sum: only
    the layout that `ParamsSpec.build` makes itself is accepted, in its canonical bytes.

    Raises:
        CodecError: It is anything else.
    """
    return _decode_table(bytes(raw))


@lru_cache(maxsize=16)
def _decode_table(raw: bytes) -> ParamsSpec:
    try:
        claimed = msgspec.msgpack.decode(raw, type=ParamsSpec)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CodecError(f"A table of arrays cannot be read: {error}.") from None
    if len(claimed.tensors) > MAX_TENSORS:
        raise CodecError(f"A table names {len(claimed.tensors)} arrays; at most {MAX_TENSORS} are allowed.")
    for tensor in claimed.tensors:
        if not 0 < len(tensor.name) <= 2 * MAX_NAME:
            raise CodecError(f"An array's name has {len(tensor.name)} characters; 1 to {2 * MAX_NAME} are allowed.")
        if len(tensor.shape) > MAX_DIMENSIONS or any(n < 0 for n in tensor.shape):
            raise CodecError(f"Array {tensor.name!r} has an impossible shape.")
        # Empty arrays must not hide huge dimensions: NumPy multiplies the others, too.
        if math.prod(n or 1 for n in tensor.shape) > MAX_BLOB:
            raise CodecError(f"Array {tensor.name!r} is larger than anything that can travel.")
    try:
        spec = ParamsSpec.build([(t.name, t.shape, t.dtype) for t in claimed.tensors])
    except ParamsError as error:
        raise CodecError(f"A table of arrays is unusable: {error.message}", cure=error.cure) from None
    if spec.nbytes > MAX_BLOB:
        raise CodecError("A table describes more bytes than can travel.")
    if spec.table != raw:
        raise CodecError("A table of arrays is not laid out as it must be (offsets, size or encoding differ).")
    return spec


def _check_refs(tables: tuple[msgspec.Raw, ...], refs: list[h.BlobRef]) -> None:
    for ref in refs:
        if not 0 <= ref.table < len(tables):
            raise CodecError("A blob of arrays names a table that is not in the message.")


def _text(value: str, what: str, longest: int = MAX_NAME, *, empty: bool = False) -> None:
    if len(value) > longest or not (value or empty):
        raise CodecError(f"{what} has {len(value)} characters; {0 if empty else 1} to {longest} are allowed.")


def _range(value: int, what: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise CodecError(f"{what} is {value}, outside {low} to {high}.")


def _check_keys(keys: tuple[TaskKey, ...]) -> None:
    for key in keys:
        _check_key(key)


def _check_key(key: TaskKey) -> None:
    if not (0 < len(key.experiment_id) <= MAX_NAME and 0 < len(key.node_id) <= MAX_NAME):
        raise CodecError("A task key has an empty or overlong part.")
    if not (0 <= key.round < 2**31 and 0 <= key.attempt < 2**31):
        raise CodecError("A task key's round or attempt is out of range.")


def _check_node(node: NodeInfo) -> None:
    _text(node.node_id, "A node's id")
    _text(node.name, "A node's name", empty=True)
    _text(node.version, "A node's version", empty=True)
    if len(node.plugins) > 256:
        raise CodecError("A node lists more than 256 plugins.")
    for name, version in node.plugins.items():
        _text(name, "A plugin's name")
        _text(version, "A plugin's version", empty=True)


def _check_card(card: DatasetCard) -> None:
    _text(card.dataset_id, "A data set's id")
    _text(card.name, "A data set's name", 1024, empty=True)
    _text(card.type, "A data set's type")
    _text(card.description, "A data set's description", MAX_LINE, empty=True)
    _text(card.target, "A data set's target", MAX_LINE, empty=True)
    if len(card.tags) > 256 or len(card.columns) > 8192 or len(card.dtypes) > 8192:
        raise CodecError(f"The card of data set {card.name!r} is too long.")
    if len(card.shape) > MAX_DIMENSIONS or any(not 0 <= n < 2**62 for n in card.shape):
        raise CodecError(f"The card of data set {card.name!r} has an impossible shape.")


def _check_request(request: TrainRequest) -> None:
    _check_key(request.key)
    _text(request.dataset_id, "A data set's id")
    _text(request.plan_class, "A plan's class name")
    _range(request.seed, "seed", 0, 2**63 - 1)
    _range(request.data_seed, "data_seed", 0, 2**63 - 1)
    _range(request.acked_round, "acked_round", -1, 2**31)
    _check_state_id(request.acked_state, "acked_state")
    _range(request.total_rounds, "total_rounds", 0, 2**31)
    _check_plain(request.model_args, "model_args", MAX_DEPTH)
    _check_plain(request.training_args, "training_args", MAX_DEPTH)


def _check_reply(reply: TrainReply) -> None:
    _check_key(reply.key)
    # A negative count is a lie that the experiment must be able to name, so only the range is bounded here.
    _range(reply.sample_count, "sample_count", -(2**62), 2**62)
    _range(reply.steps, "steps", 0, 2**62)
    _text(reply.state, "state", 64)
    _check_state_id(reply.state_id, "state_id")
    _check_scalars(reply.metrics, "metrics")
    _check_scalars(reply.timing, "timing")


def _check_state_id(value: str, what: str) -> None:
    if value and not _STATE_ID.fullmatch(value):
        raise CodecError(f"{what} must be empty or 64 hexadecimal digits (0-9, a-f), got {value[:80]!r}.")


def _check_failure(failure: TaskFailure) -> None:
    _check_key(failure.key)
    _text(failure.code, "A failure's code", 64)
    _text(failure.text, "A failure's text", MAX_LINE, empty=True)
    _text(failure.details, "A failure's details", MAX_DETAILS, empty=True)


def _check_progress(progress: Progress) -> None:
    _check_key(progress.key)
    _text(progress.phase, "A phase", 64)
    _check_scalars(progress.metrics, "metrics")
    for value in (progress.step, progress.total_steps, progress.epoch, progress.samples):
        _range(value, "A counter", 0, 2**62)


def _check_line(line: LogLine) -> None:
    _text(line.level, "A log level", 32)
    _text(line.text, "A log line", MAX_LINE, empty=True)
    if line.key is not None:
        _check_key(line.key)


def _check_scalars(values: dict[str, float], what: str) -> None:
    if len(values) > 1024:
        raise CodecError(f"{what} has {len(values)} entries; at most 1024 are allowed.")
    for name in values:
        _text(name, f"A name in {what}")


def _check_plain(value: h.PlainValue, what: str, depth: int) -> None:
    """Refuse what is nested too deeply, or is of a type that msgpack knows and we do not use."""
    if isinstance(value, dict | list):
        if depth == 0:
            raise CodecError(f"{what} is nested more than {MAX_DEPTH} levels deep.")
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str):
                    raise CodecError(f"{what} has a key of type {type(name).__name__}; only text is allowed.")
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in _SCALARS:
                _check_plain(item, what, depth - 1)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise CodecError(f"{what} holds a value of type {type(value).__name__}, which cannot travel.")


_CHECKS: dict[type, Callable[[Any], None]] = {
    h.Task: _check_task,
    h.Offer: _check_offer,
    h.Hello: _check_hello,
    h.Hb: lambda header: _check_keys(header.held),
    h.Committed: lambda header: _check_keys(header.keys),
    h.TaskAck: lambda header: _check_key(header.key),
    h.Cancel: lambda header: _check_key(header.key),
    h.Datasets: _check_datasets,
    h.PlanAsk: _check_plan_ask,
    h.PlanStatus: lambda header: _check_answer(header.answer),
    h.Error: _check_error,
    h.Event: _check_event,
}
