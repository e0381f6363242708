from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.key_list import KeyEntry, KeyList

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


@pytest.fixture
def keys(tmp_path):
    return KeyList(tmp_path / "keys" / "nodes", ["Nodes that may connect.", "A running researcher sees changes."])


def names(keys):
    return [(entry.name, entry.key) for entry in keys.entries()]


def test_keys_are_added_in_order_once_and_known_by_their_name(keys):
    assert names(keys) == []
    assert keys.name_of(A) == ""
    assert keys.add("hospital-a", A)[0].key == A
    keys.add("hospital-b", B)
    keys.add("hospital-a", A)
    assert names(keys) == [("hospital-a", A), ("hospital-b", B)]
    assert [keys.name_of(key) for key in (A, B, C)] == ["hospital-a", "hospital-b", ""]
    assert keys.entries()[0].since[:2] == "20"
    lines = keys.path.read_text().splitlines()
    assert lines[:2] == ["# Nodes that may connect.", "# A running researcher sees changes."]
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_a_name_may_have_several_keys_until_it_is_to_have_one_only(keys):
    keys.add("hospital-a", A)
    keys.add("hospital-b", B)
    assert [entry.key for entry in keys.add("hospital-a", C)] == [A, C]
    assert keys.name_of(A) == keys.name_of(C) == "hospital-a"
    assert [entry.key for entry in keys.add("hospital-a", C, only=True)] == [C]
    assert [keys.name_of(key) for key in (A, B, C)] == ["", "hospital-b", "hospital-a"]


def test_what_is_removed_is_told_by_name_or_by_key(keys):
    keys.add("hospital-a", A)
    keys.add("hospital-a", B)
    keys.add("hospital-b", C)
    assert [entry[:2] for entry in keys.remove("hospital-a")] == [("hospital-a", A), ("hospital-a", B)]
    assert [entry[:2] for entry in keys.remove(C)] == [("hospital-b", C)]
    assert keys.remove("hospital-a") == ()
    assert names(keys) == []


def test_every_change_of_the_file_is_seen_by_the_next_question(keys):
    """Without waiting: changes within one tick of the file system's clock, to a file of the same size, are seen."""
    running = KeyList(keys.path, [])
    for turn in range(200):
        keys.path.parent.mkdir(exist_ok=True)
        key = (A, B, C)[turn % 3]
        keys.path.write_text(f"hospital-a {key}\n") if turn % 2 else keys.add("hospital-a", key, only=True)
        assert [running.name_of(each) for each in (A, B, C)] == [
            "hospital-a" if each == key else "" for each in (A, B, C)
        ]
    keys.path.unlink()
    assert running.name_of(key) == ""


def test_a_list_that_has_settled_is_not_read_again(keys, monkeypatch):
    keys.add("hospital-a", A)
    os.utime(keys.path, (1, 1))  # changes the time that counts (of the last change) to now: so it is made old here
    real = keys.path.stat()
    monkeypatch.setattr("time.time", lambda: real.st_ctime + 10)
    assert keys.name_of(A) == "hospital-a"
    monkeypatch.setattr(keys, "_read", lambda: pytest.fail("it was read again"))
    assert keys.name_of(A) == "hospital-a"
    assert keys.name_of(B) == ""


def test_what_a_person_wrote_stays_and_bad_lines_are_left_out_and_told_once(keys, caplog):
    text = (
        "# mine\n\n  hospital-a   " + A.upper() + "   2026-01-02  # Dr. Schmidt, 0123\n"
        f"hospital-b {B[:-1]}\n"
        f"hospital c {C} 2026-01-02\n"
        f"{C}\n"
        f"hospital-d {C}\n"
    )
    keys.path.parent.mkdir()
    keys.path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert keys.entries() == (KeyEntry("hospital-a", A, "2026-01-02"), KeyEntry("hospital-d", C))
        assert keys.name_of(A) == "hospital-a"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "line 4: 'hospital-b bbb" in told[0]
    assert "line 5" in told[1]
    assert "line 6" in told[2]
    keys.add("hospital-e", B)
    assert keys.path.read_text().startswith(text)
    keys.remove("hospital-a")
    assert keys.path.read_text().startswith(text.replace(text.splitlines(keepends=True)[2], ""))


def test_nobody_is_known_by_a_list_that_others_could_have_written(keys):
    keys.add("hospital-a", A)
    keys.path.chmod(0o620)
    with pytest.raises(KeysError, match="Others can write") as caught:
        keys.entries()
    assert f"chmod 600 '{keys.path}'" in caught.value.cure
    with pytest.raises(KeysError, match="Others can write"):
        keys.add("hospital-b", B)
    for _ in range(2):
        with pytest.raises(KeysError, match="Others can write"):
            keys.name_of(A)
    keys.path.chmod(0o600)
    assert keys.name_of(A) == "hospital-a"
    keys.path.unlink()
    keys.path.mkdir()
    with pytest.raises(KeysError, match="not a plain file"):
        keys.name_of(A)


def test_a_file_that_is_no_list_is_refused(keys):
    keys.path.parent.mkdir()
    keys.path.write_bytes(b"\xff\xfe\0" * 100)
    assert keys.entries() == ()
    with keys.path.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(KeysError, match="too large"):
        keys.entries()


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "a#b", "x" * 129, "\x1b[31m"])
def test_a_name_that_would_break_the_list_is_refused(keys, name):
    with pytest.raises(UsageError, match="cannot stand in a list of keys"):
        keys.add(name, A)
    assert not keys.path.exists()


def test_commands_that_add_at_the_same_time_all_get_their_line(keys):
    code = (
        "import sys; from pathlib import Path; from fedplug.core.key_list import KeyList\n"
        "keys = KeyList(Path(sys.argv[1]), [])\n"
        "for i in range(20): keys.add(f'{sys.argv[2]}-{i}', f'{i:02x}{sys.argv[2] * 31}')\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(keys.path), each]) for each in ("aa", "bb", "cc")]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(keys.entries()) == 60


def test_what_was_read_is_changed_by_one_thread_at_a_time(keys, monkeypatch):
    """Else one that has read the list before a change could put it in the place of what another has read after it."""
    keys.add("lyon", A)
    refresh = keys._refresh

    def alone():
        assert keys._lock.locked()
        refresh()

    monkeypatch.setattr(keys, "_refresh", alone)
    assert names(keys) == [("lyon", A)]
    assert keys.name_of(A) == "lyon"
