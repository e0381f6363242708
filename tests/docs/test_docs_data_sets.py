"""The commands and the plan of docs/data-sets.md do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fedplug import Experiment
from fedplug.cli import main
from fedplug.node import MemoryDataset, NodeStore
from fedplug.simulation import Federation

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data-sets.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}")[1].split("\n## ")[0]


def commands(title: str) -> list[list[str]]:
    """The commands of a section as lists of words, without ``fedplug``."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", section(title), re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.strip()]


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPLUG_NODE", raising=False)
    assert main(["node", "init", "--name", "clinic"]) == 0
    return tmp_path


def test_a_data_set_is_added_and_a_change_accepted_as_the_page_says(node):
    (node / "patients.csv").write_text("age,size,diagnosis\n61,1.5,1\n47,2.5,0\n")
    (add,) = commands("Adding one")
    assert main(add) == 0
    check, accept = commands("When files change")
    assert main(check) == 0
    (node / "patients.csv").write_text("age,size,diagnosis\n61,1.5,1\n47,2.5,0\n33,1,0\n")
    assert main(check) == 1
    assert main(accept) == 0
    assert main(check) == 0


def test_the_mapping_of_the_page_gives_the_names_of_the_page(node):
    (node / "patients.csv").write_text("AlterJahre,Groesse,Befund\n61,1.5,1\n47,2.5,0\n")
    (add,) = commands("Loading plans")
    assert main(add) == 0
    with NodeStore.open("fedplug-node") as store:
        assert store.dataset("patients").columns == ("age", "size", "diagnosis")


def test_the_plan_of_the_page_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", section("In training plans"), re.DOTALL)
    (tmp_path / "risk_plan.py").write_text("import numpy as np\n\n" + code)
    monkeypatch.syspath_prepend(tmp_path)
    from risk_plan import Risk

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 2))
    data = MemoryDataset(
        "d", {"age": rows[:, 0], "size": rows[:, 1], "diagnosis": rows @ [1.0, -2.0]}, tags=["t"], target="diagnosis"
    )
    with Experiment(
        tags="t",
        transport=Federation({"clinic": data}),
        training_plan_class=Risk,
        training_args={"epochs": 20, "optimizer_args": {"lr": 0.1}},
        round_limit=2,
        progress="quiet",
    ) as exp:
        exp.run()
        np.testing.assert_allclose(exp.params()["w"], [1, -2], atol=1e-6)
