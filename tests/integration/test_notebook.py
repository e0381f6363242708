"""A notebook, executed: the plan is defined in a cell, and progress is one output that is drawn anew."""

from __future__ import annotations

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

PLAN = """
import numpy as np
from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.simulation import Federation

class Line(NumpyTrainingPlan):
    def init_model(self):
        return {"slope": np.zeros(1), "offset": np.zeros(())}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        error = data @ self.model()["slope"] + self.model()["offset"] - target
        return (error**2).mean(), {"slope": 2 * error @ data / len(data), "offset": 2 * error.mean()}
"""

SETTING = """
points = np.linspace(0, 1, 40).reshape(2, 20, 1)
nodes = Federation({name: (x, 3 * x[:, 0] + 1) for name, x in zip(("paris", "lyon<b>"), points)})
exp = Experiment(
    tags="simulation", transport=nodes, training_plan_class=Line, round_limit=40, seed=1,
    training_args={"epochs": 10, "optimizer_args": {"lr": 0.2}},
)
"""

RUN = "exp.run();"
RESULT = "print({name: round(float(array.ravel()[0]), 2) for name, array in exp.params().items()})"


def execute(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(cwd=str(tmp_path), env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"})
    return notebook


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return execute(tmp_path_factory.mktemp("notebook"), PLAN, SETTING, RUN, RESULT, RUN)


def shown(cell):
    """The displays of a cell."""
    return [output["data"] for output in cell["outputs"] if output["output_type"] == "display_data"]


def test_a_plan_from_a_cell_trains(notebook):
    (printed,) = notebook.cells[3]["outputs"]
    assert printed["name"] == "stdout"
    found = {name: float(value) for name, value in re.findall(r"'(\w+)': ([\d.]+)", printed["text"])}
    assert found["slope"] == pytest.approx(3, abs=0.3)
    assert found["offset"] == pytest.approx(1, abs=0.2)


def test_progress_is_one_output_that_says_how_it_ended(notebook):
    assert [output["output_type"] for output in notebook.cells[2]["outputs"]] == ["display_data"]
    (data,) = shown(notebook.cells[2])
    assert "Finished 40 rounds" in data["text/plain"]
    html = data["text/html"]
    assert html.startswith('<div class="fedplug-progress">')
    assert "<th" in html
    assert "Loss" in html
    assert "Finished 40 rounds" in html
    assert "Round 40/40" in html


def test_progress_is_readable_without_html(notebook):
    (data,) = shown(notebook.cells[2])
    lines = data["text/plain"].splitlines()
    assert lines[1].startswith("Round 40/40, elapsed ")
    assert [line.split(":")[0] for line in lines[2:-1]] == [f"round {number}/40" for number in range(33, 41)]
    assert "<" not in data["text/plain"]
    assert "\x1b" not in data["text/plain"]


def test_a_second_run_has_an_output_of_its_own(notebook):
    (data,) = shown(notebook.cells[4])
    assert "The round limit of 40 is reached" in data["text/plain"]
    assert "The round limit" not in shown(notebook.cells[2])[0]["text/plain"]


def test_a_plan_that_raises_is_named_with_its_line(tmp_path):
    broken = PLAN.replace("error = data @", "error = data[:, 7] @")
    with pytest.raises(CellExecutionError) as caught:
        execute(tmp_path, broken, SETTING, RUN)
    told = str(caught.value)
    assert "Training plan 'Line' failed in training_step, line " in told
    assert ": error = data[:, 7] @ self.model()" in told
    assert "IndexError: index 7 is out of bounds" in told
    assert "site-packages" not in told
    assert len(told.splitlines()) < 40  # cell and error: no frames of ours


def test_an_error_is_one_block_that_names_the_cell(tmp_path):
    helper = "def go(limit):\n    return Experiment(round_limit=limit, progress='quiet')"
    with pytest.raises(CellExecutionError) as caught:
        execute(tmp_path, PLAN, helper, "go('many')")
    shown = caught.value.traceback.splitlines()
    start = next(place for place, line in enumerate(shown) if line.startswith("UsageError: round_limit must be"))
    assert shown[start + 2 : start + 4] == [
        "In line 2 of Cell In[2]:",
        "    return Experiment(round_limit=limit, progress='quiet')",
    ]


def test_the_whole_traceback_is_still_there(tmp_path):
    code = "import sys, traceback\nprint(''.join(traceback.format_exception(sys.last_value)))"
    done = nbformat.v4.new_code_cell(
        "Experiment(round_limit='many', progress='quiet')", metadata={"tags": ["raises-exception"]}
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PLAN), done, nbformat.v4.new_code_cell(code)])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute(cwd=str(tmp_path), env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"})
    (printed,) = notebook.cells[2]["outputs"]
    assert "in set_round_limit" in printed["text"]
