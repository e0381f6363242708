"""Arrays pass through the codec without being copied, and the benchmark of it would see a copy."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import codec
from fedplug.core import params as params_module
from fedplug.wire import Blob, params_of

VALUES = np.arange(4_000_000, dtype=np.float32)
TENSORS = 10
TENSOR = VALUES.nbytes // TENSORS


@pytest.fixture
def no_new_arrays(monkeypatch):
    def allocate(nbytes):
        raise AssertionError(f"{nbytes} bytes were allocated for arrays")

    monkeypatch.setattr(params_module, "allocate", allocate)


@pytest.mark.usefixtures("no_new_arrays")
def test_a_trip_through_the_codec_takes_no_memory_of_the_size_of_a_tensor(monkeypatch):
    monkeypatch.setattr(codec, "TENSORS", TENSORS)
    assert codec.memory(VALUES) < TENSOR / 10


def test_what_comes_out_is_what_went_in():
    sent = codec.model(VALUES, TENSORS, "model")
    blob = Blob.of_params(sent)
    received = np.frombuffer(bytes(blob.buffer), np.uint8)
    found = codec.trip(blob, received)
    assert found.spec == sent.spec
    assert all(np.array_equal(found[name], sent[name]) for name in sent)
    assert sum(array.size for array in found.values()) == len(VALUES)


def test_the_benchmark_sees_a_copy(monkeypatch):
    def copying(spec, buffer, blob_id):
        return params_of(spec, bytes(buffer), blob_id)

    monkeypatch.setattr(codec, "params_of", copying)
    with pytest.raises(AssertionError, match="copied"):
        codec.memory(VALUES)


def test_the_benchmark_sees_that_a_chunk_is_missing(monkeypatch):
    blob = Blob.of_params(codec.model(VALUES, TENSORS, "model"))
    whole = codec.chunks

    def lossy(*args, **how):
        return list(whole(*args, **how))[1:]

    monkeypatch.setattr(codec, "chunks", lossy)
    with pytest.raises(AssertionError, match="missing"):
        codec.trip(blob, np.frombuffer(blob.buffer, np.uint8))
