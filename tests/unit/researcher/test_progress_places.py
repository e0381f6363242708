"""Displays where they live: in a pseudo-terminal, in an executed notebook, in a program without a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import warnings

import pytest

STORY = """
import sys, threading
from pathlib import Path
from fedplug.core.context import RoundContext
from fedplug.core.messages import NodeInfo, Progress, TaskKey
from fedplug.researcher.progress import make_progress

def begin(**options):
    monitor = make_progress(**options)
    monitor.message("hello from the experiment")
    monitor.started(Path("/x/Experiment_0001"), {"n0": NodeInfo(node_id="n0", name="ward [b]")}, 2)
    monitor.round_started(RoundContext(), ["n0"])
    monitor.progress("n0", Progress(key=TaskKey(experiment_id="e", round=0, node_id="n0"), step=5, total_steps=10,
                                    samples=50, seconds=1.0, metrics={"loss": 0.5}))
    return monitor
"""
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def environment(tmp_path, **more):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FEDPLUG", "FORCE_", "NO_COLOR"))}
    return env | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "HOME": str(tmp_path)} | more


def in_terminal(tmp_path, story, *, interrupt_at="", stdout=None):
    """Run STORY, then ``story``, in a terminal: what it wrote, its exit code, and if the settings are unchanged."""
    (tmp_path / "story.py").write_text(STORY + textwrap.dedent(story))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "story.py"], cwd=tmp_path, env=environment(tmp_path),
        stdin=theirs, stdout=stdout or theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    text, interrupted = "", False
    # `theirs` stays open here, so that its settings can be read at the end: the end is then the process's.
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            text += os.read(ours, 65_536).decode("utf-8", "replace")
        if interrupt_at and interrupt_at in text and not interrupted:
            interrupted = True
            process.send_signal(signal.SIGINT)
    after = termios.tcgetattr(theirs)
    os.close(ours)
    os.close(theirs)
    return text, process.returncode, before == after


def test_terminal_is_redrawn_and_left_clean(tmp_path):
    text, code, unchanged = in_terminal(
        tmp_path,
        """
        monitor = begin()
        print("printed by the user's script")
        monitor.stopped(2, None)
        """,
    )
    assert code == 0
    assert unchanged
    assert "hello from the experiment" in text
    assert "printed by the user's script" in text
    assert "ward [b]" in text
    assert "5/10" in text
    assert "\x1b[2K" in text  # lines were erased: it was drawn in place
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert "Finished 2 rounds" in text[text.rindex(SHOW) :]


def test_clock_runs_between_events(tmp_path):
    # Nothing happens but the time: only the redrawing thread can get as far as this text, else the test hangs.
    text, _, _ = in_terminal(tmp_path, "begin()\nthreading.Event().wait()\n", interrupt_at="elapsed 1.")
    assert "elapsed 1." in text


@pytest.mark.parametrize(
    "story",
    [
        "begin()\nthreading.Event().wait()\n",  # nobody calls `stopped`
        """
        monitor = begin()
        try:
            threading.Event().wait()
        except KeyboardInterrupt as error:
            monitor.stopped(0, error)
            raise
        """,
    ],
    ids=["without stopped", "with stopped"],
)
def test_ctrl_c_gives_the_terminal_back(tmp_path, story):
    text, code, unchanged = in_terminal(tmp_path, story, interrupt_at="5/10")
    assert code == -signal.SIGINT
    assert unchanged
    assert text.rindex(SHOW) > text.rindex(HIDE)


def test_script_output_that_is_piped_away_stays_in_its_file(tmp_path):
    with (tmp_path / "out.txt").open("w") as out:
        text, code, _ = in_terminal(
            tmp_path, "monitor = begin()\nprint('result: 1')\nmonitor.stopped(1, None)\n", stdout=out
        )
    assert code == 0
    assert "ward [b]" in text
    assert (tmp_path / "out.txt").read_text() == "result: 1\n"


def test_without_a_terminal_there_are_lines_on_standard_error(tmp_path):
    (tmp_path / "story.py").write_text(STORY + "begin().stopped(1, None)\n")
    done = subprocess.run(
        [sys.executable, "story.py"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert done.stderr.splitlines()[:3] == [
        "hello from the experiment",
        "/x/Experiment_0001: 2 rounds with 1 node",
        "round 1/2: started with ward [b]",
    ]
    assert "\x1b" not in done.stderr


def test_environment_asks_for_json(tmp_path):
    (tmp_path / "story.py").write_text(STORY + "begin().stopped(1, None)\n")
    env = environment(tmp_path, FEDPLUG_PROGRESS="json")
    done = subprocess.run(
        [sys.executable, "story.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "message", "started", "round_started", "progress", "stopped",
    ]  # fmt: skip
    assert done.stderr == ""


def test_progress_costs_a_program_no_rich_until_a_terminal_is_there(tmp_path):
    code = "import sys\nfrom fedplug.researcher.progress import make_progress\nmake_progress()\n"
    code += "print([name for name in ('rich', 'IPython', 'tensorboard', 'torch') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Runs cells in a real kernel and gives their outputs."""

    def execute(*cells):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what jupyter's packages warn of is not ours to mend
            import nbformat
            from nbclient import NotebookClient

            for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
                monkeypatch.setenv(name, str(tmp_path / name.lower()))
            monkeypatch.delenv("FEDPLUG_PROGRESS", raising=False)
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source=cell) for cell in cells])
            NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return [cell.outputs for cell in notebook.cells]

    return execute


def test_notebook_has_one_output_that_follows_the_run(executed):
    first, second, third = executed(
        STORY + "monitor = begin()\nprint(type(monitor).__name__)",
        "monitor.dropped('n0', '<script>lost</script>')",
        "monitor.stopped(1, None)\nmonitor2 = begin()",
    )
    kinds = [output["output_type"] for output in first]
    assert sorted(kinds) == ["display_data", "stream"]
    assert next(output["text"] for output in first if output["output_type"] == "stream") == "NotebookProgress\n"
    assert [output["output_type"] for output in second] == []  # the display of the first cell was updated
    data = next(output["data"] for output in first if output["output_type"] == "display_data")
    assert "Finished 1 round" in data["text/html"]
    assert "ward [b] dropped: &lt;script&gt;lost" in data["text/html"]
    assert "<script" not in data["text/html"]
    assert "Finished 1 round" in data["text/plain"]
    # A second monitor opens its own display, in its own cell.
    assert [output["output_type"] for output in third] == ["display_data"]
    assert "hello from the experiment" in third[0]["data"]["text/html"]
