from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedplug import Params
from fedplug.core.errors import CodecError
from fedplug.core.params_file import read_params, write_params

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", ml_dtypes.bfloat16]


def model() -> Params:
    rng = np.random.default_rng(3)
    arrays = {f"z{i}": rng.integers(0, 2, (2, 3)).astype(dtype) for i, dtype in enumerate(DTYPES)}
    return Params.from_arrays({**arrays, "a scalar": np.array(2.5), "empty": np.zeros((0, 4), np.float32)})


def test_what_is_written_is_read_back_in_the_same_order_to_the_bit(tmp_path: Path) -> None:
    params = model()
    write_params(params, tmp_path / "p.safetensors")
    back = read_params(tmp_path / "p.safetensors")
    assert back.spec == params.spec
    assert back == params
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.safetensors"]


def test_other_software_reads_it(tmp_path: Path) -> None:
    params = Params.from_arrays({"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)})
    write_params(params, tmp_path / "p.safetensors")
    found = load_file(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(found["a"], params["a"])
    np.testing.assert_array_equal(found["b"], params["b"])


def test_a_file_that_was_changed_or_cut_or_is_foreign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    write_params(Params.from_arrays({"a": np.arange(8.0)}), path)
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-8], whole[:5], b""):
        path.write_bytes(damaged)
        with pytest.raises(CodecError, match=r"damaged|cannot be read"):
            read_params(path)
    save_file({"a": np.arange(8.0)}, path)
    with pytest.raises(CodecError, match="cannot be read as parameters"):
        read_params(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.safetensors"
    old = Params.from_arrays({"a": np.arange(2.0)})
    write_params(old, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_params(Params.from_arrays({"a": np.arange(3.0)}), path)
    assert read_params(path) == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.safetensors"]
