"""What every test of the core (``tests/``) and of our plugins (``plugins/*/tests/``) runs under.

It stands in the root because both trees need it. Nothing here imports fedplug or a framework: tests measure that.
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

OUR_PLUGINS = "declearn,ray,robust,scaffold,sklearn,torch,zmq"
_GRACE_S = 5.0  # how long a thread or process that is already on its way out may take
_SHARED_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

# Derandomised: a red run is red again. `make test-all` is thorough; `HYPOTHESIS_PROFILE=explore` looks for new
# examples, on a developer's machine.
for _name, _examples in (("ci", 50), ("thorough", 200)):
    settings.register_profile(
        _name, derandomize=True, deadline=None, database=None, print_blob=True, max_examples=_examples
    )
settings.register_profile(
    "explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Files that take longest, the longest first. Workers take whole files (`--dist loadfile`), in the order in which they
# are collected: one that is long must not be the last. Where one has grown long, `--durations=40` tells.
_LONG = (
    "test_simulator", "test_demo", "test_wheelhouse", "test_setting_up_a_node", "test_browser", "test_folders_of_data",
    "test_bad_input", "test_error_situations", "test_hostile_plans", "test_soak_processes", "test_soak",
    "test_new_plugin", "test_same_bits", "test_examples", "test_state_between_rounds", "test_fashion_mnist",
    "test_worker_process", "test_wire_fuzz", "test_killed_researcher", "test_killed_nodes", "test_engine_kit",
    "test_server",
)  # fmt: skip

CliRunner = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long files come first, the others as they were collected."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(_LONG)))


@pytest.fixture(autouse=True, scope="session")
def _settled_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the person's own settings out of the tests, and the tests out of the person's folders.

    Only our own plugins are loaded, so a stranger's plugin in the environment cannot change a result. A test about
    discovery asks for the fixture ``any_plugin``. Subprocesses inherit all of it, but have sets in another order: what
    depends on it is not the same in two processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FEDPLUG_")]:
            patch.delenv(name)
        patch.delenv("PYTHONHASHSEED", raising=False)
        patch.setenv("FEDPLUG_PLUGINS", OUR_PLUGINS)
        patch.setenv("FEDPLUG_DIR", str(tmp_path_factory.mktemp("fedplug-home")))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "dumb")
        patch.setenv("COLUMNS", "120")
        yield


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Two cores are shared by many test processes: torch's own threads would only get in each other's way."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module whose tests leave threads or processes running.

    Once a module and not once a test: federations may live in a module fixture, and a look at all processes costs
    some milliseconds.
    """
    threads_before = set(threading.enumerate())
    processes_before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    until = time.monotonic() + _GRACE_S
    threads = [thread for thread in threading.enumerate() if thread not in threads_before and not _lasting(thread)]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    left = [f"thread {thread.name}" for thread in threads if thread.is_alive()]
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in processes_before]
    _, alive = psutil.wait_procs([child for child in children if not _shared(child)], timeout=_GRACE_S)
    for child in alive:
        left.append(f"process {child.pid}: {' '.join(_command(child))}")
        child.kill()  # ours: started since this module began
    if left:
        pytest.fail(f"{request.node.name} left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def any_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the plugin host discover whatever is installed or on the path, as it does for a user."""
    monkeypatch.delenv("FEDPLUG_PLUGINS", raising=False)


@pytest.fixture
def fedplug_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is this test's ``FEDPLUG_DIR``, for subprocesses too."""
    folder = tmp_path / "fedplug-home"
    folder.mkdir()
    monkeypatch.setenv("FEDPLUG_DIR", str(folder))
    return folder


@pytest.fixture
def inproc_url() -> str:
    """Return an ``inproc://`` address that nobody else uses."""
    return f"inproc://test-{uuid.uuid4().hex}"


@pytest.fixture
def zmq_url() -> str:
    """Return a ``zmq://`` address to listen on; the system picks the port, the listener's ``url`` tells which."""
    return "zmq://127.0.0.1:0"


@pytest.fixture(scope="session")
def cli() -> CliRunner:
    """Return ``run(*args, env=None, cwd=None, timeout=120)``: runs the fedplug command, returns the finished process.

    Output is captured as text and standard input is empty. The exit code is the test's business.
    """

    def run(
        *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fedplug", *map(str, args)],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the four files of Fashion-MNIST: those of Debian's package dataset-fashion-mnist.

    Where it is not installed, scikit-learn's 1,797 handwritten digits stand in, enlarged and in the same format, so
    that `make test` needs no more than Python. What is said of Fashion-MNIST itself is tested by the slow tests only.
    """
    there = Path("/usr/share/datasets/fashion-mnist")
    return there if there.is_dir() else _digits(tmp_path_factory.mktemp("digits"))


def _digits(folder: Path) -> Path:
    import numpy as np  # noqa: PLC0415 - most sessions need none of it
    from sklearn.datasets import load_digits  # noqa: PLC0415

    digits = load_digits()
    images = np.pad(np.kron(digits.images * 15, np.ones((1, 3, 3))).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    for name, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        for values, kind in ((images[rows], "images-idx3"), (digits.target[rows].astype(np.uint8), "labels-idx1")):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    return folder


def _lasting(thread: threading.Thread) -> bool:
    """Tell whether a library keeps this thread for the whole life of the interpreter.

    pyzmq does once something was sent uncopied, and tqdm, which torch's compiler uses, once something was slow.
    """
    return type(thread).__module__ in ("zmq.utils.garbage", "tqdm._monitor")


def _shared(process: psutil.Process) -> bool:
    """Tell whether multiprocessing keeps this process for the whole life of the interpreter."""
    line = " ".join(_command(process))
    return any(name in line for name in _SHARED_HELPERS)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
