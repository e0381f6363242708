"""Plans that mean harm, at a real node process: rows 16, 17, 18 and 44 of the fault matrix.

Each is sent by a researcher over ZeroMQ, and does what its name says inside its training step. It is blocked, capped
or ended, the researcher is told in words, and the next, honest training runs as if nothing had happened.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from node_kit import Node, nodes_below

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodeJoined, TaskFailed, UpdateFetched, UpdateOffered
from fedplug.core.transport import TransportOptions
from fedplug.node.isolation.probe import probe
from fedplug.protocol.endpoint_researcher import ResearcherEndpoint
from fedplug.transports.registry import open_transport

LACKING = {layer.name for layer in probe() if layer.state == "missing"}


def needs(layer: str) -> Any:
    """What only the kernel can stop."""
    return pytest.mark.skipif(layer in LACKING, reason=f"this system cannot enforce the layer {layer!r}")


# ruff: noqa: F821, SIM115, PTH107, PTH118 - what plans import stands in init_dependencies
class Hostile(NumpyTrainingPlan):
    def init_dependencies(self):
        return [
            "import ctypes", "import os", "import signal", "import socket", "import subprocess", "import sys",
            "import tempfile", "import threading", "import time", "import numpy as np",
            "from fedplug.core.params import Params",
        ]  # fmt: skip

    def init_model(self, model_args):
        return {"w": np.zeros(4)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        args = self.model_args()
        getattr(self, args["do"])(args)
        return 1.0, {"w": -np.ones(4)}

    def nothing(self, args):
        pass

    # the network ---------------------------------------------------------------------------------------------

    def opens_a_socket(self, args):
        socket.create_connection(("127.0.0.1", args["port"]), timeout=5)

    def opens_a_socket_behind_pythons_back(self, args):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.socket(2, 1, 0) < 0, "there is a socket"
        raise OSError(ctypes.get_errno(), "no socket")

    def looks_up_a_name(self, args):
        socket.getaddrinfo("localhost", 80)

    # files ---------------------------------------------------------------------------------------------------

    def reads(self, args):
        open(args["path"], "rb").read(1)

    def reads_behind_pythons_back(self, args):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.open(args["path"].encode(), 0) < 0, "it is open"
        raise OSError(ctypes.get_errno(), "not opened")

    def reads_the_supervisor(self, args):
        for name in ("environ", "mem", "fd/0"):
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.open(f"/proc/{os.getppid()}/{name}".encode(), 0) < 0, f"{name} is open"
        raise OSError(13, "not opened")

    def writes(self, args):
        open(args["path"], "ab").write(b"x")

    def removes(self, args):
        os.remove(args["path"])

    def fills_the_scratch_folder(self, args):
        for number in range(100_000):
            with open(os.path.join(tempfile.gettempdir(), str(number)), "wb") as file:
                file.write(bytes(1 << 20))

    def opens_thousands_of_files(self, args):
        files = [open(os.devnull, "rb") for _ in range(100_000)]
        raise AssertionError(len(files))

    # processes -----------------------------------------------------------------------------------------------

    def forks(self, args):
        os.fork()

    def forks_behind_pythons_back(self, args):
        libc = ctypes.CDLL(None, use_errno=True)
        for call in (libc.fork, libc.vfork):
            if call() == 0:
                os._exit(0)
        raise OSError(ctypes.get_errno(), "no child")

    def starts_a_program(self, args):
        subprocess.run(["sleep", "600"])

    def runs_a_shell(self, args):
        os.system("sleep 600 &")

    def leaves_its_session(self, args):
        os.setsid()

    def signals_the_supervisor(self, args):
        os.kill(os.getppid(), signal.SIGKILL)

    def signals_the_supervisor_behind_pythons_back(self, args):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.kill(os.getppid(), 0) < 0, "it can be signalled"
        raise OSError(ctypes.get_errno(), "not signalled")

    # resources -----------------------------------------------------------------------------------------------

    def eats_memory(self, args):
        held = []
        while True:
            held.append(np.empty(1 << 24))  # counted when it is asked for, so this takes no time

    def prints_a_gigabyte(self, args):
        for _ in range(1024):
            sys.stdout.write("x" * 1023 + "\n" + "y" * (1 << 20))

    def floods_the_log(self, args):
        for number in range(20_000):
            self._setup.log(f"\x1b[2J line {number} " + "z" * 5000)

    # what leaves ---------------------------------------------------------------------------------------------

    def get_params(self, allocate=None):
        own, do = dict(super().get_params()), self.model_args().get("do")
        if do == "adds_a_tensor":
            own["rows"] = np.array(self.dataset.column("x"))
        elif do == "changes_a_shape":
            own["w"] = np.ones(5)
        elif do == "changes_a_type":
            own["w"] = np.ones(4, np.complex128).view(np.float64)[:4].astype(np.float32)
        return Params.from_arrays(own)

    def adds_a_tensor(self, args):
        pass

    changes_a_shape = changes_a_type = adds_a_tensor

    # the end -------------------------------------------------------------------------------------------------

    def raises(self, args):
        raise RuntimeError("on purpose")

    def exits(self, args):
        sys.exit(3)

    def exits_at_once(self, args):
        os._exit(3)

    def aborts(self, args):
        os.abort()

    def segfaults(self, args):
        ctypes.string_at(0)

    def kills_itself(self, args):
        os.kill(os.getpid(), signal.SIGKILL)

    def sleeps(self, args):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    def holds_the_interpreter(self, args):
        ctypes.PyDLL(None).sleep(600)

    def spins(self, args):
        while True:
            pass


class Clinic:
    """A node process with two data sets, the owner's secrets beside them, and a researcher who talks to it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder, self.output = node, folder, node.output
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        (folder / "secret.txt").write_text("secret")
        self.pool = ResearcherEndpoint(
            open_transport("zmq://127.0.0.1:0", default_host()), "zmq://127.0.0.1:0", TransportOptions()
        )
        node.init("--approval", "off")
        rules = node.place / "node.toml"
        text = rules.read_text().replace('# memory = "8 GiB"', 'memory = "3 GiB"')
        text = text.replace('scratch = "2 GiB"', 'scratch = "64 MiB"')
        rules.write_text(text.replace('progress_silence = "10 min"', 'progress_silence = "4 s"'))
        for name in ("mine", "other"):
            np.savez(folder / f"{name}.npz", x=np.ones((20, 2)), y=np.zeros(20))
            node.add(folder / f"{name}.npz", tags=[name])
        self.dataset_id = node.ask("dataset", "show", "mine")["dataset_id"]
        self.plan = bundle_plan(Hostile)
        self.rounds = 0
        self.signs: list[Any] = []
        node.start(self.pool.address, env={"TMPDIR": str(self.scratch), "OWNERS_KEY": "secret"})
        while not isinstance(event := self.pool.next_event(60), NodeJoined):
            assert event is not None, self.output()

    def train(self, do: str, **more: Any) -> Any:
        """What becomes of a training: a `TaskFailure`, or the parameters."""
        self.signs.clear()
        key = TaskKey(experiment_id="e", round=self.rounds, node_id="clinic")
        self.rounds += 1
        request = TrainRequest(
            key=key, dataset_id=self.dataset_id, plan_class="Hostile", model_args={"do": do, **more},
            training_args={"epochs": 1, "loader_args": {"batch_size": 20}, "optimizer_args": {"lr": 1.0}},
        )  # fmt: skip
        self.pool.train(request, self.plan, Params.from_arrays({"w": np.zeros(4)}))
        while True:
            event = self.pool.next_event(60, lambda sign, node: self.signs.append(sign))
            assert event is not None, self.output()[-3000:]
            if isinstance(event, TaskFailed):
                self.pool.commit(key)
                return event.failure
            if isinstance(event, UpdateOffered):
                self.pool.fetch(key)
            if isinstance(event, UpdateFetched):
                self.pool.commit(key)
                return event.params

    def is_well(self) -> None:
        """The node lives, trains, and holds no more than it did."""
        found = self.train("nothing")
        assert isinstance(found, Params), found
        assert found["w"].tolist() == [1.0] * 4
        assert self.node.process.poll() is None
        below = psutil.Process(self.node.process.pid).children(recursive=True)
        assert len(below) <= 2, below  # the worker and its guard
        assert len(list(self.scratch.glob("fedplug-scratch-*"))) == 1


