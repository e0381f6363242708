from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedplug.core.errors import CodecError, ConnectionLostError
from fedplug.core.messages import LogLine, Progress
from fedplug.core.params import Params
from fedplug.node import worker_process
from fedplug.node.datasets.memory import MemoryDataset
from fedplug.node.ipc import Pipe, Start, pack, unpack
from fedplug.node.jobs import Job, Trained
from fedplug.node.plan_output import MAX_LINE, MAX_LINES
from fedplug.node.shared import SharedBuffer, share, shared_stock
from fedplug.node.worker_process import ProcessWorker

HERE = Path(__file__).parent


def ignore(sign):
    pass


def test_it_trains_and_reports_progress_and_lines(worker, job):
    signs = []
    outcome = worker.run(job(aux={"c": Params.from_arrays({"v": np.ones(3)})}), signs.append)
    assert isinstance(outcome, Trained)
    np.testing.assert_array_equal(outcome.params["w"], np.arange(6.0).reshape(2, 3) * 2)
    np.testing.assert_array_equal(outcome.aux["c"]["v"], np.ones(3))
    assert outcome.reply.metrics["rows"] == 3
    assert [type(sign) for sign in signs] == [Progress, LogLine]


def test_the_process_stays_warm_between_trainings(worker, job):
    pids = {worker.run(job(number=n), ignore).reply.metrics["pid"] for n in range(3)}
    assert len(pids) == 1
    assert pids != {os.getpid()}


def test_a_plan_cannot_write_into_the_global_parameters(worker, job):
    assert worker.run(job("read_only"), ignore).reply.metrics["writable"] == 0


@pytest.mark.parametrize(("do", "nbytes"), [("fresh_memory", 40), ("empty", 0)])
def test_parameters_that_were_not_built_in_shared_memory_come_back_too(worker, job, do, nbytes):
    assert worker.run(job(do), ignore).params.nbytes == nbytes


def test_parameters_of_no_array_travel(worker, job):
    outcome = worker.run(job("environment", params=Params.from_arrays({})), ignore)
    assert outcome.params.nbytes == 0


def test_numerical_libraries_get_one_thread_and_the_worker_a_session_of_its_own(worker, job):
    metrics = worker.run(job("environment"), ignore).reply.metrics
    assert metrics["threads"] == 1
    assert metrics["sid"] == worker.pid


@pytest.mark.parametrize(
    ("do", "said"),
    [("killed", "SIGKILL"), ("segfault", "SIGSEGV"), ("os_exit", "exit code 7"), ("forks_and_exits", "exit code 3")],
)
def test_the_death_of_the_process_is_an_answer_and_the_next_training_gets_a_new_one(worker, job, do, said):
    failed = worker.run(job(do), ignore)
    assert failed.code == "worker-died"
    assert said in failed.text
    assert isinstance(worker.run(job(), ignore), Trained)


def test_children_of_a_dead_worker_are_killed_with_it(worker, job, gone):
    signs = []
    worker.run(job("forks_and_exits"), signs.append)
    assert gone(int(signs[0].metrics["child"]))


def test_a_plan_that_raises_keeps_the_worker_and_says_why(worker, job):
    pid = worker.run(job(), ignore).reply.metrics["pid"]
    failed = worker.run(job("raises"), ignore)
    assert (failed.code, failed.text, failed.details) == ("plan-raised", "It went wrong.\nDo it right.", "line 3")
    assert worker.run(job(), ignore).reply.metrics["pid"] == pid


def test_an_error_of_the_node_itself_does_not_tell_its_paths(worker, job, caplog):
    caplog.set_level(logging.INFO, "fedplug.node.plan")
    failed = worker.run(job("breaks"), ignore)
    assert failed.code == "node-error"
    assert "/secret" not in failed.text + failed.details
    worker.close()
    assert "/secret/path" in caplog.text


def test_a_data_set_that_has_lost_its_file_is_named_without_its_path(worker, job, tmp_path):
    task = job()
    (tmp_path / "table.csv").unlink()
    failed = worker.run(task, ignore)
    assert failed.code == "bad-dataset"
    assert "'table'" in failed.text
    assert str(tmp_path) not in failed.text


def test_cancelling_kills_the_process_and_its_children(worker, job, gone):
    task, begun, pids = job("family"), threading.Event(), {}

    def watch(sign):
        pids.update(sign.metrics)
        begun.set()

    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(worker.run(task, watch)))
    thread.start()
    assert begun.wait(60)
    worker.cancel(task)
    thread.join(60)
    assert outcomes[0].code == "cancelled"
    assert all(gone(int(pid)) for pid in pids.values())


