"""The log in a node's folder: what it keeps, what it hides, and how it is read."""

from __future__ import annotations

import logging
import threading

import pytest

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.node.service import log_file
from fedplug.node.service.log_file import LogFile, level_number, read_log


@pytest.fixture
def write(tmp_path):
    """Return ``write(level, text)``, which logs as a node in ``tmp_path`` does."""
    handler = LogFile(tmp_path)
    yield lambda level, text: handler.handle(message(level, text))
    handler.close()


def message(level, text):
    return logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "msg": text})


def texts(lines):
    return [line[20:].rstrip("\n") for line in lines]


def test_messages_come_back_in_order_the_last_ones_and_above_a_level(write, tmp_path):
    write(logging.INFO, "one")
    write(logging.ERROR, "two\nmore of two")
    write(logging.INFO, "three")
    assert texts(read_log(tmp_path, 10))[0] == "INFO    one"
    assert list(read_log(tmp_path, 2))[1] == "    more of two\n"
    assert [line.split()[-1] for line in read_log(tmp_path, 10, logging.ERROR)] == ["two", "two"]
    assert texts(read_log(tmp_path, 1)) == ["INFO    three"]
    assert list(read_log(tmp_path, 0)) == []


def test_only_the_owner_may_read_it(write, tmp_path):
    write(logging.INFO, "one")
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "logs" / "node.log").stat().st_mode & 0o777 == 0o600


def test_a_text_cannot_pass_for_a_message_or_move_the_cursor(write, tmp_path):
    write(logging.INFO, "printed: \x1b[2J\r\n2026-01-01 00:00:00 ERROR   forged")
    assert list(read_log(tmp_path, 10, logging.ERROR)) == []
    (first, second) = read_log(tmp_path, 10)
    assert "\\x1b[2J" in first
    assert second.startswith("    2026")


def test_it_never_grows_beyond_a_few_files_and_is_read_across_them(write, tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "_MOST_BYTES", 2000)
    handler = LogFile(tmp_path)
    for number in range(500):
        handler.handle(message(logging.INFO, f"message {number}"))
    handler.close()
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 6 * 2000
    found = texts(read_log(tmp_path, 100))
    assert found == [f"INFO    message {number}" for number in range(400, 500)]


def test_following_goes_on_with_what_is_written_and_across_a_change_of_files(write, tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "_LOOK", 0.001)
    write(logging.INFO, "before")
    lines = read_log(tmp_path, 1, follow=True)
    assert "before" in next(lines)
    threading.Timer(0.01, write, (logging.INFO, "after")).start()
    assert "after" in next(lines)
    path = tmp_path / "logs" / "node.log"
    with path.open("a") as half:
        half.write("2026-01-01 00:00:00 INFO    half ")
        half.flush()
        threading.Timer(0.01, lambda: (half.write("a line\n"), half.flush())).start()
        assert next(lines).endswith("half a line\n")
    path.rename(path.with_name("node.log.1"))
    path.write_text("2026-01-01 00:00:01 INFO    in the new file\n")
    assert next(lines).endswith("in the new file\n")
    lines.close()


def test_following_misses_nothing_that_was_written_just_before_a_change_of_files(write, tmp_path, monkeypatch):
    write(logging.INFO, "before")
    lines = read_log(tmp_path, 1, follow=True)
    assert "before" in next(lines)
    path, was_replaced = tmp_path / "logs" / "node.log", log_file._was_replaced

    def is_replaced_now(file, place):
        monkeypatch.setattr(log_file, "_was_replaced", was_replaced)
        write(logging.INFO, "the last of the old file")
        path.rename(path.with_name("node.log.1"))
        path.write_text("2026-01-01 00:00:01 INFO    in the new file\n")
        return was_replaced(file, place)

    monkeypatch.setattr(log_file, "_was_replaced", is_replaced_now)
    assert next(lines).endswith("the last of the old file\n")
    assert next(lines).endswith("in the new file\n")
    lines.close()


def test_a_disk_that_is_full_is_told_once_and_ends_nothing(write, tmp_path, capsys):
    (tmp_path / "logs").write_text("in the way")
    write(logging.INFO, "one")
    write(logging.INFO, "two")
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_node_that_was_never_started_has_no_log(tmp_path):
    with pytest.raises(UsageError, match="no node has been started"):
        list(read_log(tmp_path, 10))


def test_an_unknown_level_is_told_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'warning'"):
        level_number("warnings")
    assert level_number("ERROR") == logging.ERROR