@pytest.fixture(scope="module")
def clinic() -> Iterator[Clinic]:
    with tempfile.TemporaryDirectory() as folder:
        with nodes_below(Path(folder)) as make:
            clinic = Clinic(make("clinic"), Path(folder))
            yield clinic
        clinic.pool.close()
        assert list(clinic.scratch.iterdir()) == []


REFUSED = [
    "opens_a_socket", "looks_up_a_name", "forks", "starts_a_program", "runs_a_shell", "signals_the_supervisor",
]  # fmt: skip


@pytest.mark.parametrize("do", REFUSED)
def test_what_is_not_allowed_is_refused_in_words_and_the_node_lives(clinic, do):
    failure = clinic.train(do, port=9)
    assert failure.code == "policy", failure
    assert "the node does not allow that" in failure.text
    clinic.is_well()


@pytest.mark.parametrize(
    ("do", "layer"),
    [
        ("opens_a_socket_behind_pythons_back", "calls"),
        ("forks_behind_pythons_back", "calls"),
        ("leaves_its_session", "calls"),
        ("signals_the_supervisor_behind_pythons_back", "files"),
        ("reads_the_supervisor", "files"),
    ],
)
def test_the_kernel_refuses_what_python_does_not_see(clinic, do, layer):
    if layer in LACKING:
        pytest.skip(f"this system cannot enforce the layer {layer!r}")
    failure = clinic.train(do)
    assert failure.code == "plan-raised", failure
    assert "Operation not permitted" in failure.text or "Permission denied" in failure.text or "Errno" in failure.text
    clinic.is_well()


