"""New files are whole and on the disk, by whichever way their bytes go there."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from fedplug.core.errors import DiskFullError
from fedplug.node import disk
from fedplug.node.shared import SharedBuffer

MIB = 2**20


def bytes_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8)


def shared(values):
    """The same in memory that begins with a page, as the arrays of a worker do."""
    block = SharedBuffer.create(len(values))
    view = np.frombuffer(block, np.uint8)[: len(values)]
    view[:] = values
    return view


@pytest.mark.parametrize(
    "sizes", [(0,), (5,), (3 * MIB,), (3 * MIB + 5,), (3 * MIB + 5, 2 * MIB), (8192, 17 * MIB, 0, 9)]
)
@pytest.mark.parametrize("shift", [0, 1], ids=["at a page", "beside it"])
def test_a_file_has_the_bytes_that_were_written(tmp_path, sizes, shift):
    parts = [bytes_of(size + shift, seed) for seed, size in enumerate(sizes)]
    disk.write_new(tmp_path / "f", [memoryview(shared(part))[shift:] for part in parts])
    assert (tmp_path / "f").read_bytes() == b"".join(bytes(part[shift:]) for part in parts)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("after", [0, 1], ids=["at once", "in the middle"])
def test_a_file_system_that_cannot_do_it_gets_the_bytes_by_the_cache(tmp_path, monkeypatch, refused, after):
    writes = []

    def write(descriptor, data, real=os.write):
        writes.append(len(data))
        if len(writes) > after:
            raise OSError(refused, "not here")
        return real(descriptor, data)

    data = shared(bytes_of(40 * MIB + 77))
    monkeypatch.setattr(disk.os, "write", write)
    disk.write_new(tmp_path / "f", [data])
    assert len(writes) == after + 1
    assert (tmp_path / "f").read_bytes() == data.tobytes()


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    data = shared(bytes_of(4 * MIB + 3))
    monkeypatch.setattr(disk.os, "write", lambda fd, data, real=os.write: real(fd, data[: MIB // 2]))
    disk.write_new(tmp_path / "f", [data])
    assert (tmp_path / "f").read_bytes() == data.tobytes()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "write", full)
    with pytest.raises(DiskFullError), disk.disk_errors(tmp_path):
        disk.write_new(tmp_path / "f", [shared(bytes_of(2 * MIB))])
    assert list(tmp_path.iterdir()) == []
