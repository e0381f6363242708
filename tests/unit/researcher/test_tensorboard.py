"""TensorBoard files, read back the way TensorBoard reads them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import StoreError, UsageError
from fedplug.core.messages import NodeInfo, Progress, TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.researcher.monitor_tensorboard import TensorBoardMonitor, folder_names

PARAMS = Params.from_arrays({"w": np.zeros(2, dtype=np.float32)})
NODES = {"n0": NodeInfo(node_id="n0", name="hospital-a"), "n1": NodeInfo(node_id="n1", name="hospital-b")}


def key(number, node):
    return TaskKey(experiment_id="e", round=number, node_id=node)


def tick(node, number, step, phase="train", epoch=0, **metrics):
    return Progress(key=key(number, node), step=step, total_steps=3, epoch=epoch, phase=phase, metrics=metrics)


def reply(node, number, steps=3, **metrics):
    return TrainReply(key=key(number, node), sample_count=9, steps=steps, metrics=metrics, timing={"train": 1.5})


def end(monitor, number, replies=(), **metrics):
    answers = {each.key.node_id: each for each in replies}
    result = RoundResult(
        params=PARAMS, replies=answers, dropped={}, metrics=metrics, seconds=2.5, traffic={"bytes_sent": 1000}
    )
    monitor.round_ended(RoundContext(round=number), result)


def start(monitor, number, nodes=("n0", "n1")):
    monitor.round_started(RoundContext(round=number), list(nodes))


def scalars(folder):
    """``{tag: [(step, value), ...]}`` of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def charts(folder):
    """``{category: {chart: pattern}}`` of the page "Custom Scalars", as TensorBoard finds it in a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    events = EventAccumulator(str(folder))
    events.Reload()
    assert metadata.CONFIG_SUMMARY_TAG in events.PluginTagToContent(metadata.PLUGIN_NAME)
    event = events.Tensors(metadata.CONFIG_SUMMARY_TAG)[-1]
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: chart.multiline.tag[0] for chart in category.chart} for category in found.category
    }


def runs(folder):
    return sorted(path.name for path in (folder / "runs").iterdir())


@pytest.fixture
def monitor(tmp_path):
    monitor = TensorBoardMonitor(tmp_path / "runs")
    monitor.started(tmp_path, NODES, 2)
    return monitor


def test_two_rounds_read_back(monitor, tmp_path):
    for number in (0, 1):
        start(monitor, number)
        for step in (1, 2, 3):
            monitor.progress("n0", tick("n0", number, step, epoch=(step + 1) // 2, loss=10 * number + step))
        monitor.progress("n1", tick("n1", number, 2, loss=0.5, accuracy=0.75))
        monitor.progress("n1", tick("n1", number, 9, phase="test-local", loss=99.0))
        monitor.replied("n0", reply("n0", number, loss=0.25))
        monitor.replied("n1", reply("n1", number, steps=4, loss=0.5))
        end(monitor, number, loss=0.375 - number, accuracy=0.9)
    monitor.stopped(2, None)
    monitor.close()
    monitor.close()
    assert runs(tmp_path) == ["aggregated", "hospital-a", "hospital-b"]
    assert scalars(tmp_path / "runs" / "hospital-a") == {
        "TRAINING/Loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 11.0), (5, 12.0), (6, 13.0)],
        "TRAINING/Round": [(1, 1.0), (3, 1.0), (4, 2.0), (6, 2.0)],
        "TRAINING/Epoch": [(1, 1.0), (3, 2.0), (4, 1.0), (6, 2.0)],
        "ROUND/loss": [(1, 0.25), (2, 0.25)],
        "TIMING/train": [(1, 1.5), (2, 1.5)],
    }
    assert scalars(tmp_path / "runs" / "hospital-b") == {
        "TRAINING/Loss": [(2, 0.5), (6, 0.5)],  # the reply says that round 1 had 4 steps
        "TRAINING/accuracy": [(2, 0.75), (6, 0.75)],
        "TRAINING/Round": [(2, 1.0), (4, 1.0), (6, 2.0), (8, 2.0)],
        "ROUND/loss": [(1, 0.5), (2, 0.5)],
        "TIMING/train": [(1, 1.5), (2, 1.5)],
    }
    assert scalars(tmp_path / "runs" / "aggregated") == {
        "ROUND/loss": [(1, 0.375), (2, -0.625)],
        "ROUND/accuracy": [(1, 0.9), (2, 0.9)],
        "TRAINING/Nodes": [(1, 0.0), (2, 0.0)],
        "TRAINING/Nodes dropped": [(1, 0.0), (2, 0.0)],
        "TIMING/round": [(1, 2.5), (2, 2.5)],
        "TRAFFIC/bytes_sent": [(1, 1000.0), (2, 1000.0)],
    }


def test_tests_stand_where_people_look_for_them(monitor, tmp_path):
    for number in (0, 1):
        start(monitor, number)
        figures = {
            "test_global_accuracy": 0.5 + number / 4,
            "test_local_F1 score": 0.25,
            "dp_epsilon": 1.0,
            "loss": 2.0,
        }
        answers = [reply(node, number, **figures) for node in ("n0", "n1")]
        for each in answers:
            monitor.replied(each.key.node_id, each)
        end(monitor, number, answers, **figures, dp_delta=0.5)
    global_accuracy = [(0, 0.5), (1, 0.75)]  # of the model that so many rounds have made
    for run in ("hospital-a", "hospital-b", "aggregated"):
        found = scalars(tmp_path / "runs" / run)
        assert found["VALIDATION ON GLOBAL UPDATES/ACCURACY"] == global_accuracy
        assert found["VALIDATION ON LOCAL UPDATES/F1 SCORE"] == [(1, 0.25), (2, 0.25)]
        assert found["ROUND/loss"] == [(1, 2.0), (2, 2.0)]
        assert [tag for tag in found if tag.startswith("ROUND/")] == ["ROUND/loss"]
    assert scalars(tmp_path / "runs" / "hospital-a")["PRIVACY/epsilon"] == [(1, 1.0), (2, 1.0)]
    together = scalars(tmp_path / "runs" / "aggregated")
    assert together["PRIVACY/epsilon"] == [(1, 1.0), (2, 1.0)]
    assert together["PRIVACY/delta"] == [(1, 0.5), (2, 0.5)]
    assert together["TRAINING/Nodes"] == [(1, 2.0), (2, 2.0)]


def test_custom_scalars_show_the_curves_that_there_are(monitor, tmp_path):
    start(monitor, 0)
    answer = reply("n0", 0, **{"test_global_accuracy": 0.5, "test_local_a.b (c)": 0.5})
    monitor.replied("n0", answer)
    end(monitor, 0, [answer])
    first = charts(tmp_path / "runs" / "aggregated")
    start(monitor, 1)
    end(monitor, 1, test_global_accuracy=0.5, test_global_mse=1.0)
    found = charts(tmp_path / "runs" / "aggregated")
    assert list(found) == ["TRAINING", "VALIDATION ON GLOBAL UPDATES", "VALIDATION ON LOCAL UPDATES", "COSTS"]
    assert found["TRAINING"]["Loss over optimizer steps"] == "TRAINING/Loss$"
    assert list(first["VALIDATION ON GLOBAL UPDATES"]) == ["ACCURACY"]
    assert list(found["VALIDATION ON GLOBAL UPDATES"]) == ["ACCURACY", "MSE"]
    patterns = [pattern for category in found.values() for pattern in category.values()]
    tags = [*scalars(tmp_path / "runs" / "aggregated"), *scalars(tmp_path / "runs" / "hospital-a")]
    tests = [tag for tag in tags if tag.startswith("VALIDATION")]
    assert len(tests) == 4
    assert all(sum(bool(re.match(pattern, tag)) for pattern in patterns) == 1 for tag in tests)


def test_a_run_in_which_nothing_happens_writes_nothing(monitor, tmp_path):
    start(monitor, 0)
    monitor.stopped(0, RuntimeError())
    monitor.close()
    assert not (tmp_path / "runs").exists()


def test_round_is_on_disk_when_it_ends_and_training_after_some_seconds(tmp_path):
    now = [0.0]
    monitor = TensorBoardMonitor(tmp_path / "runs", clock=lambda: now[0], flush_every=5.0)
    monitor.started(tmp_path, NODES, 2)
    start(monitor, 0)
    monitor.progress("n0", tick("n0", 0, 1, loss=1.0))
    assert not (tmp_path / "runs").exists()
    now[0] = 5.0
    monitor.progress("n0", tick("n0", 0, 2, loss=2.0))
    assert scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"] == [(1, 1.0), (2, 2.0)]
    monitor.progress("n0", tick("n0", 0, 3, loss=3.0))
    end(monitor, 0, loss=0.5)
    # Neither stopped nor closed: the program has crashed here.
    assert scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert scalars(tmp_path / "runs" / "aggregated")["ROUND/loss"] == [(1, 0.5)]


def test_dropped_node_goes_on_after_its_last_step(monitor, tmp_path):
    start(monitor, 0)
    monitor.progress("n0", tick("n0", 0, 2, loss=1.0))
    monitor.dropped("n0", "lost")
    end(monitor, 0)
    monitor.progress("n0", tick("n0", 0, 3, loss=7.0))  # a straggler
    start(monitor, 1)
    monitor.progress("n0", tick("n0", 0, 3, loss=8.0))  # and still
    monitor.progress("n0", tick("n0", 1, 1, loss=2.0))
    monitor.stopped(1, RuntimeError())
    assert scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"] == [(2, 1.0), (3, 2.0)]


def test_second_run_appends_and_counts_on(monitor, tmp_path):
    start(monitor, 0)
    monitor.replied("n0", reply("n0", 0, steps=3))
    end(monitor, 0, loss=0.5)
    monitor.stopped(1, None)
    monitor.started(tmp_path, NODES | {"n2": NodeInfo(node_id="n2", name="hospital-a")}, 1)
    start(monitor, 1, ("n0", "n2"))
    monitor.progress("n0", tick("n0", 1, 1, loss=0.1))
    monitor.progress("n2", tick("n2", 1, 1, loss=0.2))
    end(monitor, 1, loss=0.25)
    assert scalars(tmp_path / "runs" / "aggregated")["ROUND/loss"] == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"] == [(4, 0.1)]
    other = next(name for name in runs(tmp_path) if name.startswith("hospital-a-"))
    assert scalars(tmp_path / "runs" / other)["TRAINING/Loss"] == [(1, 0.2)]


def test_steps_of_a_round_that_failed_are_not_counted(monitor, tmp_path):
    """The history does not count them either, so that a run in one process looks like one from a breakpoint."""
    start(monitor, 0)
    monitor.progress("n0", tick("n0", 0, 2, loss=0.5))
    monitor.stopped(0, KeyboardInterrupt())
    start(monitor, 0)  # of the next attempt, and given up without a word
    monitor.progress("n0", tick("n0", 0, 2, loss=0.5))
    start(monitor, 0)
    monitor.progress("n0", tick("n0", 0, 2, loss=0.5))
    monitor.replied("n0", reply("n0", 0, steps=3))
    end(monitor, 0)
    start(monitor, 1)
    monitor.progress("n0", tick("n0", 1, 1, loss=0.4))
    end(monitor, 1)
    losses = scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"]
    assert [step for step, _ in losses] == [2, 2, 2, 4]


def test_figures_that_float32_cannot_hold(monitor, tmp_path):
    start(monitor, 0)
    for step, value in enumerate((math.nan, math.inf, 1e300), start=1):
        monitor.progress("n0", tick("n0", 0, step, loss=value))
    monitor.progress("n0", tick("n0", 0, -4, loss=1.0))
    monitor.progress("n1", tick("n1", 0, 2**63 - 1, loss=1.0))
    end(monitor, 0)
    start(monitor, 1)
    monitor.progress("n1", tick("n1", 1, 2**63 - 1, loss=1.0))
    end(monitor, 1)
    values = [value for _, value in scalars(tmp_path / "runs" / "hospital-a")["TRAINING/Loss"]]
    assert math.isnan(values[0])
    assert values[1:3] == [math.inf, math.inf]


def test_a_node_cannot_flood_with_tags(monitor, tmp_path, caplog):
    start(monitor, 0)
    for number in range(1000):
        monitor.progress("n0", tick("n0", 0, 1, **{f"metric {number}": 1.0}))
    end(monitor, 0)
    assert len(scalars(tmp_path / "runs" / "hospital-a")) == 200
    assert len(caplog.records) == 1
    assert "hospital-a" in caplog.text


def test_tags_are_made_safe(monitor, tmp_path):
    start(monitor, 0)
    monitor.replied("n0", reply("n0", 0, **{"test/f1 score": 1.0, "\x1b<b>\n": 2.0, "///": 3.0}))
    end(monitor, 0)
    tags = set(scalars(tmp_path / "runs" / "hospital-a"))
    assert tags == {"ROUND/test/f1 score", "ROUND/__b__", "ROUND/_", "TIMING/train", "TRAINING/Round"}


def test_three_hundred_nodes_leave_no_file_open_and_no_thread(tmp_path):
    import threading

    monitor = TensorBoardMonitor(tmp_path / "runs")
    threads = threading.active_count()
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    nodes = {f"n{i}": NodeInfo(node_id=f"n{i}", name=f"node-{i}") for i in range(300)}
    monitor.started(tmp_path, nodes, 1)
    start(monitor, 0, nodes)
    for node in nodes:
        monitor.replied(node, reply(node, 0, loss=0.5))
    end(monitor, 0, loss=0.5)
    assert len(runs(tmp_path)) == 301
    assert threading.active_count() == threads
    if open_files:
        assert len(list(Path("/proc/self/fd").iterdir())) == open_files


# --- folder names ---


def test_harmless_names_are_kept():
    names = {"n0": "hospital-a", "n1": "Clinic_2.b", "n2": ""}
    assert folder_names(names) == {"n0": "hospital-a", "n1": "Clinic_2.b", "n2": "n2"}


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", ".", "/abs", "a/b", "a\\b", "C:\\x", "nul", "COM1.txt", "x\x00y", "aggregated",
     "Aggregated", "", "   ", "\u202e", "é" * 300, "a" * 5000, ".hidden", "trailing.", "~", "-rf"],
)  # fmt: skip
def test_folder_is_one_plain_name_inside(name, tmp_path):
    folder = folder_names({"../id": name})["../id"]
    assert folder.isascii()
    assert Path(folder).name == folder
    assert not folder.startswith(".")
    assert not folder.endswith(".")
    assert folder.casefold() not in ("aggregated", "nul", "com1.txt", "")
    assert len(folder) < 90
    assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


def test_equal_after_cleaning_stays_distinct():
    names = {"n0": "a/b", "n1": "a b", "n2": "a_b", "n3": "A_B", "n4": "x", "n5": "x"}
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert folder_names(dict(reversed(names.items()))) == folders  # order of arrival does not matter


def test_name_that_imitates_a_hashed_one():
    victim = folder_names({"n0": "x", "n1": "x"})["n0"]
    folders = folder_names({"n0": "x", "n1": "x", "a-mimic": victim})
    assert len(set(folders.values())) == 3
    assert folder_names({"n9": victim}, taken=[victim.upper()])["n9"] == f"{victim}-2"


def test_path_traversal_ends_in_the_runs_folder(tmp_path):
    monitor = TensorBoardMonitor(tmp_path / "experiment" / "runs")
    monitor.started(tmp_path, {"n0": NodeInfo(node_id="n0", name="../../outside")}, 1)
    start(monitor, 0, ["n0"])
    monitor.progress("n0", tick("n0", 0, 1, loss=1.0))
    monitor.progress("../../unknown", tick("../../unknown", 0, 1, loss=1.0))
    end(monitor, 0, loss=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["experiment"]
    assert [path.name for path in (tmp_path / "experiment").iterdir()] == ["runs"]
    assert len(runs(tmp_path / "experiment")) == 3


# --- what can go wrong ---


def test_missing_package_is_named_with_the_cure(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name == "tensorboard" or name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install fedplug\[tensorboard\]"):
        TensorBoardMonitor(tmp_path / "runs")


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    monitor = TensorBoardMonitor(tmp_path / "runs")
    with pytest.raises(StoreError, match="TensorBoard files cannot be written"):
        end(monitor, 0, loss=1.0)


def test_module_and_writing_need_no_torch(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fedplug.researcher.monitor_tensorboard import TensorBoardMonitor\n"
        "assert 'tensorboard' not in sys.modules\n"
        f"TensorBoardMonitor(Path({str(tmp_path)!r}))\n"
        "print([name for name in ('torch', 'tensorflow', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
