"""What the documentation says about plugins is true."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path

from fedplug.core import hookspecs
from fedplug.core.hookspecs import HOOK_KINDS
from fedplug.core.messages import DatasetCard, TaskKey, TrainRequest
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost
from fedplug.testing import AGGREGATOR_CHECKS

ROOT = Path(__file__).parents[2]
HOOKS = ROOT.joinpath("docs/hooks.md").read_text()
WRITING = ROOT.joinpath("docs/writing-a-plugin.md").read_text()
EXAMPLE = ROOT / "examples" / "fedplug-median"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", WRITING, re.MULTILINE | re.DOTALL)


def test_every_hook_is_documented_with_its_arguments():
    headings = re.findall(r"^### (fedplug_\w+\(.*\))$", HOOKS, re.MULTILINE)
    signatures = [f"{n}({', '.join(inspect.signature(getattr(hookspecs, n)).parameters)})" for n in HOOK_KINDS]
    assert headings == signatures


def test_every_hook_stands_under_its_kind():
    for section in HOOKS.split("\n## ")[2:]:
        kind = re.match(r".*\((\w+)\)\n", section).group(1)
        for name in re.findall(r"^### (\w+)\(", section, re.MULTILINE):
            assert HOOK_KINDS[name] == kind


def test_every_hook_is_in_the_picture_of_the_round():
    picture = hookspecs.__doc__.split("No hook selects")[0]
    for name in HOOK_KINDS:
        assert f"{name}(" in picture
        assert inspect.getdoc(getattr(hookspecs, name))


def test_the_example_of_a_veto_refuses_by_day_and_not_by_night(monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", HOOKS, re.MULTILINE | re.DOTALL)
    plugin = types.ModuleType("night")
    exec(compile(code, "hooks.md", "exec"), vars(plugin))
    host = PluginHost()
    assert host.register(plugin, "night").state == "ok"
    card = DatasetCard(dataset_id="ds-1", name="patients", type="csv", tags=("intensive-care",), shape=(9, 2))
    asked = TrainRequest(key=TaskKey(experiment_id="e", round=0, node_id="n"), dataset_id="ds-1", plan_class="P")
    for hour, refused in ((6, False), (7, True), (18, True), (19, False)):
        now = types.SimpleNamespace(now=lambda hour=hour: types.SimpleNamespace(hour=hour))
        monkeypatch.setattr(plugin, "datetime", now)
        denied = host.authorise_training(asked, PlanBundle("P", "class P: pass"), card)
        assert (denied is not None and not denied.broken) == refused


def test_the_code_of_the_tutorial_is_the_example():
    code, test = blocks("python")
    assert code.removeprefix("# fedplug_median.py\n") == EXAMPLE.joinpath("fedplug_median.py").read_text()
    assert test.removeprefix("# test_median.py\n") == EXAMPLE.joinpath("test_median.py").read_text()
    assert blocks("toml") == [EXAMPLE.joinpath("pyproject.toml").read_text()]


def test_the_tutorial_lists_all_laws():
    table = WRITING.split("| law |")[1].split("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE) == [check.id for check in AGGREGATOR_CHECKS]
    for check in AGGREGATOR_CHECKS:
        assert not check.needs or f"`{check.needs}`" in table
