"""The getting-started example: a CNN on Fashion-MNIST from Debian's package, on three node processes over ZeroMQ."""

from __future__ import annotations

import gzip
import math
import os
import re
import shlex
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedplug import Experiment
from fedplug.simulation import Federation

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "fashion-mnist"
NODES = ["node-1", "node-2", "node-3"]
CHANCE = math.log(10)  # the loss of a model that knows nothing about ten classes


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def curves(runs: Path) -> dict[str, EventAccumulator]:
    found = {folder.name: EventAccumulator(str(folder)).Reload() for folder in runs.iterdir()}
    assert sorted(found) == ["aggregated", *NODES]
    return found


def test_one_short_round_over_three_nodes(start_node, make_node, tmp_path, fedplug_dir, pictures):
    """One of them is a process of its own; the slow test below has three."""
    from fashion_data import deal, load

    images, labels = load("train", pictures)
    assert (images.shape[1:], images.dtype, labels.dtype) == ((1, 28, 28), np.float32, np.int64)
    assert images.min() == 0
    assert 0.9 < images.max() <= 1
    args = {"num_updates": 8, "loader_args": {"batch_size": 48}, "optimizer_args": {"lr": 1e-3}, "log_interval": 1}
    with (
        Experiment(
            training_args=args,
            round_limit=1,
            tensorboard=True,
            transport="zmq://127.0.0.1:0",
            min_nodes=3,
            connect_timeout=120,
            seed=1,
            progress="quiet",
        ) as exp,
        ExitStack() as stack,
    ):
        parts = {name: {"images": x, "labels": y} for name, (x, y) in deal(images[:1500], labels[:1500]).items()}
        url = exp.pool().description
        start_node(NODES[0], url, parts[NODES[0]], ["#fashion-mnist"])
        for name in NODES[1:]:
            np.savez(tmp_path / f"{name}.npz", **parts[name])
            node = make_node(name).add(tmp_path / f"{name}.npz", name="data", tags=["#fashion-mnist"])
            stack.enter_context(node.here(url))
        from experiment import MyTrainingPlan  # loads torch while the nodes do

        exp.set_training_plan_class(MyTrainingPlan)
        exp.set_tags("#fashion-mnist")
        exp.run()
        runs = exp.experimentation_path() / "runs"
        replies = exp.training_replies()[0]
        bits = exp.params().fingerprint()
    found = curves(runs)
    for name in NODES:
        losses = [event.value for event in found[name].Scalars("TRAINING/Loss")]
        assert [event.step for event in found[name].Scalars("TRAINING/Loss")] == list(range(1, 9))
        assert all(map(math.isfinite, losses))
        assert abs(losses[0] - CHANCE) < 0.5
        assert np.mean(losses[-2:]) < losses[0] - 0.2
    (aggregated,) = found["aggregated"].Scalars("ROUND/loss")
    assert aggregated.step == 1
    # equal parts, so the mean over the nodes is a plain one; event files hold float32
    assert aggregated.value == pytest.approx(np.mean([r["metrics"]["loss"] for r in replies.values()]), rel=2**-23)
    with Experiment(
        tags="#fashion-mnist",
        training_plan_class=MyTrainingPlan,
        training_args=args,
        round_limit=1,
        transport=Federation(parts, tags="#fashion-mnist", target="labels"),
        seed=1,
        progress="quiet",
    ) as simulated:
        simulated.run()
        assert simulated.params().fingerprint() == bits, "a simulation gives the same, to the last bit"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_reaches_0_85_within_five_rounds(cli, tmp_path, fedplug_dir):
    """The scripts as a user runs them, with the commands that the first one prints."""
    from fashion_data import load

    images, labels = load("train")
    assert (images.shape, images.max()) == ((60_000, 1, 28, 28), 1.0)
    assert np.bincount(labels).tolist() == [6_000] * 10
    prepared = subprocess.run(
        [sys.executable, FOLDER / "fashion_data.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert prepared.returncode == 0, prepared.stderr
    typed = [shlex.split(line)[1:] for line in prepared.stdout.splitlines() if line.startswith("fedplug ")]
    assert len(typed) == 9
    with (tmp_path / "researcher.log").open("w") as log:
        researcher = subprocess.Popen(
            [sys.executable, "-m", "fedplug", "run", FOLDER / "experiment.py"],
            cwd=tmp_path,
            env={**os.environ, "FEDPLUG_TRANSPORT": "zmq://127.0.0.1:0", "FEDPLUG_PROGRESS": "plain"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
        )
    nodes: list[subprocess.Popen[bytes]] = []
    with researcher:
        watchdog = threading.Timer(1700, researcher.kill)
        watchdog.start()
        try:
            waiting = re.search(r"Waiting at (zmq://\S+) for 3 nodes", researcher.stderr.readline())
            assert waiting is not None
            for args in typed:
                if args[-1] != "start":
                    done = cli(*args, cwd=tmp_path)
                    assert done.returncode == 0, done.stderr
                    continue
                with (tmp_path / "nodes.log").open("ab") as log:
                    command = [sys.executable, "-m", "fedplug", *args, "--researcher", waiting[1]]
                    nodes.append(
                        subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                    )
            _, said = researcher.communicate()
        finally:
            watchdog.cancel()
            watchdog.join()
            researcher.kill()
            for node in nodes:
                node.terminate()
            codes = [node.wait(30) for node in nodes]
    assert researcher.returncode == 0, said
    assert codes == [0, 0, 0]
    told = (tmp_path / "researcher.log").read_text()
    found = re.findall(r"^round \d: accuracy on the test images ([\d.]+)$", told, re.MULTILINE)
    reached = [float(share) for share in found]
    print("accuracy per round:", reached)  # pytest -rP shows it
    assert len(reached) == 5
    assert max(reached) >= 0.85
    (runs,) = re.findall(r"^curves: tensorboard --logdir (.+)$", told, re.MULTILINE)
    found = curves(Path(runs))
    for name in NODES:
        losses = [event.value for event in found[name].Scalars("TRAINING/Loss")]
        assert found[name].Scalars("TRAINING/Loss")[-1].step == 500
        assert abs(losses[0] - CHANCE) < 0.5
        assert np.mean(losses[-5:]) < 0.8
    rounds = found["aggregated"].Scalars("ROUND/loss")
    assert [event.step for event in rounds] == [1, 2, 3, 4, 5]
    assert rounds[-1].value < rounds[0].value < CHANCE


def test_without_the_package_the_message_says_how_to_get_it(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "fashion_data.py", tmp_path / "data", "--source", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Fashion-MNIST is not on this machine: there is no file {tmp_path}/train-images-idx3-ubyte.gz. "
        "On Debian and Ubuntu: sudo apt-get install dataset-fashion-mnist\n"
    )


WHOLE = struct.pack(">HBB2I", 0, 8, 2, 2, 3) + bytes(range(6))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"\0\1" + WHOLE[2:]), "does not begin as an IDX file"),
        (gzip.compress(WHOLE[:2] + b"\x0d" + WHOLE[3:]), "does not begin as an IDX file"),
        (gzip.compress(WHOLE[:3] + b"\0"), "does not begin as an IDX file"),
        (gzip.compress(WHOLE[:-1]), "it ends too early"),
        (gzip.compress(WHOLE[:7]), "it ends too early"),
        (gzip.compress(WHOLE + b"\0"), "more than the 6 values"),
        (gzip.compress(WHOLE[:4] + b"\xff" * 8), "it claims to hold"),
        (gzip.compress(WHOLE)[:-9], "end-of-stream"),
        (WHOLE, "Not a gzipped file"),
    ],
    ids=["zeros", "type", "no axes", "short", "short head", "long", "huge", "cut", "not gzip"],
)
def test_a_file_that_is_no_idx_file_is_refused_by_name(tmp_path, data, said):
    from fashion_data import read_idx

    path = tmp_path / "values.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ")


def test_an_idx_file_is_read_as_it_stands(tmp_path):
    from fashion_data import read_idx

    path = tmp_path / "values.gz"
    path.write_bytes(gzip.compress(WHOLE))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_parts_are_disjoint_together_all_and_alike():
    from fashion_data import deal

    images = np.arange(3_001)
    parts = deal(images, images % 10)
    assert list(parts) == NODES
    assert [len(x) for x, _ in parts.values()] == [1001, 1000, 1000]
    assert sorted(np.concatenate([x for x, _ in parts.values()])) == list(range(3_001))
    for x, y in parts.values():
        assert (x % 10 == y).all()
        # about 100 of each class: the hypergeometric deviation is sqrt(1000 * 0.1 * 0.9 * 2/3) < 8, five of them are 40
        assert abs(np.bincount(y) - 100).max() < 40
