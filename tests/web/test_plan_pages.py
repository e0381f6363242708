"""Training plans on the page: read, compared, decided. What is hostile in them is shown as text."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest

from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.approvals import Approvals
from fedplug.node.approval.scan import scan
from fedplug.node.policy.schema import Policy
from fedplug.node.web.plans import line_of

SOURCE = "class Net:\n    def init_model(self, model_args):\n        return 1\n"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TOMORROW = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()


def plain(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.fixture
def approvals(store):
    return Approvals(store, Policy())


@pytest.fixture
def receive(approvals):
    """Return ``receive(source, description="", ...)``: a plan that a researcher has sent; returns its hash."""

    def send(source=SOURCE, description="", **more):
        bundle = PlanBundle(**{"class_name": "Net", "source": source, "dependencies": ("import os",), **more})
        approvals.receive(bundle, "zmq://researcher", description)
        return bundle.hash

    return send


def test_a_plan_that_waits_is_shown_wherever_the_owner_looks(owner, receive):
    assert "No training plan waits" in owner.get("/plans").text
    found = receive(description="For the heart study")
    for path in ("/", "/plans"):
        page = owner.get(path).text
        assert f'href="/plans/{found}"' in page
        assert "For the heart study" in page
    assert '<span class="count">1<span class="unseen"> waiting</span></span>' in owner.get("/settings").text


def test_a_plan_is_shown_whole_with_numbers_and_what_deserves_a_look(owner, receive):
    found = receive(SOURCE + "    def x(self):\n        os.system('ls')\n")
    page = owner.get(f"/plans/{found}").text
    assert found in page
    assert 'id="L1"' in page
    assert "os.system('ls')" in plain(page)
    assert "Advice only" in page
    assert "starts processes" in page
    assert 'href="/plans/' + found + '?view=text#L8"' in page
    assert "nothing to compare it with" in page


def test_a_plan_is_compared_with_the_version_that_was_approved_last(owner, receive, approvals):
    old = receive()
    approvals.approve(old)
    new = receive(SOURCE.replace("return 1", "return 2"))
    page = owner.get(f"/plans/{new}").text
    assert f"Changes since the version that was approved last, {old[:12]}" in page
    rows = re.findall(r'<tr class="(added|removed)">(.*?)</tr>', page, re.DOTALL)
    assert [(kind, "return 1" in plain(row), "return 2" in plain(row)) for kind, row in rows] == [
        ("removed", True, False),
        ("added", False, True),
    ]
    assert '<span aria-hidden="true">-</span><span class="unseen">removed</span>' in rows[0][1]
    assert '<span aria-hidden="true">+</span><span class="unseen">added</span>' in rows[1][1]
    whole = owner.get(f"/plans/{new}", params={"view": "text"}).text
    assert "All that is executed" in whole
    assert '<tr class="added">' not in whole


def test_approving_is_what_the_command_line_does_in_the_name_of_the_page(owner, receive, approvals, table, site):
    owner.submit("/data-sets/add", path=str(table()), name="patients", tags="a", column=["age", "ill"])
    found = receive()
    answer = owner.submit(
        f"/plans/{found}/decide", decision="approve", dataset="patients", until=TOMORROW, note="Good luck"
    )
    assert "Net is approved for data set &#39;patients&#39;" in answer.text
    (decision,) = approvals.plan(found).decisions
    assert (decision.status, decision.dataset, decision.note, decision.decided_by) == (
        "approved", "patients", "Good luck", "web",
    )  # fmt: skip
    assert decision.expires.startswith(TOMORROW)
    assert approvals.standing(found, "patients").status == "approved"
    assert approvals.standing(found, "other").status == "pending"
    entry = site.audit.entries(events=["plan-approved"])[0]
    assert (entry.actor, entry.data["plan"]) == ("web", found)


def test_a_plan_is_rejected_with_a_note_and_the_decision_is_taken_back(owner, receive, approvals):
    found = receive()
    assert "Net is rejected" in owner.submit(f"/plans/{found}/decide", decision="reject", note="Why os?").text
    assert approvals.standing(found).status == "rejected"
    page = owner.get(f"/plans/{found}").text
    assert "Why os?" in page
    assert "waits for a decision again" in owner.submit(f"/plans/{found}/withdraw").text
    assert approvals.standing(found).status == "pending"
    assert f"/plans/{found}/withdraw" not in owner.get(f"/plans/{found}").text


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"until": "2020-01-01"}, "until", "is past"),
        ({"until": "soon"}, "until", "is no date"),
        ({"note": "x" * 3000}, "note", "characters"),
        ({"dataset": "nowhere"}, "dataset", "nowhere"),
        ({"decision": "maybe"}, None, "no decision"),
    ],
    ids=["past", "no date", "long note", "no data set", "no decision"],
)
def test_a_decision_that_cannot_be_is_explained_beside_its_field_and_nothing_is_decided(
    owner, receive, approvals, fields, field, words
):
    found = receive()
    answer = owner.submit(f"/plans/{found}/decide", **{"decision": "approve", "note": "Kept", **fields})
    assert answer.status_code == 400
    assert words in plain(answer.text)
    assert field is None or f'id="{field}-wrong"' in answer.text
    assert "note" in fields or 'value="Kept"' in answer.text
    assert approvals.plan(found).decisions == ()


def test_a_plan_that_was_never_sent_is_not_found(owner):
    assert owner.get("/plans/" + "0" * 64).status_code == 404
    assert owner.submit("/plans/" + "0" * 64 + "/decide", decision="approve").status_code == 404


def test_hostile_plans_are_shown_as_text(owner, receive, approvals):
    """Whatever a researcher can choose: the source, helpers, their description and their address."""
    first = receive(f'class Net:\n    x = """{EVIL}"""\n', EVIL, dependencies=(f"import os  # {EVIL}",))
    approvals.approve(first, note=EVIL)
    second = receive(
        f"class Net:\n    '{EVIL}'\n    </td></table><script>alert(2)</script>\n",
        EVIL, helpers={"helper": f"# {EVIL}\nimport socket\n"},
    )  # fmt: skip
    odd = PlanBundle(class_name="N\u0435t", source=f"{EVIL}\n", dependencies=())
    approvals.receive(odd, f"zmq://{EVIL}", EVIL)
    for path in ("/", "/plans", "/audit", *(f"/plans/{each}{view}" for each in (first, second, odd.hash)
                                           for view in ("", "?view=text", "?view=changes"))):  # fmt: skip
        answer = owner.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text, path
        assert "<img src=x" not in answer.text, path
        assert "&lt;script&gt;alert" in answer.text, path


def test_signs_that_turn_or_hide_text_are_spelled_out_everywhere(owner, receive):
    found = receive("class Net:\n    x = 1  # \u202eevil\u202c\n", "Turn\u202ed")
    for path in ("/", "/plans", f"/plans/{found}", "/audit"):
        page = owner.get(path).text
        assert "\u202e" not in page, path
        assert "\\u202e" in page, path


def test_a_finding_leads_to_its_line_also_in_a_helper_module():
    helpers = {"b_second": "x = 1\n\nimport socket\n", "a_first": "import ssl  # \ry = eval('2')\r\nimport gzip"}
    bundle = PlanBundle(class_name="Net", source=SOURCE, dependencies=("import os", "import sys"), helpers=helpers)
    lines = bundle.text.split("\n")
    found = [(finding, lines[line_of(bundle, finding) - 1]) for finding in scan(bundle)]
    assert {finding.module for finding, _ in found} == {"", "a_first", "b_second"}
    for finding, line in found:
        assert finding.name in line or finding.name == "CARRIAGE RETURN"


def test_rules_that_switch_approval_off_are_said_to(owner, store, receive):
    (store.folder / "node.toml").write_text('[approval]\nmode = "off"\n')
    receive()
    assert "Approval is off" in owner.get("/plans").text


def test_the_list_says_for_which_data_sets_a_plan_may_run(owner, store, receive, approvals, table):
    owner.submit("/data-sets/add", path=str(table()), name="patients", tags="x", target="ill", column=["age", "ill"])
    found = receive()
    approvals.approve(found)
    approvals.reject(found, dataset="patients")
    for path in ("/plans", f"/plans/{found}"):
        assert "approved rejected for patients" in " ".join(plain(owner.get(path).text).split()), path
