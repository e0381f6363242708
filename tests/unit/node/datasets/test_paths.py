"""What an owner may not add, and what becomes of data sets whose files are exchanged."""

from __future__ import annotations

import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from fedplug.core.errors import DatasetError, FedplugError, RefusedError, UsageError
from fedplug.node.datasets import fingerprint, freshness, table_reader
from fedplug.node.datasets.fingerprint import fingerprint_of, stamp_of
from fedplug.node.datasets.freshness import check_unchanged
from fedplug.node.datasets.paths import walk
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.schema import DataRules, Policy


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "t.csv").write_text("a,b\n1,2\n3,4\n")
    return folder


def add(path, roots=(), **more):
    return inspect_file(path, tags=["t"], roots=roots, **more)[0]


def within(folder):
    return Policy(data=DataRules(roots=(folder,)))


@pytest.mark.parametrize("path", ["../t.csv", "x/../../t.csv", "../../../../../../etc/passwd"])
def test_a_path_that_climbs_out_of_the_roots_is_refused(root, path):
    (root.parent / "t.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="does not lie below a folder"):
        add(root / path, [root], type="csv")


def test_a_root_is_no_prefix_of_names(root):
    (root.parent / "data2").mkdir()
    (root.parent / "data2" / "t.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="does not lie below a folder"):
        add(root.parent / "data2" / "t.csv", [root])


def test_links_are_followed_inside_the_roots_and_refused_where_they_lead_out(root):
    (root / "in.csv").symlink_to(root / "t.csv")
    assert add(root / "in.csv", [root]).path == str(root / "t.csv")
    (root.parent / "out.csv").write_text("a\n1\n")
    (root / "out.csv").symlink_to(root.parent / "out.csv")
    with pytest.raises(UsageError, match="does not lie below a folder"):
        add(root / "out.csv", [root])
    (root / "loop.csv").symlink_to(root / "loop.csv")
    with pytest.raises(FedplugError):
        add(root / "loop.csv", [root])


def test_devices_pipes_and_sockets_are_never_opened(root, monkeypatch):
    os.mkfifo(root / "pipe.csv")
    with pytest.raises(DatasetError, match="is a named pipe"):
        add(root / "pipe.csv")
    with pytest.raises(DatasetError, match="is a device"):
        add("/dev/zero", type="csv")
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.csv")
        with pytest.raises(DatasetError, match="is a socket"):
            add(root / "s.csv")


def test_a_null_character_in_a_path_is_refused():
    with pytest.raises(UsageError, match="null character"):
        add("a\0b.csv")


def test_a_folder_is_walked_without_leaving_it(root):
    (root / "sub").mkdir()
    (root / "sub" / "x").write_text("1")
    (root / ".hidden").write_text("1")
    (root / "again").symlink_to(root / "sub")  # no file twice, and no endless walk
    assert [name for name, _ in walk(root)] == ["t.csv", "sub/x"]
    (root / "sub" / "out").symlink_to("/etc/hostname")
    with pytest.raises(DatasetError, match="leads"):
        list(walk(root))
    (root / "sub" / "out").unlink()
    os.mkfifo(root / "sub" / "pipe")
    with pytest.raises(DatasetError, match="is a named pipe"):
        list(walk(root))


def test_only_a_table_whose_bytes_changed_is_refused(root):
    file = root / "t.csv"
    record = add(file)
    check_unchanged(record, within(root))
    file.touch()
    check_unchanged(record, within(root))
    copy = root / "copy"
    copy.write_bytes(file.read_bytes())
    copy.replace(file)
    check_unchanged(record, within(root))
    before = file.stat()
    file.write_text("a,b\n1,2\n3,5\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the size is the same, too
    with pytest.raises(RefusedError, match="have changed") as caught:
        check_unchanged(record, within(root))
    assert caught.value.code == "dataset-changed"
    assert "--accept-changes" in caught.value.cure
    assert str(root) not in str(caught.value)
    file.unlink()
    with pytest.raises(RefusedError) as caught:
        check_unchanged(record, within(root))
    assert caught.value.code == "dataset-changed"


def test_content_is_read_again_only_once_after_a_touch(root, monkeypatch):
    record = add(root / "t.csv")
    reads = []
    monkeypatch.setattr(freshness, "fingerprint_of", lambda paths: reads.append(1) or fingerprint_of(paths))
    for _ in range(3):
        check_unchanged(record, Policy())
    assert reads == []
    (root / "t.csv").touch()
    for _ in range(3):
        check_unchanged(record, Policy())
    assert reads == [1]


def test_a_path_that_leads_out_of_the_roots_later_is_refused_by_the_rule(root):
    record = add(root / "t.csv", [root])
    moved = root.parent / "t.csv"
    (root / "t.csv").rename(moved)
    (root / "t.csv").symlink_to(moved)
    with pytest.raises(RefusedError, match="not lie in a folder") as caught:
        check_unchanged(record, within(root))
    assert caught.value.code == "policy"
    assert str(root) not in str(caught.value)


def test_the_fingerprint_of_a_folder_covers_names_and_content(root):
    first = fingerprint_of([root])
    (root / "t.csv").touch()
    assert fingerprint_of([root]) == first
    (root / "t.csv").rename(root / "u.csv")
    renamed = fingerprint_of([root])
    assert renamed != first
    (root / "u.csv").write_text("a,b\n1,2\n3,5\n")
    assert fingerprint_of([root]) not in {first, renamed}


def test_a_large_folder_is_told_by_sizes_and_times(root, monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_HASHED", 3)
    first = fingerprint_of([root])
    assert fingerprint_of([root]) == first
    os.utime(root / "t.csv", ns=(1, 1))
    assert fingerprint_of([root]) != first


def test_the_stamp_of_a_folder_changes_with_every_file(root):
    first = stamp_of([root])
    assert stamp_of([root]) == first
    (root / "v").write_text("")
    assert stamp_of([root]).text != first.text


def test_a_table_that_is_too_large_is_refused_before_it_is_read_and_can_be_allowed(root):
    file = root / "t.csv"
    with file.open("ab") as grown:
        grown.truncate(3 << 20)
    with pytest.raises(DatasetError, match=r"3 MiB large; tables of more than 1 MiB") as caught:
        add(file, options={"max_mib": "1"})
    assert "--option max_mib=" in caught.value.cure
    for wrong in ("many", "-1", "0", "1.5"):
        with pytest.raises(UsageError, match="max_mib"):
            add(file, options={"max_mib": wrong})


def test_a_file_of_gigabytes_is_refused_at_once(root):
    with (root / "t.csv").open("ab") as grown:
        grown.truncate(9 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(DatasetError, match="9,216 MiB large"):
        add(root / "t.csv")


def test_an_endless_line_is_refused_in_bounded_memory(root):
    with (root / "t.csv").open("ab") as grown:
        grown.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="line 4 is longer than"):
            add(root / "t.csv")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_rows_with_very_many_cells_are_refused_in_bounded_memory(root, monkeypatch):
    monkeypatch.setattr(table_reader, "CHUNK_CHARACTERS", 1 << 16)
    (root / "t.csv").write_text("a,b\n" + ("1," * 40_000 + "\n") * 500)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="row 2 has 40001 cells, but the header has 2"):
            add(root / "t.csv")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_too_many_columns_are_refused(root):
    (root / "t.csv").write_text(",".join(f"c{i}" for i in range(table_reader.MAX_COLUMNS + 1)) + "\n")
    with pytest.raises(DatasetError, match="100,001 columns"):
        add(root / "t.csv")


def test_no_message_about_content_names_the_path(root):
    (root / "t.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DatasetError, match="row 3 has 1 cells") as caught:
        add(root / "t.csv")
    assert str(Path(root)) not in str(caught.value)
