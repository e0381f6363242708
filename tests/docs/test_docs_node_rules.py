"""docs/node-rules.md has every rule with its default; its examples can be used, its messages are those of a node."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedplug.core.errors import RefusedError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard, TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugin_checks import PluginRecord
from fedplug.node.approval.approvals import Approvals
from fedplug.node.policy.budget import Budget
from fedplug.node.policy.file import check_text, parse_policy
from fedplug.node.policy.rules import check_request
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "node-rules.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", PAGE, re.MULTILINE | re.DOTALL)
REFUSED = [pytest.param(text, said, id=text.split()[1]) for text, said in EXAMPLES if said]

CARD = DatasetCard(dataset_id="ds-1", name="patients", type="csv", tags=("t",), shape=(100, 5))
TORCH = PluginRecord("torch", "fedplug-torch", "1", module="fedplug_torch")
LOCAL = {"type": "local", "sigma": 3.0, "clip": 1.0}
PRIVATE = {"dp_args": LOCAL, "loader_args": {"batch_size": 20}, "epochs": 4}

REQUESTS: dict[str, dict[str, Any]] = {
    "extra_arrays": {"aux": ("momentum",)},
    "batch_size": {"loader_args": {"batch_size": 1}},
    "memory": {"threads": 8},
    "epsilon": PRIVATE,
}
"""What is asked for, by the first rule of an example; nothing in particular for the others."""


def task(number: int, aux: tuple[str, ...] = (), **args: Any) -> TaskReceived:
    request = TrainRequest(
        key=TaskKey(experiment_id="e", round=number, node_id="n"), dataset_id="ds-1", plan_class="Mean",
        training_args=args, aux=aux,
    )  # fmt: skip
    lines = ("import numpy", "import fedplug_torch")
    plan = PlanBundle("Mean", "class Mean:\n    import scipy.linalg\n", lines)
    return TaskReceived(request, plan, Params.from_arrays({"w": np.zeros(1)}))


def admit(policy: Policy, store: NodeStore, **asked: Any) -> None:
    """What a node does with round after round."""
    for number in range(40):
        given = task(number, **asked)
        if "approval.mode" in policy.lines:
            Approvals(store, policy).require(given.plan, CARD.name)
        check_request(policy, given, CARD, [TORCH])
        Budget(store, policy).charge(given, CARD)


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_a_researcher_reads_what_the_page_says(text, said, tmp_path):
    policy, problems = parse_policy(text, tmp_path / "node.toml")
    assert problems == []
    first = text.splitlines()[1].split()[0]
    with NodeStore.in_memory() as store, pytest.raises(RefusedError) as caught:
        admit(policy, store, **REQUESTS.get(first, {}))
    expected = re.escape(said.strip()).replace("…", ".*")
    assert re.match(expected, str(caught.value)), str(caught.value)


def test_every_example_can_be_used():
    assert len(EXAMPLES) >= len(REFUSED) >= 10
    assert [check_text(text) for text, _ in EXAMPLES] == [[]] * len(EXAMPLES)


def test_every_rule_stands_on_the_page_with_its_default():
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| (.*) \|$", PAGE, re.MULTILINE))
    sections = {name: getattr(Policy(), name) for name in ("approval", "data", "training", "privacy", "resources")}
    rules = {
        f"{name}.{field.name}": getattr(part, field.name) for name, part in sections.items() for field in fields(part)
    }
    assert set(rows) == set(rules)
    for key, told in rows.items():
        if value := re.fullmatch(r"`(.*)`", told):
            section, _, name = key.partition(".")
            policy, problems = parse_policy(f"[{section}]\n{name} = {value[1]}\n")
            assert problems == []
            assert getattr(getattr(policy, section), name) == rules[key]
        else:  # in words: the rule is not there
            assert rules[key] in (None, (), {})


def test_the_mistakes_of_the_page_are_found_on_their_lines(cli, tmp_path):
    (wrong,) = re.findall(r"^```toml wrong\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^\$ fedplug node check\n(Wrong.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    place = str(tmp_path / "node")
    assert cli("node", "-C", place, "init").returncode == 0
    assert cli("node", "-C", place, "check").returncode == 0
    (tmp_path / "node" / "node.toml").write_text(wrong)
    done = cli("node", "-C", place, "check")
    assert (done.returncode, done.stdout) == (1, shown)
