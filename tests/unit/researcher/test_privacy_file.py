"""The account of privacy on disk: it outlives breakpoints, and is never half written."""

from __future__ import annotations

import fcntl
import math

import pytest

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import BreakpointError, StoreError
from fedplug.core.messages import TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.core.privacy_ledger import Asked, PrivacyLedger, gaussian_epsilon
from fedplug.researcher import privacy_file
from fedplug.researcher.privacy_file import FILE, load_ledger, write_ledger

CENTRAL = {"type": "central", "sigma": 2.0, "clip": 1.0, "delta": 1e-5, "poisson": True}


def ledger_of(*results: float, args=CENTRAL) -> PrivacyLedger:
    ledger = PrivacyLedger()
    reply = TrainReply(key=TaskKey(experiment_id="e", round=0, node_id="lyon"), sample_count=1)
    for number, out in enumerate(results):
        result = RoundResult(Params.from_arrays({"w": [out]}), {"lyon": reply}, {}, {}, 0.1)
        ledger.note(RoundContext(round=number, training_args={"dp_args": args}), result, {"lyon": Asked(number - 1)})
    return ledger


def test_the_account_that_knows_more_counts(tmp_path):
    three, one = ledger_of(1, 2, 3), ledger_of(1)
    for written, saved in ((three, one), (one, three), (three, three)):
        write_ledger(written, tmp_path, "e")
        found = PrivacyLedger()
        load_ledger(found, tmp_path, "e", saved.state_dict())
        assert found.report()["lyon"]["epsilon"] == gaussian_epsilon([(2.0, 3)], 1e-5)
        assert found.state_dict() == three.state_dict()


def test_without_the_file_the_breakpoint_counts(tmp_path):
    found = PrivacyLedger()
    load_ledger(found, tmp_path, "e", ledger_of(1).state_dict())
    assert found.count == 1


def test_experiments_that_share_a_folder_keep_their_accounts_apart(tmp_path):
    write_ledger(ledger_of(1, 2), tmp_path, "first")
    write_ledger(ledger_of(1), tmp_path, "second")
    for name, count in (("first", 2), ("second", 1), ("third", 0)):
        found = PrivacyLedger()
        load_ledger(found, tmp_path, name, PrivacyLedger().state_dict())
        assert found.count == count


def test_of_experiments_that_share_a_folder_one_at_a_time_writes_its_account(tmp_path, monkeypatch):
    read, tried = privacy_file._read, []

    def look(path):
        tried.append(path)
        with (tmp_path / ".lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return read(path)

    monkeypatch.setattr(privacy_file, "_read", look)
    write_ledger(ledger_of(1), tmp_path, "e")
    assert tried == [tmp_path / FILE]


def test_nothing_is_written_where_there_was_no_privacy(tmp_path):
    write_ledger(ledger_of(1, 2, args=None), tmp_path, "e")
    assert list(tmp_path.iterdir()) == []
    write_ledger(ledger_of(1), tmp_path, "e")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock", FILE]


def test_an_account_without_a_bound_can_be_written(tmp_path):
    write_ledger(ledger_of(1, args={**CENTRAL, "sigma": 0.0}), tmp_path, "e")
    found = PrivacyLedger()
    load_ledger(found, tmp_path, "e", PrivacyLedger().state_dict())
    assert found.report()["lyon"]["epsilon"] == math.inf


OTHERS = ['{"version": 2, "experiments": {}}', '{"version": 1, "experiments": {"e": {}}}']
DAMAGED = ["", "{", "[]", "\xff", "[" * 9999, *OTHERS]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_told_and_not_passed_over(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    with pytest.raises(BreakpointError, match=r"cannot be read from .*privacy\.json") as caught:
        load_ledger(PrivacyLedger(), tmp_path, "e", PrivacyLedger().state_dict())
    assert "remove it" in caught.value.cure


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write_ledger(ledger_of(1), tmp_path, "e")
    before = (tmp_path / FILE).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        write_ledger(ledger_of(1, 2), tmp_path, "e")
    assert "The round counts" in caught.value.cure
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock", FILE]
    monkeypatch.undo()
    (tmp_path / FILE).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        write_ledger(ledger_of(1), tmp_path, "e")
