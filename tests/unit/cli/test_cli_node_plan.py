"""``fedplug node plan``: what the owner reads and decides in a terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest

from fedplug.cli import main
from fedplug.core.plan_source import PlanBundle
from fedplug.node import NodeStore
from fedplug.node.approval.approvals import Approvals
from fedplug.node.audit.log import AuditLog
from fedplug.node.policy.schema import Policy

FIRST = PlanBundle("Net", "class Net:\n    lr = 0.1\n", ("import torch",))
SECOND = PlanBundle("Net", "class Net:\n    lr = eval('0.2')\n", ("import torch",))


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs ``fedplug node plan ...`` in this process, at a node to which two plans were sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPLUG_NODE", raising=False)
    with NodeStore.create(tmp_path / "fedplug-node") as store:
        for bundle, why in ((FIRST, "First."), (SECOND, "Faster.\n999999999999  Net  approved")):
            Approvals(store, Policy()).receive(bundle, "zmq://r", why)

    def run(*words):
        code = main(["node", "plan", *words])
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return run


class Person(io.StringIO):
    """Somebody at a terminal who types this."""

    def isatty(self):
        return True


def test_the_list_has_a_line_for_each_plan_whatever_a_researcher_writes(cli):
    code, out, _ = cli("list")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:3]] == [FIRST.hash[:12], SECOND.hash[:12]]
    assert "Faster. 999999999999 Net approved" in lines[2]
    assert lines[3] == f"To read one: fedplug node plan show {SECOND.hash[:12]}"
    assert len(lines) == 4
    cli("approve", FIRST.hash)
    assert FIRST.hash[:12] not in cli("list", "--pending")[1]
    listed = json.loads(cli("list", "--json")[1])
    assert [(each["hash"], each["status"]) for each in listed] == [(FIRST.hash, "approved"), (SECOND.hash, "pending")]
    cli("reject", SECOND.hash)
    assert cli("list", "--pending")[1] == "No training plan waits for you.\n"


def test_a_plan_is_shown_with_its_numbers_its_changes_and_what_deserves_a_look(cli):
    cli("approve", FIRST.hash)
    code, out, _ = cli("show", SECOND.hash[:6])
    assert code == 0
    for line in ("    5      lr = eval('0.2')", "-    lr = 0.1", "+    lr = eval('0.2')", "It imports: torch"):
        assert line in out.splitlines()
    assert "line 5  call eval  runs code" in out
    assert "advice only" in out
    shown = json.loads(cli("show", SECOND.hash, "--json")[1])
    assert shown["text"] == SECOND.text
    assert [each["name"] for each in shown["findings"]] == ["torch", "eval"]
    assert "+    lr = eval('0.2')" in cli("diff", SECOND.hash)[1]
    assert "-    lr = eval('0.2')" in cli("diff", FIRST.hash, SECOND.hash)[1]
    assert "nothing to compare with" in cli("diff", FIRST.hash)[1]


def test_a_plan_cannot_steer_the_terminal(cli, tmp_path):
    evil = PlanBundle("Evil", "class Evil:\n    x = 1  # \x1b[2J\u202e\x9b31m\rimport os\n", ("import torch",))
    with NodeStore.open(tmp_path / "fedplug-node") as store:
        Approvals(store, Policy()).receive(evil, "zmq://r", "\x1b]0;approved\x07")
    for words in (("list",), ("show", "Evil"), ("diff", "Evil", FIRST.hash)):
        code, out, err = cli(*words)
        assert code == 0
        assert all(sign.isprintable() or sign in "\n\t" for sign in out + err)
    assert "    6  import os" in cli("show", "Evil")[1].splitlines()


def test_a_name_that_stands_for_several_plans_or_none_decides_nothing(cli, tmp_path):
    code, _, err = cli("approve", "Net", "--yes")
    assert code == 2
    assert FIRST.hash[:12] in err
    assert SECOND.hash[:12] in err
    assert cli("approve", "Nat")[0] != 0
    assert cli("approve", FIRST.hash, "--dataset", "nothing")[0] != 0
    assert cli("approve", FIRST.hash, "--until", "2020-01-01")[0] == 2
    with NodeStore.open(tmp_path / "fedplug-node") as store:
        assert [record.decisions for record in Approvals(store, Policy()).plans()] == [(), ()]


@pytest.mark.parametrize(("typed", "decided"), [("y\n", 1), ("n\n", 0), ("", 0)])
def test_a_person_is_asked_before_anything_is_decided(cli, monkeypatch, tmp_path, typed, decided):
    monkeypatch.setattr(sys, "stdin", Person(typed))
    code, out, _ = cli("approve", SECOND.hash)
    assert "Net has 5 lines. To be looked at: 1 place." in out
    assert (code == 0) == bool(decided)
    with NodeStore.open(tmp_path / "fedplug-node") as store:
        assert len(Approvals(store, Policy()).plan(SECOND.hash).decisions) == decided
        assert len(AuditLog(store).entries(events=["plan-approved"])) == decided


def test_decisions_are_told_with_the_way_back(cli):
    code, out, _ = cli("approve", FIRST.hash, "--until", "2999-01-31", "--note", "Fine.")
    assert code == 0
    assert "may run on all data sets until 2999-01-31 23:59 (UTC)" in out
    assert f"fedplug node plan withdraw {FIRST.hash[:12]}" in out
    assert "does not run here" in cli("reject", FIRST.hash, "--note", "No more.")[1]
    assert "waits for a decision again" in cli("withdraw", FIRST.hash)[1]
    shown = cli("show", FIRST.hash)[1]
    for word in ("approved by owner", "rejected by owner", "withdrawn by owner", "Fine.", "No more.", "pending"):
        assert word in shown
