"""Scaffold keeps the laws of aggregators, and its package shows what it does at a node."""

from __future__ import annotations

from typing import Any

import pytest

import fedplug_scaffold
from fedplug.core.trainer import TrainerInfo
from fedplug.testing import check_aggregator
from fedplug_scaffold import Scaffold
from fedplug_scaffold.conformance import complete


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_it_keeps_the_laws_over_several_rounds(rate):
    results = {each.check: each.outcome for each in check_aggregator(Scaffold(rate), complete=complete)}
    kept = {check for check, outcome in results.items() if outcome == "pass"}
    assert {"layout", "inputs", "arrival", "consensus", "symmetric", "scale", "shift", "streaming"} <= kept
    assert {"config", "resume", "undone", "finite"} <= kept
    assert "fail" not in results.values()


def test_its_hooks_come_with_its_rounds_only_and_can_be_looked_at():
    names = ["scaffold_begin", "scaffold_collect", "scaffold_correct", "scaffold_end"]

    def hooks(**info: Any) -> list[str]:
        return [each.name for each in fedplug_scaffold.fedplug_trainer_hooks(TrainerInfo(**info))]

    assert hooks(framework="torch", aux=("scaffold",)) == names
    assert hooks(framework="torch", aux=("declearn.scaffold",)) == []
    assert hooks(node_id="paris") == []
    assert hooks() == names, "for `fedplug plugins show`"
