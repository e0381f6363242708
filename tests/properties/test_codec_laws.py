"""The codec: what goes in comes out, and nothing but `CodecError` comes out of nonsense."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedplug.core.errors import CodecError, FedplugError
from fedplug.core.messages import NodeInfo, TaskKey, TrainReply, TrainRequest
from fedplug.core.params import Params, ParamsSpec, TensorSpec
from fedplug.wire import Blob, Tables, VersionError, decode_header, decode_table, encode_header, params_of, start_digest
from fedplug.wire import headers as h
from fedplug.wire.codec import MAGIC

_path = Path(__file__).parents[1] / "golden" / "wire_headers.py"
_spec = importlib.util.spec_from_file_location("wire_headers_for_properties", _path)
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

names = st.text(min_size=1, max_size=20)
keys = st.builds(
    TaskKey,
    experiment_id=names,
    round=st.integers(0, 2**31 - 1),
    node_id=names,
    attempt=st.integers(0, 2**31 - 1),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
scalars = st.dictionaries(names, st.floats(allow_nan=False), max_size=3)
params = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from(["float32", "float64", "float16", "int64", "bool", "uint8"]),
    ),
    max_size=4,
).map(
    lambda shapes: Params.from_arrays(
        {f"p{i}": np.arange(int(np.prod(shape))).reshape(shape).astype(d) for i, (shape, d) in enumerate(shapes)}
    )
)


state_ids = st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(keys, st.dictionaries(names, plain, max_size=3), st.integers(0, 2**63 - 1), st.integers(-1, 2**31), state_ids)
@settings(max_examples=60)
def test_a_task_survives_the_wire(key, args, seed, acked, state_id):
    request = TrainRequest(
        key=key, dataset_id="d", plan_class="P", model_args=args, training_args=args, seed=seed, acked_round=acked,
        acked_state=state_id,
    )  # fmt: skip
    tables = Tables()
    ref = tables.ref(Blob.of_params(golden.PARAMS), inline=False)
    plan = tables.ref(Blob.of_plan(golden.PLAN), inline=True)
    task = h.Task(session=(seed, 1), request=request, plan=plan, params=ref, tables=tables.raw)
    assert decode_header(encode_header(task)) == task


@given(keys, scalars, scalars, st.integers(-(2**62), 2**62), st.sampled_from(["none", "kept", "absent"]), state_ids)
@settings(max_examples=60)
def test_an_offer_survives_the_wire(key, metrics, timing, count, state, state_id):
    reply = TrainReply(key=key, sample_count=count, metrics=metrics, timing=timing, state=state, state_id=state_id)
    tables = Tables()
    offer = h.Offer(reply=reply, params=tables.ref(Blob.of_params(golden.PARAMS), inline=True), tables=tables.raw)
    assert decode_header(encode_header(offer)) == offer


@given(params)
@settings(max_examples=80)
def test_arrays_survive_the_wire_without_a_copy(original):
    blob = Blob.of_params(original)
    spec = decode_table(blob.table)
    digest = start_digest(spec)
    digest.update(blob.buffer)
    assert digest.hexdigest() == blob.id == original.fingerprint()
    data = bytearray(blob.buffer)
    back = params_of(spec, data, blob.id)
    assert bytes(back.buffer) == bytes(original.buffer)
    assert back.spec == original.spec
    if data:
        assert np.shares_memory(np.asarray(back.buffer), np.frombuffer(data, np.uint8))
        assert np.shares_memory(np.asarray(blob.buffer), np.asarray(original.buffer))


def _decodes_or_refuses(data: bytes) -> bool:
    """Whether it decodes; any error but `CodecError` fails the test."""
    try:
        header = decode_header(data)
        for table in getattr(header, "tables", ()):
            decode_table(table)
    except CodecError:
        return False
    return True


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=1500)
def test_random_bytes_are_refused_with_a_typed_error(data, prelude):
    assert not _decodes_or_refuses((MAGIC + b"\x01" if prelude else b"") + data)


def test_every_truncation_is_refused():
    for header in golden.HEADERS.values():
        data = encode_header(header)
        assert not any(_decodes_or_refuses(data[:length]) for length in range(len(data)))


def _raw(**fields: object) -> bytes:
    return MAGIC + b"\x01" + msgspec.msgpack.encode(fields)


ARRAY_OF_2_GI = b"\xdd\x7f\xff\xff\xff"


@pytest.mark.parametrize(
    "data",
    [
        MAGIC + b"\x01" + b"\x83\xa4type\xa6SEARCH\xa5query\x01\xa4tags" + ARRAY_OF_2_GI,
        MAGIC + b"\x01" + b"\x82\xa4type\xa4TASK\xa7request\x81\xaamodel_args\x81\xa1a" + ARRAY_OF_2_GI,
        MAGIC + b"\x01" + b"\x82\xa4type\xa4TASK\xa6tables\x91" + ARRAY_OF_2_GI,
        MAGIC + b"\x01" + b"\x82\xa4type\xa4TASK\xa6tables\x91" + b"\x91" * 200_000,
        MAGIC + b"\x01" + b"\x82\xa4type\xa4TASK\xa7request\x81\xaamodel_args" + b"\x81\xa1a" * 60_000,
        _raw(type="HB", seq=1, extra=2),
        _raw(type="HB", seq=-1),
        _raw(type="HB", seq=2**63),
        _raw(type="NOPE"),
        _raw(type="BYE", reason="x" * 1025),
        _raw(type="GET", blob="z" * 64, ranges=[]),
        _raw(type="TASK_ACK", key=["e", -1, "n", 0], state="held"),
        _raw(type="TASK_ACK", key=["e" * 999, 1, "n", 0], state="held"),
        MAGIC + b"\x01" + b"\x82\xa4type\xa3BYE\xa6reason\xa2\xff\xfe",
        MAGIC + b"\x01" + b"\xc1",
        MAGIC + b"\x01" + bytes(256 * 1024),
    ],
)
def test_a_hostile_header_is_refused(data):
    with pytest.raises(CodecError):
        decode_header(data)


@pytest.mark.parametrize(
    "odd",
    [
        "0",
        "a5" * 31 + "a",
        "a5" * 32 + "a",
        "a5" * 32 + "\n",
        "A5" * 32,
        "g" * 64,
        "\u0661" * 64,
        "a" * 100_000,
        7,
        None,
    ],
)
@pytest.mark.parametrize(
    ("name", "part", "field"), [("TASK", "request", "acked_state"), ("OFFER", "reply", "state_id")]
)
def test_an_odd_name_of_a_state_is_refused(name, part, field, odd):
    start = MAGIC + b"\x01"
    good = encode_header(golden.HEADERS[name])
    fields = msgspec.msgpack.decode(good[len(start) :])
    assert start + msgspec.msgpack.encode(fields) == good, "nothing else is wrong"
    fields[part][field] = odd
    with pytest.raises(CodecError, match=field):
        decode_header(start + msgspec.msgpack.encode(fields))


def test_another_version_is_named():
    with pytest.raises(VersionError, match="version 2") as caught:
        decode_header(MAGIC + b"\x02" + b"\x80")
    assert caught.value.version == 2
    assert "Upgrade" in caught.value.cure


def _table(*tensors: TensorSpec, nbytes: int) -> bytes:
    return msgspec.msgpack.encode(ParamsSpec(tuple(tensors), nbytes))


@pytest.mark.parametrize(
    "raw",
    [
        _table(TensorSpec("a", (4,), "float32", 8), nbytes=24),  # begins late
        _table(TensorSpec("a", (4,), "float32", 0), nbytes=8),  # claims too little
        _table(TensorSpec("a", (4,), "float32", 0), nbytes=2**40),  # claims too much
        _table(TensorSpec("a", (4,), "float32", 0), TensorSpec("b", (4,), "float32", 0), nbytes=16),  # overlaps
        _table(TensorSpec("a", (1,), "float32", 0), TensorSpec("a", (1,), "float32", 4), nbytes=8),  # twice
        _table(TensorSpec("a", (-1,), "float32", 0), nbytes=0),
        _table(TensorSpec("a", (2**32, 2**32), "float32", 0), nbytes=0),  # the product overflows 64 bits
        _table(TensorSpec("a", (0, 2**62, 2**62), "float32", 0), nbytes=0),  # hides behind an empty dimension
        _table(TensorSpec("a", (1,) * 40, "float32", 0), nbytes=4),
        _table(TensorSpec("a", (1,), "object", 0), nbytes=8),
        _table(TensorSpec("", (1,), "float32", 0), nbytes=4),
        _table(*[TensorSpec(f"t{i}", (), "uint8", i) for i in range(9000)], nbytes=9000),
        _table(TensorSpec("a", (1,), "float32", 0), nbytes=4) + b"\xc0",
        b"\x92" + ARRAY_OF_2_GI,
        b"\x91" * 100_000,
        b"",
    ],
)
def test_a_hostile_table_is_refused(raw):
    with pytest.raises(CodecError):
        decode_table(raw)


@pytest.mark.parametrize(
    "header",
    [
        h.Hello(versions=(1, 1), node=NodeInfo(node_id="n", plugins={"p": "x" * 300_000})),
        h.Bye(reason="x" * 300_000),
        h.Task(
            request=TrainRequest(key=golden.KEY, dataset_id="d", plan_class="P", model_args={"a": object()}),
            plan=h.BlobRef("0" * 64, 0),
            params=h.BlobRef("0" * 64, 0, 0),
        ),
    ],
)
def test_what_cannot_travel_is_refused_where_it_is_sent(header):
    with pytest.raises(FedplugError):
        encode_header(header)


def test_a_table_is_decoded_once():
    raw = golden.PARAMS.spec.table
    assert decode_table(raw) is decode_table(bytes(bytearray(raw)))