def test_a_job_cancelled_before_its_turn_is_not_run(worker, job):
    task = job()
    worker.cancel(task)
    assert worker.run(task, ignore).code == "cancelled"
    assert worker.pid == 0


def test_a_cancellation_that_crosses_the_answer_does_not_cost_the_next_training(worker, job):
    """The process that was killed for it takes a moment to die: it must not get another training meanwhile."""
    for number in range(5):
        task = job(number=number)

        def crossed(*args, task=task, **named):
            worker.cancel(task)
            return unpack(*args, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker_process, "unpack", crossed)
            worker.run(task, ignore)
        assert task.cancelled.is_set()
        assert worker.pid == 0
        assert isinstance(worker.run(job(number=100 + number), ignore), Trained)


def test_closing_ends_a_training_that_never_would(worker, job, gone):
    begun, outcomes = threading.Event(), []
    thread = threading.Thread(target=lambda: outcomes.append(worker.run(job("hangs"), lambda sign: begun.set())))
    thread.start()
    assert begun.wait(60)
    pid = worker.pid
    worker.close()
    thread.join(60)
    assert outcomes[0].code == "cancelled"
    assert gone(pid)


def test_nothing_is_started_once_it_is_closed(worker):
    """The thread that trains may only get so far when the node is stopped already."""
    worker.close()
    worker.warm_up()
    assert worker.pid == 0


def test_a_socket_is_not_closed_while_another_thread_has_its_number_in_hand():
    """The number may be that of another file at once, from which that thread would then read."""
    closed = []

    class Socket:
        def shutdown(self, how):
            pass

        def close(self):
            closed.append(pipe._receiving.locked() and pipe._lock.locked())

        def recvmsg_into(self, buffers, room, flags):
            assert pipe._receiving.locked()
            return 0, [], 0, None

    pipe = Pipe(Socket(), Start)
    with pytest.raises(ConnectionLostError):
        pipe.receive()
    pipe.close()
    assert closed == [True]


def test_a_process_killed_between_trainings_is_replaced(worker, job, gone):
    first = worker.run(job(), ignore).reply.metrics["pid"]
    os.kill(int(first), signal.SIGKILL)
    assert gone(int(first))
    outcome = worker.run(job(), ignore)
    if not isinstance(outcome, Trained):  # the death may be noticed only by using the process
        outcome = worker.run(job(), ignore)
    assert outcome.reply.metrics["pid"] != first


