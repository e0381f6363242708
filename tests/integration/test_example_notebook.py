"""examples/notebook.ipynb, executed: three rounds, other arguments, one round more, a test, results, files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow  # a kernel runs it all; test_notebook.py has plans of cells

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what each cell shows as text, by the beginning of its code."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # nobody's own run is committed
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    env = {**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "FEDPLUG_DIR": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    client.execute(cwd=str(folder), env=env)
    found = {}
    for cell in notebook.cells:
        if cell["cell_type"] == "code":
            shown = [
                output["text"] if output["output_type"] == "stream" else str(output["data"])
                for output in cell["outputs"]
            ]
            found[cell["source"].split("\n")[0]] = "\n".join(shown)
    return found


def of(outputs: dict[str, str], beginning: str) -> str:
    (text,) = [text for code, text in outputs.items() if code.startswith(beginning)]
    return text


def test_the_experiment_is_described_and_runs_three_rounds(outputs: dict[str, str]) -> None:
    described = of(outputs, "exp = Experiment(")
    assert "CancerPlan (" in described
    assert "Ready to run." in described
    assert "Finished 3 rounds" in of(outputs, "exp.run()")


def test_arguments_change_and_a_round_is_added(outputs: dict[str, str]) -> None:
    text = of(outputs, "args = exp.training_args()")
    assert "Finished 1 round" in text
    assert "Round 4/4" in text


def test_the_model_is_tested_over_all_nodes(outputs: dict[str, str]) -> None:
    text = of(outputs, "found = exp.evaluate()")
    accuracy = float(re.search(r"test_global_accuracy ([\d.]+) on 113 samples of 3 nodes", text)[1])
    matrix = [int(count) for count in re.findall(r"\d+", re.search(r"\[\[.*?\]\]", text)[0])]
    assert sum(matrix) == 113
    assert accuracy == pytest.approx((matrix[0] + matrix[3]) / 113, abs=5e-5)
    assert accuracy > 0.85


def test_results_are_shown(outputs: dict[str, str]) -> None:
    assert "image/png" in of(outputs, "exp.plot()")
    frame = of(outputs, "exp.history.frame()")
    assert "test_global" in frame
    assert "paris" in frame
    assert "report.html" in of(outputs, "exp.report()")


def test_the_model_leaves_and_comes_back(outputs: dict[str, str]) -> None:
    text = of(outputs, "path = exp.export_model(")
    assert "'hidden.weight': (16, 30)" in text
    assert "the same model: True" in text


def test_a_breakpoint_goes_on(outputs: dict[str, str]) -> None:
    text = of(outputs, "exp.close()")
    assert "Experiment(CancerPlan, 4 of 4 rounds, 3 nodes) the same model: True" in text
    assert "Round 5/5" in text
