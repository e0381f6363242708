"""Decisions about training plans: what may run where, and what a researcher is told."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import moments

from fedplug.core.errors import RefusedError, StoreError, UnknownNameError, UsageError
from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval import approvals as module
from fedplug.node.approval import installed
from fedplug.node.approval.approvals import Approvals
from fedplug.node.approval.records import Decision, end_of, standing, utc_now
from fedplug.node.audit.log import AuditLog
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.policy.schema import OPEN, ApprovalRules, Policy
from fedplug.node.store import NodeStore

FIRST = PlanBundle("Net", "class Net:\n    lr = 0.1\n", ("import torch",))
SECOND = PlanBundle("Net", "class Net:\n    lr = 0.2\n", ("import torch",))
OTHER = PlanBundle("Tree", "class Tree: pass\n")
NOW = "2026-06-01T00:00:00+00:00"


@pytest.fixture
def store(tmp_path):
    with NodeStore.in_memory() as store:
        for name in ("patients", "scans"):
            (tmp_path / f"{name}.csv").write_text("x,y\n1,0\n2,1\n")
            store.add_dataset(inspect_file(tmp_path / f"{name}.csv", tags=["t"])[0])
        yield store


@pytest.fixture
def approvals(store):
    return Approvals(store, Policy())


def refusal(approvals, bundle=FIRST, dataset="patients"):
    with pytest.raises(RefusedError) as caught:
        approvals.require(bundle, dataset)
    assert caught.value.code == "not-approved"
    assert caught.value.cure
    return caught.value.message


def test_a_plan_runs_only_after_it_was_approved_and_not_after_it_was_withdrawn_or_rejected(approvals):
    assert approvals.standing(FIRST.hash).status == "unknown"
    approvals.receive(FIRST, "zmq://r")
    assert "waits for the approval" in refusal(approvals)
    approvals.approve(FIRST.hash, note="Fine.")
    approvals.require(FIRST, "patients")
    assert approvals.standing(FIRST.hash, "scans").status == "approved"
    approvals.withdraw(FIRST.hash)
    assert "waits" in refusal(approvals)
    approvals.reject(FIRST.hash, note="Too greedy.")
    assert 'was rejected by the node\'s owner. The owner says: "Too greedy."' in refusal(approvals)


def test_an_approval_for_one_data_set_is_none_for_another(approvals):
    approvals.receive(FIRST, "zmq://r")
    approvals.approve(FIRST.hash[:8], dataset="patients")
    approvals.require(FIRST, "patients")
    assert "approved for 'patients', not for 'scans'" in refusal(approvals, dataset="scans")
    with pytest.raises(UnknownNameError):
        approvals.approve(FIRST.hash, dataset="patient")


def test_one_byte_more_is_another_plan_and_both_hashes_are_named(approvals):
    approvals.receive(FIRST, "zmq://r")
    approvals.approve(FIRST.hash)
    text = refusal(approvals, PlanBundle("Net", FIRST.source + " ", FIRST.dependencies))
    assert FIRST.hash in text
    assert PlanBundle("Net", FIRST.source + " ", FIRST.dependencies).hash in text


def test_an_approval_ends_with_the_day_that_was_named(approvals, monkeypatch):
    approvals.receive(FIRST, "zmq://r")
    decision = approvals.approve(FIRST.hash, until="2999-01-31")
    assert decision.expires == "2999-01-31T23:59:59+00:00"
    approvals.require(FIRST, "patients")
    monkeypatch.setattr(module, "utc_now", lambda: "2999-02-01T00:00:00+00:00")
    assert "has ended on 2999-01-31" in refusal(approvals)
    assert approvals.standing(FIRST.hash).status == "expired"


@pytest.mark.parametrize("text", ["tomorrow", "2026-02-30", "2020-01-01", "31.12.2999", "2020-01-01T00:00"])
def test_a_date_that_is_none_or_past_is_refused(text):
    with pytest.raises(UsageError):
        end_of(text)


def test_times_with_a_zone_become_utc():
    assert end_of("2999-01-01T01:00+02:00") == "2998-12-31T23:00:00+00:00"
    assert end_of(" ") == ""


def test_with_approval_off_everything_runs_and_says_so(store):
    approvals = Approvals(store, OPEN)
    approvals.require(FIRST, "patients")
    assert approvals.standing(FIRST.hash).status == "not required"


def test_a_plan_is_remembered_once_and_so_is_each_word_about_it(approvals, store):
    for researcher, text in [("zmq://r", ""), ("zmq://r", "why"), ("zmq://s", "why"), ("zmq://r", "why")]:
        approvals.receive(FIRST, researcher, text)
    (record,) = approvals.plans()
    assert [(each.researcher, each.description) for each in record.requests] == [
        ("zmq://r", ""), ("zmq://r", "why"), ("zmq://s", "why"),
    ]  # fmt: skip
    assert record.description == "why"
    assert [entry.event for entry in AuditLog(store).entries()] == ["plan-received"] * 3
    for number in range(30):
        approvals.receive(FIRST, "zmq://r", f"word {number}", dataset="patients")
    said = [each.description for each in approvals.plan(FIRST.hash).requests if each.dataset]
    assert said == [f"word {number}" for number in range(20, 30)]
    assert len(approvals.plan(FIRST.hash).requests) == 13


def test_a_plan_that_is_approved_for_one_data_set_and_asked_for_on_another_waits(approvals):
    approvals.receive(FIRST, "zmq://r", dataset="patients")
    approvals.approve(FIRST.hash, dataset="patients")
    assert approvals.pending() == []
    assert approvals.summary(approvals.plan(FIRST.hash)) == "approved for 'patients'"
    approvals.receive(FIRST, "zmq://r", dataset="scans")
    (record,) = approvals.pending()
    assert record.waits_for(NOW) == ("scans",)
    assert approvals.summary(record) == "approved for 'patients'; pending for 'scans'"
    approvals.reject(FIRST.hash, dataset="scans")
    assert approvals.pending() == []
    approvals.approve(FIRST.hash)
    approvals.reject(FIRST.hash, dataset="scans")
    assert approvals.standing(FIRST.hash).status == "approved"  # somewhere
    assert approvals.summary(approvals.plan(FIRST.hash)) == "approved; rejected for 'scans'"
    approvals.withdraw(FIRST.hash)
    assert approvals.summary(approvals.plan(FIRST.hash)) == "pending"
    assert approvals.plan(FIRST.hash).waits_for(NOW) == ("patients", "scans")


def test_an_approval_that_has_ended_waits_for_another_once_somebody_asks_again(approvals, monkeypatch):
    monkeypatch.setattr(module, "utc_now", lambda: "2990-01-01T00:00:00+00:00")
    approvals.receive(FIRST, "zmq://r", "why", dataset="patients")
    approvals.approve(FIRST.hash, until="2999-01-31")
    monkeypatch.setattr(module, "utc_now", lambda: "2999-02-01T00:00:00+00:00")
    assert approvals.pending() == []
    assert approvals.summary(approvals.plan(FIRST.hash)) == "expired"
    approvals.receive(FIRST, "zmq://r", "why", dataset="patients")
    (record,) = approvals.pending()
    assert [each.received for each in record.requests] == ["2999-02-01T00:00:00+00:00"]
    assert "has ended" in refusal(approvals)


def test_only_what_is_approved_still_is_named_beside_another_version(approvals):
    approvals.receive(FIRST, "zmq://r")
    approvals.approve(FIRST.hash)
    assert FIRST.hash in refusal(approvals, SECOND)
    approvals.reject(FIRST.hash)
    assert FIRST.hash not in refusal(approvals, SECOND)
    approvals.approve(FIRST.hash, dataset="patients")
    assert FIRST.hash in refusal(approvals, SECOND)
    assert FIRST.hash not in refusal(approvals, SECOND, "scans")


@pytest.mark.parametrize("place", [0, 3, 20, -1])
def test_a_byte_that_changed_in_the_store_is_found_out_and_mended_when_the_plan_comes_again(approvals, store, place):
    approvals.receive(FIRST, "zmq://r", "why")
    approvals.approve(FIRST.hash)
    damaged = bytearray(FIRST.encode())
    damaged[place] ^= 1
    with store.transaction() as db:
        db.execute("UPDATE plans SET bundle = ?", (bytes(damaged),))
    with pytest.raises(StoreError, match=f"{FIRST.hash[:12]} is damaged"):
        approvals.plan(FIRST.hash)
    approvals.require(FIRST, "patients")  # what runs is what the researcher sends, if it has the hash
    approvals.receive(FIRST, "zmq://r", "why")
    assert approvals.plan(FIRST.hash).bundle == FIRST


def test_what_waits_and_what_is_compared_with_what(approvals):
    for bundle in (FIRST, OTHER, SECOND):
        approvals.receive(bundle, "zmq://r")
    approvals.approve(FIRST.hash)
    approvals.reject(OTHER.hash)
    assert [record.hash for record in approvals.pending()] == [SECOND.hash]
    assert approvals.count() == 3
    assert approvals.approved_before(approvals.plan(SECOND.hash)).hash == FIRST.hash
    assert approvals.approved_before(approvals.plan(FIRST.hash)) is None
    approvals.withdraw(OTHER.hash)
    assert {record.hash for record in approvals.pending()} == {SECOND.hash, OTHER.hash}


def test_a_plan_is_found_by_hash_prefix_or_class(approvals):
    for bundle in (FIRST, SECOND, OTHER):
        approvals.receive(bundle, "zmq://r")
    assert approvals.plan(FIRST.hash).bundle == FIRST
    assert approvals.plan(FIRST.hash[:6].upper()).bundle == FIRST
    assert approvals.plan("Tree").bundle == OTHER
    with pytest.raises(UsageError, match=f"(?s){FIRST.hash[:12]}.*{SECOND.hash[:12]}|{SECOND.hash[:12]}"):
        approvals.plan("Net")
    for wrong in ("", "a", FIRST.hash[:5], "Nat"):
        with pytest.raises(UnknownNameError):
            approvals.plan(wrong)


def test_decisions_only_grow_and_the_audit_log_has_them(approvals, store):
    approvals.receive(FIRST, "zmq://r")
    decision = approvals.approve(FIRST.hash, dataset="scans", note=" ok ", by="web")
    assert (decision.note, decision.decided_by, decision.dataset) == ("ok", "web", "scans")
    assert "fedplug " in decision.versions
    for statement in ("DELETE FROM plan_decisions", "UPDATE plan_decisions SET status = 'rejected'"):
        with pytest.raises((StoreError, sqlite3.Error)), store.transaction() as db:
            db.execute(statement)
    entry = AuditLog(store).entries(events=["plan-approved"])[0]
    assert (entry.actor, entry.data["plan"], entry.data["dataset"]) == ("web", FIRST.hash, "scans")
    with pytest.raises(UsageError, match="may have 2000"):
        approvals.reject(FIRST.hash, note="x" * 2001)


@pytest.mark.parametrize("decide", [Approvals.approve, Approvals.reject, Approvals.withdraw])
def test_whatever_ends_a_decision_the_audit_log_has_it_if_it_counts(approvals, store, decide):
    def end():
        raise KeyboardInterrupt

    approvals.receive(FIRST, "zmq://r")
    came = 0
    for moment in moments("approval/approvals.py:_decide", end, calls_only=True):
        with contextlib.suppress(KeyboardInterrupt), moment:
            decide(approvals, FIRST.hash)
        came += moment.came
        (decided,) = store.read("SELECT count(*) FROM plan_decisions")[0]
        assert decided == len(AuditLog(store).entries()) - 1
    assert came > 10
    assert decided > 1


def test_whatever_keeps_a_plan_from_being_taken_in_the_audit_log_has_it_if_it_is(approvals, store):
    def end():
        raise KeyboardInterrupt

    came = 0
    for moment in moments("approval/approvals.py:receive", end, calls_only=True):
        with contextlib.suppress(KeyboardInterrupt), moment:
            approvals.receive(FIRST, f"zmq://r{came}")
        came += moment.came
        (taken,) = store.read("SELECT count(*) FROM plan_requests")[0]
        assert taken == len(AuditLog(store).entries())
    assert came > 5


def test_a_flood_of_plans_is_stopped_and_nothing_that_waits_is_lost(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_PENDING", 3)
    approvals = Approvals(store, Policy())
    for number in range(3):
        approvals.receive(PlanBundle("P", f"x = {number}"), "zmq://r")
    with pytest.raises(RefusedError, match="3 training plans wait"):
        approvals.receive(PlanBundle("P", "x = 3"), "zmq://r")
    approvals.receive(PlanBundle("P", "x = 1"), "zmq://r", "known ones may be spoken of")
    approvals.reject(PlanBundle("P", "x = 0").hash)
    approvals.receive(PlanBundle("P", "x = 3"), "zmq://r")
    monkeypatch.setattr(module, "MOST_PENDING_BYTES", 10)
    with pytest.raises(RefusedError):
        approvals.receive(PlanBundle("P", "x = 4"), "zmq://r")


def test_where_nobody_looks_the_oldest_make_room(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_PENDING", 4)
    approvals = Approvals(store, OPEN)
    for number in range(9):
        approvals.receive(PlanBundle("P", f"x = {number}"), "zmq://r")
    assert 4 >= approvals.count() >= 2
    assert approvals.plan(PlanBundle("P", "x = 8").hash)


def test_plans_of_installed_plugins_may_count_as_approved(store):
    from fedplug.core.plan_source import bundle_plan
    from fedplug.core.plugins import default_host

    shipped = bundle_plan(default_host().component("training_plan", "demo-breast-cancer"))
    rules = Policy(approval=ApprovalRules(default_plans=True))
    Approvals(store, rules).require(shipped, "patients")
    refusal(Approvals(store, rules))
    refusal(Approvals(store, Policy()), shipped)
    Approvals(store, rules).receive(shipped, "zmq://r")
    record = Approvals(store, rules).plan(shipped.hash)
    assert (Approvals(store, rules).summary(record), Approvals(store, rules).pending()) == ("approved", [])
    assert (Approvals(store, Policy()).summary(record), Approvals(store, Policy()).pending()) == ("pending", [record])
    Approvals(store, rules).reject(shipped.hash)
    assert "rejected" in refusal(Approvals(store, rules), shipped)


@pytest.mark.parametrize(
    "trouble", [subprocess.TimeoutExpired("x", 1), subprocess.CalledProcessError(1, "x", stderr="no"), OSError("no")]
)
def test_plugins_that_cannot_be_looked_at_ship_no_plan_and_the_node_goes_on(monkeypatch, caplog, trouble):
    def run(*_, **__):
        raise trouble

    monkeypatch.setattr(installed.subprocess, "run", run)
    assert installed.installed_plans.__wrapped__() == frozenset()
    assert "until the node is restarted" in caplog.text


# the rule itself, against another way to say it ----------------------------------------------------------------

DECISIONS = st.lists(
    st.tuples(
        st.sampled_from(["approved", "rejected", "withdrawn"]),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(["", "2026-05-01T00:00:00+00:00", "2026-07-01T00:00:00+00:00", NOW]),
    ),
    max_size=6,
)


@given(DECISIONS, st.sampled_from(["a", "b"]))
def test_the_last_decision_that_concerns_a_data_set_counts(given_, dataset):
    decisions = tuple(
        Decision(number, "h", status, about, expires, "", NOW, "owner", "")
        for number, (status, about, expires) in enumerate(given_)
    )
    expected = "pending"
    for status, about, expires in given_:  # played forward: each one that concerns it replaces the state
        if about in ("", dataset):
            over = expires and expires <= NOW
            expected = {"approved": "expired" if over else "approved", "withdrawn": "pending"}.get(status, status)
    assert standing(decisions, dataset, NOW).status == expected


def test_the_clock_of_decisions_sorts_as_text():
    assert utc_now() < "2999"
    assert utc_now().endswith("+00:00")