def test_a_memory_limit_ends_the_process_with_a_clear_text(job, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    worker = ProcessWorker(trainer="stand_in_trainers:train", memory_limit=2**30)
    try:
        failed = worker.run(job("hungry"), ignore)
        assert failed.code == "worker-died"
        assert "limit of 1,024 MiB" in failed.text
        assert isinstance(worker.run(job(), ignore), Trained)
    finally:
        worker.close()


def test_a_flood_of_output_is_cut_and_cleaned(worker, job, caplog):
    caplog.set_level(logging.INFO, "fedplug.node.plan")
    assert isinstance(worker.run(job("chatty"), ignore), Trained)
    worker.close()
    lines = [r.getMessage() for r in caplog.records if r.name == "fedplug.node.plan" and r.levelno == logging.INFO]
    assert len(lines) == MAX_LINES
    assert lines[0].startswith("line 0")
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) <= MAX_LINE
    assert any("not logged" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("do", ["forges_key", "forges_memory"])
def test_an_answer_that_does_not_fit_costs_the_worker_its_life_not_the_supervisor(worker, job, do):
    pid = worker.run(job(), ignore).reply.metrics["pid"]
    failed = worker.run(job(do), ignore)
    assert failed.code == "worker-died"
    assert worker.run(job(), ignore).reply.metrics["pid"] != pid


def test_big_parameters_reach_the_worker_and_come_back_without_a_copy(worker, job):
    size = 16 * 2**20
    spec = Params.from_arrays({"w": np.zeros(size // 4, np.float32)}).spec
    params = Params.build(spec, lambda name, out: out.fill(1.5), shared_stock().allocate(size))
    outcome = worker.run(job("inodes", params=params), ignore)
    np.testing.assert_array_equal(outcome.params["w"][:: 2**16], np.float32(1.5))
    assert not outcome.params["w"].flags.writeable
    assert outcome.reply.metrics["given"] == _inode(params)
    assert outcome.reply.metrics["built"] == _inode(outcome.params)


def test_the_memory_of_a_result_is_used_again_when_nobody_holds_it_any_more(worker, job):
    params = Params.from_arrays({"w": np.arange(2.0**18)})
    first = worker.run(job("double", params=params), ignore).params
    second = worker.run(job("double", params=params, number=1), ignore).params
    assert _inode(first) != _inode(second)
    np.testing.assert_array_equal(first["w"], params["w"] * 2)
    place = _inode(first)
    del first
    third = worker.run(job("double", params=params, number=2), ignore).params
    assert _inode(third) == place
    np.testing.assert_array_equal(second["w"], params["w"] * 2)
    np.testing.assert_array_equal(third["w"], params["w"] * 2)


def test_a_stock_gives_a_block_again_only_when_its_last_view_is_gone():
    stock = shared_stock()
    array = stock.allocate(2**20)
    block = _inode_of(array)
    view = array[10:20].view(np.uint16)
    del array
    other = stock.allocate(2**20)
    assert _inode_of(other) != block
    del view
    again = stock.allocate(2**20)
    assert _inode_of(again) == block
    assert stock.take(2**20) is None


def test_the_worker_keeps_no_parameters_of_earlier_trainings(worker, job):
    held = [worker.run(job("inodes", number=n), ignore).reply.metrics["held"] for n in range(3)]
    assert held[0] == held[1] == held[2]


def test_no_file_descriptor_is_left_over(worker, job):
    worker.run(job(), ignore)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        assert isinstance(worker.run(job(number=number), ignore), Trained)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path, gone):
    supervisor = subprocess.Popen(
        [sys.executable, str(HERE / "stand_in_trainers.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])},
    )
    with supervisor:
        worker, child = (int(word) for word in supervisor.stdout.readline().split())
        supervisor.kill()
    assert gone(worker)
    assert gone(child)


def test_a_data_set_in_memory_is_refused_with_the_cure(worker, job):
    task = job()
    task = Job(task.request, task.bundle, task.params, {}, MemoryDataset("m", {"x": [1.0]}))
    failed = worker.run(task, ignore)
    assert failed.code == "bad-dataset"
    assert "inline" in failed.text


def test_a_shared_block_cannot_be_cut_short_by_its_maker():
    made = SharedBuffer.create(4096)
    SharedBuffer.attach(os.dup(made.fd), 4096)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(made.fd, 0)


def test_a_descriptor_that_is_no_shared_memory_is_refused(tmp_path):
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(CodecError, match="shared memory"):
        SharedBuffer.attach(read, 10)


def test_memory_that_was_handed_over_cannot_be_mapped_writable_again():
    import mmap

    made = SharedBuffer.create(4096)
    made.make_read_only()
    with pytest.raises(PermissionError):
        mmap.mmap(made.fd, 4096)


def _inode(params: Params) -> int:
    return os.fstat(share(params)[0].fd).st_ino


def _inode_of(array) -> int:
    return _inode(Params(Params.from_arrays({"x": np.zeros(array.nbytes, np.uint8)}).spec, array))


def test_results_larger_than_a_node_expects_are_refused():
    blocks, buffers = pack(Params.from_arrays({"w": np.zeros(100)}), {})
    with pytest.raises(CodecError, match="more than 799 bytes"):
        unpack(blocks, [os.dup(buffers[0].fd)], most=799)
    assert unpack(blocks, [os.dup(buffers[0].fd)], most=800)[0].nbytes == 800


def test_the_scratch_folder_of_a_killed_supervisor_is_removed(tmp_path):
    program = (
        "from fedplug.node.policy.schema import ResourceRules\n"
        "from fedplug.node.worker_process import ProcessWorker\n"
        "worker = ProcessWorker(resources=ResourceRules())\n"
        "worker.warm_up()\n"
        "print(worker.pid, flush=True)\n"
        "input()\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as process:
        process.stdout.readline()
        (scratch,) = tmp_path.glob("fedplug-scratch-*")
        (scratch / "left").write_text("something")
        wait_for_guard(process.pid)
        process.kill()
    deadline = time.monotonic() + 20
    while scratch.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # nothing announces the end of a process that is not our child
    assert not scratch.exists()


def wait_for_guard(supervisor):
    """Wait until the worker of this supervisor has started its guard."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if len(psutil.Process(supervisor).children(recursive=True)) >= 2:
            return
        time.sleep(0.01)
    raise AssertionError("there is no guard")
