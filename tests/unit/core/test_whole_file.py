from __future__ import annotations

from pathlib import Path

import pytest

from fedplug.core.whole_file import put_file


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "status.json"
    for data in (b"first", b"2"):
        put_file(path, data)
        assert path.read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    (tmp_path / ".status.json.part").write_bytes(b"half of a much longer fi")
    put_file(tmp_path / "status.json", b"whole")
    assert (tmp_path / "status.json").read_bytes() == b"whole"
    assert not (tmp_path / ".status.json.part").exists()


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    put_file(path, b"before")

    def full(self, data):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        put_file(path, b"after")
    assert path.read_bytes() == b"before"