def secrets(clinic: Clinic) -> list[str]:
    names = ("secret.txt", "other.npz", "clinic/node.sqlite", "clinic/node.toml", "clinic/keys/own.key")
    return [str(clinic.folder / name) for name in names]


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("do", ["reads", "reads_behind_pythons_back"])
def test_no_file_but_its_own_data_set_can_be_read(clinic, do, which):
    if do != "reads" and "files" in LACKING:
        pytest.skip("this system cannot enforce the layer 'files'")
    failure = clinic.train(do, path=[*secrets(clinic), "/etc/shadow"][which])
    assert failure.code == ("policy" if do == "reads" else "plan-raised"), failure
    clinic.is_well()


def test_its_own_data_set_can_be_read_and_not_written(clinic):
    path = clinic.folder / "mine.npz"
    assert isinstance(clinic.train("reads", path=str(path)), Params)
    before = path.read_bytes()
    for do in ("writes", "removes"):
        assert clinic.train(do, path=str(path)).code == "policy"
    assert path.read_bytes() == before


@pytest.mark.parametrize("do", ["writes", "removes"])
def test_nothing_outside_the_scratch_folder_can_be_changed(clinic, do):
    target = clinic.folder / "secret.txt"
    failure = clinic.train(do, path=str(target))
    assert failure.code == "policy", failure
    assert target.read_text() == "secret"
    clinic.is_well()


@pytest.mark.parametrize(
    ("do", "code", "said"),
    [
        ("eats_memory", "worker-died", "more than the node's limit"),
        ("fills_the_scratch_folder", "policy", "into its scratch folder"),
        ("opens_thousands_of_files", "plan-raised", "Too many open files"),
    ],
)
def test_what_takes_more_than_its_share_is_ended(clinic, do, code, said):
    failure = clinic.train(do)
    assert (failure.code, said in failure.text) == (code, True), failure
    clinic.is_well()


def test_a_gigabyte_of_output_is_read_cut_and_forgotten(clinic):
    before = len(clinic.output())
    assert isinstance(clinic.train("prints_a_gigabyte"), Params)
    assert len(clinic.output()) - before < 2_000_000
    assert "the rest is not logged" in clinic.output()
    clinic.is_well()


def test_a_flood_of_lines_is_capped_and_cannot_move_a_cursor(clinic):
    assert isinstance(clinic.train("floods_the_log"), Params)
    lines = [sign for sign in clinic.signs if isinstance(sign, LogLine)]
    assert 0 < len(lines) <= 210
    assert all("\x1b" not in line.text and len(line.text) < 2100 for line in lines)
    assert all(isinstance(sign, LogLine | Progress) for sign in clinic.signs)
    assert sum("zzz" in line for line in clinic.output().splitlines()) <= 210
    clinic.is_well()


@pytest.mark.parametrize("do", ["adds_a_tensor", "changes_a_shape", "changes_a_type"])
def test_only_the_declared_tensors_leave(clinic, do):
    failure = clinic.train(do)
    assert failure.code == "policy", failure
    assert "other tensors than those of the model" in failure.text
    clinic.is_well()


@pytest.mark.parametrize(
    ("do", "code", "said"),
    [
        ("raises", "plan-raised", "on purpose"),
        ("exits", "plan-raised", "SystemExit"),
        ("exits_at_once", "worker-died", "exit code 3"),
        ("aborts", "worker-died", "SIGABRT"),
        ("segfaults", "worker-died", "SIGSEGV"),
        ("kills_itself", "worker-died", "SIGKILL"),
    ],
)
def test_however_a_training_ends_the_researcher_is_told_how(clinic, do, code, said):
    failure = clinic.train(do)
    assert (failure.code, said in failure.text) == (code, True), failure
    clinic.is_well()


@pytest.mark.parametrize("do", ["sleeps", "holds_the_interpreter", "spins"])
def test_a_training_without_progress_is_ended(clinic, do):
    failure = clinic.train(do)
    assert failure.code == "stalled", failure
    assert "no progress for" in failure.text
    clinic.is_well()


def test_a_worker_sees_nothing_of_the_owners_environment(clinic):
    workers = psutil.Process(clinic.node.process.pid).children()
    assert workers
    for worker in workers:
        assert "OWNERS_KEY" not in worker.environ()


def test_every_refusal_is_in_the_audit_log(clinic):
    clinic.train("forks")
    entries = clinic.node.ask("audit", "show", "--limit", "5")
    failed = [entry for entry in entries if entry["event"].startswith(("training-failed", "training-refused"))]
    assert any(entry["facts"].get("code") == "policy" for entry in failed)
    assert "are as they were written" in clinic.node.type("audit", "verify")
