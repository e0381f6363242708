"""Keys from end to end: typed by their owners, used by nodes and an experiment, changed while these run."""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
import time

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.cli import main
from fedplug.core.errors import KeysError
from fedplug.core.transport import TransportOptions
from fedplug.node import Node
from fedplug.simulation import Federation

PATIENCE = 60.0
ARRAYS = {
    name: {"x": np.linspace(0, 1, 40).reshape(40, 1) * scale, "y": np.linspace(0, 2, 40) * scale}
    for name, scale in (("paris", 1.0), ("lyon", 0.5))
}


class Slope(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        error = data @ self.model()["w"] - target
        return float((error**2).mean()), {"w": 2 * error @ data / len(data)}


def experiment(transport, **settings):
    return Experiment(
        training_plan_class=Slope,
        training_args={"epochs": 2, "loader_args": {"batch_size": 10}, "optimizer_args": {"lr": 0.1}},
        transport=transport, seed=3, min_nodes=2, progress="quiet", connect_timeout=PATIENCE, **settings,
    )  # fmt: skip


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)
    return found


def digest(exp):
    return hashlib.sha256(exp.params()["w"].tobytes()).hexdigest()


@pytest.fixture
def typed(capsys):
    """Returns ``typed(line)``: runs a command and returns what it prints."""

    def run(line):
        command, *words = shlex.split(line)
        assert command == "fedplug"
        assert main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def lines(caplog):
    """Returns ``lines()``: what both sides have logged so far."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def nodes(tmp_path, typed):
    """Returns ``nodes(url)``: starts the two nodes; all are stopped in the end."""
    running = []

    def start(url):
        for name, arrays in ARRAYS.items():
            np.savez(tmp_path / f"{name}.npz", **arrays)
            node = f"fedplug node -C {tmp_path / name}"
            typed(f"{node} init --name {name} --id {name} --researcher {url} --data-root {tmp_path}")
            typed(f"{node} dataset add {tmp_path / name}.npz --name data --tags t")
            running.append(Node(tmp_path / name, worker="inline", retry=0.05).start())
        return running

    yield start
    for node in running:
        node.stop()


def test_row_01_row_34_people_who_type_the_lines_that_they_are_shown_get_an_encrypted_experiment(
    fedplug_dir, tmp_path, typed, nodes, lines
):
    """Row 1: who is not enrolled yet is told the line that lets it in, and is in soon after it was typed."""

    def command(beginning):
        """The last command in the logs that begins so."""
        found = [each for line in lines() for each in re.findall(rf"{re.escape(beginning)}[\w./:-]*(?: \w+)*", line)]
        return found[-1] if found else ""

    key = re.search(r"trust ([0-9a-f]{64})", typed("fedplug researcher init"))[1]
    with experiment("zmq://127.0.0.1:0", transport_options=TransportOptions(heartbeat=0.2)) as exp:
        url = exp.pool().description
        nodes(url)
        # They have no key of the researcher's, which is what their owners read.
        until(lambda: sum("take encrypted connections only" in line for line in lines()) == 2, "the refusal")
        for name in ARRAYS:
            typed(f"fedplug node -C {tmp_path / name} trust {key}")
        # The nodes run on, with keys now; these are not allowed yet, and the owners read what to send.
        for name in ARRAYS:
            line = until(lambda name=name: command(f"fedplug researcher allow {name}"), "the line to send")
            assert name not in exp.pool().nodes
            typed(line)
            until(lambda name=name: name in exp.pool().nodes, f"{name} gets in")
        assert sum("take encrypted connections only" in line for line in lines()) == 2, "one line per change of state"
        exp.set_tags("t")
        exp.run_once()

        # Who is denied is out at once, although the connection stands; who is allowed again comes back by itself.
        allowed = command("fedplug researcher allow lyon")
        typed("fedplug researcher deny lyon")
        until(lambda: "lyon" not in exp.pool().nodes, "lyon is out")
        assert "paris" in exp.pool().nodes
        typed(allowed)
        until(lambda: "lyon" in exp.pool().nodes, "lyon is back")
        exp.run_once()
        encrypted = digest(exp)

    # The researcher changes keys, and no node is lost.
    new = re.search(r"trust ([0-9a-f]{64})", typed("fedplug researcher rotate"))[1]
    for name in ARRAYS:
        typed(f"fedplug node -C {tmp_path / name} trust {new}")
    typed("fedplug researcher rotate --finish")
    with experiment(url, tags="t", round_limit=2, transport_options=TransportOptions(heartbeat=0.2)) as exp:
        exp.run()
        assert digest(exp) == encrypted
        typed(f"fedplug node -C {tmp_path / 'lyon'} untrust {key}")
        typed(f"fedplug node -C {tmp_path / 'paris'} untrust {new}")
        until(lambda: list(exp.pool().nodes) == ["lyon"], "paris leaves, and lyon does not")
    with experiment(Federation(ARRAYS, tags="t"), tags="t", round_limit=2) as exp:
        exp.run()
        assert digest(exp) == encrypted, "keys change nothing of the result"


def test_a_node_that_trusts_a_key_never_talks_to_a_researcher_without(fedplug_dir, tmp_path, typed, nodes, lines):
    key = re.search(r"trust ([0-9a-f]{64})", typed("fedplug researcher init"))[1]
    with experiment("zmq://127.0.0.1:0", transport_options=TransportOptions(insecure_plaintext=True)) as exp:
        nodes(exp.pool().description)
        until(lambda: len(exp.pool().nodes) == 2, "both are there, without keys")
        for name in ARRAYS:
            typed(f"fedplug node -C {tmp_path / name} trust {key}")
        until(lambda: not exp.pool().nodes, "both leave, since they trust a key now")
        until(lambda: sum("does not talk to them unencrypted" in line for line in lines()) == 2, "the refusal")
        assert not exp.pool().nodes
    assert any("is not encrypted, as insecure_plaintext allows" in line for line in lines())


def test_an_experiment_whose_keys_others_can_read_does_not_begin(fedplug_dir, typed):
    typed("fedplug researcher init")
    (fedplug_dir / "keys" / "own.key").chmod(0o644)
    with pytest.raises(KeysError, match="Others can read") as caught:
        experiment("zmq://127.0.0.1:0", tags="t")
    assert "chmod 600" in caught.value.cure
