"""The script examples/robust-aggregation/attacks.py: its attackers do what it says, and it prints a whole table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedplug import Aggregator, Params, RoundContext, Update

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "robust-aggregation" / "attacks.py"


@pytest.fixture(scope="module")
def attacks():
    spec = importlib.util.spec_from_file_location("attacks_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Keeps(Aggregator):
    def aggregate(self, start, updates, ctx):
        self.seen = {update.node_id: update.params["w"].tolist() for update in updates}
        return start


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("none", {"a": [2, 3], "b": [3, 5], "c": [1, 1]}),
        ("label flip", {"a": [2, 3], "b": [3, 5], "c": [1, 1]}),  # the data have done it
        ("sign flip", {"a": [0, -1], "b": [-1, -3], "c": [1, 1]}),
        ("times 1000", {"a": [1001, 2001], "b": [2001, 4001], "c": [1, 1]}),
    ],
)
def test_hostile_updates_are_replaced_before_the_rule_sees_them(attacks, attack, expected):
    start = Params.from_arrays({"w": np.float32([1, 1])})
    values = {"a": [2, 3], "b": [3, 5], "c": [1, 1]}
    updates = [Update(node, Params.from_arrays({"w": np.float32(w)}), 1) for node, w in values.items()]
    rule = Keeps()
    attacks.Attacked(rule, attack, frozenset("ab")).aggregate(start, updates, RoundContext())
    assert rule.seen == expected


def test_a_little_is_enough(attacks):
    assert attacks.little_z(50, 12) == pytest.approx(0.3360, abs=1e-4)  # s = 14, and 63 % is (50 - 12 - 14) / 38
    assert attacks.little_z(25, 5) == pytest.approx(0.2533, abs=1e-4)
    assert attacks.little_z(25, 10) == pytest.approx(0.8416, abs=1e-4)
    theirs = [Params.from_arrays({"w": np.float32([value, 5])}) for value in (1.0, 3.0)]
    np.testing.assert_allclose(attacks.little(theirs, 25)["w"], [2 - attacks.little_z(25, 2), 5], rtol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_every_image_is_dealt_out_once(attacks, alpha):
    x = np.arange(4000).reshape(-1, 1)
    y = np.arange(4000) % 10
    nodes = attacks.dealt(x, y, alpha)
    assert len(nodes) == 25
    rows = np.concatenate([a[:, 0] for a, _ in nodes.values()])
    assert len(set(rows.tolist())) == 4000
    assert all(len(b) and (y[a[:, 0]] == b).all() for a, b in nodes.values())
    shares = [np.bincount(b, minlength=10).max() / len(b) for _, b in nodes.values()]
    assert (np.median(shares) > 0.25) == (alpha is not None)


@pytest.mark.slow
def test_the_script_prints_a_table_and_writes_the_figures(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--digits", "--rounds", "2", "--output", str(tmp_path / "out.json")],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == 7 * 6
    for each in results:
        assert f"{each['accuracy']:.3f}" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("| ")]) == 7 + 2
