"""Functions that stand in for `fedplug.node.training.run_task` inside real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fedplug.core.errors import PlanRunError
from fedplug.core.messages import LogLine, Progress, TrainReply
from fedplug.core.params import Params


def train(
    request,
    bundle,
    params,
    aux,
    dataset,
    host,
    emit,
    *,
    cancelled=None,
    allocate=None,
    state=None,
    noise_key=b"",
    terms=None,
):
    """Does what ``model_args["do"]`` says."""
    return globals()[request.model_args.get("do", "double")](request, bundle, params, aux, dataset, emit, allocate)


def _reply(request, **more):
    return TrainReply(key=request.key, sample_count=3, steps=1, **more)


def double(request, bundle, params, aux, dataset, emit, allocate):
    def fill(name, out):
        np.multiply(params[name], 2, out=out)

    emit(Progress(key=request.key, step=1, total_steps=2, metrics={"loss": 0.5}))
    emit(LogLine(level="info", text="half way", key=request.key))
    built = Params.build(params.spec, fill, allocate(params.nbytes))
    metrics = {"pid": float(os.getpid()), "rows": float(len(dataset.column("y")))}
    return _reply(request, metrics=metrics, aux=tuple(aux)), built, dict(aux)


def read_only(request, bundle, params, aux, dataset, emit, allocate):
    return _reply(request, metrics={"writable": float(params["w"].flags.writeable)}), params, {}


def fresh_memory(request, bundle, params, aux, dataset, emit, allocate):
    return _reply(request), Params.from_arrays({"w": np.arange(5.0)}), {}


def empty(request, bundle, params, aux, dataset, emit, allocate):
    return _reply(request), Params.from_arrays({}), {}


def environment(request, bundle, params, aux, dataset, emit, allocate):
    threads = float(os.environ.get("OMP_NUM_THREADS", "0"))
    return _reply(request, metrics={"threads": threads, "sid": float(os.getsid(0))}), params, {}


def killed(request, bundle, params, aux, dataset, emit, allocate):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(request, bundle, params, aux, dataset, emit, allocate):
    os.kill(os.getpid(), signal.SIGSEGV)


def os_exit(request, bundle, params, aux, dataset, emit, allocate):
    os._exit(7)


def raises(request, bundle, params, aux, dataset, emit, allocate):
    raise PlanRunError("It went wrong.", cure="Do it right.", details="line 3")


def breaks(request, bundle, params, aux, dataset, emit, allocate):
    raise RuntimeError("/secret/path")


def hungry(request, bundle, params, aux, dataset, emit, allocate):
    blocks = []
    for _ in range(10_000):
        blocks.append(np.ones(10**7))  # noqa: PERF401 - it is the growth that counts
    raise AssertionError("there was no limit")


def chatty(request, bundle, params, aux, dataset, emit, allocate):
    for index in range(20_000):
        print(f"line {index} \x1b[31mred")
    print("x" * 5_000_000, end="")
    return _reply(request), params, {}


def hangs(request, bundle, params, aux, dataset, emit, allocate):
    """Never ends by itself, and holds the interpreter like native code would."""
    emit(Progress(key=request.key, step=1))
    while True:
        sum(range(100_000))


def family(request, bundle, params, aux, dataset, emit, allocate):
    """Starts a child that would outlive it, reports both process ids, and hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    emit(Progress(key=request.key, metrics={"worker": float(os.getpid()), "child": float(child.pid)}))
    time.sleep(600)


def forks_and_exits(request, bundle, params, aux, dataset, emit, allocate):
    """Leaves a forked child behind that holds every descriptor."""
    child = os.fork()
    if child == 0:
        signal.pause()
    emit(Progress(key=request.key, metrics={"child": float(child)}))
    os._exit(3)


def forges_key(request, bundle, params, aux, dataset, emit, allocate):
    from msgspec.structs import replace

    return TrainReply(key=replace(request.key, round=99), sample_count=1), params, {}


def forges_memory(request, bundle, params, aux, dataset, emit, allocate):
    """Answers with a table that promises more memory than comes with it."""
    import fedplug.node.ipc
    from fedplug.node.shared import SharedBuffer

    fedplug.node.ipc.share = lambda params: (SharedBuffer.create(10), 0)
    return _reply(request), Params.from_arrays({"w": np.zeros(10**6)}), {}


def inodes(request, bundle, params, aux, dataset, emit, allocate):
    """Reports in which shared memory the parameters lie, and how much of it this process holds."""
    from fedplug.node.shared import share

    built = Params.build(params.spec, lambda name, out: np.copyto(out, params[name]), allocate(params.nbytes))
    held = [link for link in map(_link, Path("/proc/self/fd").iterdir()) if "fedplug" in link]
    metrics = {
        "given": float(os.fstat(share(params)[0].fd).st_ino),
        "built": float(os.fstat(share(built)[0].fd).st_ino),
        "held": float(len(held)),
    }
    return _reply(request, metrics=metrics), built, {}


def _link(path):
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


def supervisor_main():
    """A supervisor to be killed: starts a worker whose plan has a child, and prints both process ids."""
    from fedplug.node.worker_process import ProcessWorker

    sys.path.insert(0, str(Path(__file__).parent))
    from job_factory import make_job

    worker = ProcessWorker(trainer="stand_in_trainers:train")

    def report(sign):
        print(int(sign.metrics["worker"]), int(sign.metrics["child"]), flush=True)

    worker.run(make_job(sys.argv[1], "family"), report)


if __name__ == "__main__":
    supervisor_main()
