"""Row 41 of the fault matrix: the researcher of many nodes is killed and started again, and all come back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from fedplug.core.plugins import default_host
from fedplug.testing.echo_nodes import KeyRing
from fedplug.transports.registry import open_transport

RESEARCHER = """
import json, sys
from dataclasses import replace
import msgspec
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodeLost
from fedplug.protocol import ResearcherEndpoint
from fedplug.testing.echo_nodes import KeyRing
from fedplug.transports.registry import open_transport

url, count, ring = sys.argv[1], int(sys.argv[2]), msgspec.json.decode(open(sys.argv[3], "rb").read(), type=KeyRing)
options = replace(ring.researcher_options(), heartbeat=60.0)  # a machine under load is no fault here
pool = ResearcherEndpoint(open_transport(url, default_host()), url, options)
print(pool.address, flush=True)
lost = []
while len(pool.nodes) < count:
    event = pool.next_event(60)
    if event is None:
        break
    lost += [f"{event.node_id}: {event.reason}"] if isinstance(event, NodeLost) else []
print(json.dumps({"there": len(pool.nodes), "lost": lost, "traffic": dict(pool.traffic())}), flush=True)
sys.stdin.read()
"""


def researcher(stack: ExitStack, url: str, count: int, keys: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RESEARCHER, url, str(count), str(keys)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stack.enter_context(process)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def seen(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "processes"), [(40, 1), pytest.param(1000, 4, marks=pytest.mark.slow)], ids=["row_41-40", "row_41-1000"]
)
def test_all_nodes_come_back_to_a_researcher_that_was_killed(tmp_path, count, processes):
    keys = tmp_path / "keys.json"
    ring = KeyRing.make(open_transport("zmq://127.0.0.1:0", default_host()), count)
    keys.write_bytes(msgspec.json.encode(ring))
    with ExitStack() as stack:
        first, url = researcher(stack, "zmq://127.0.0.1:0", count, keys)
        share = count // processes
        for number in range(processes):
            command = ["-m", "fedplug.testing.echo_nodes", url, str(share), "--first", str(number * share)]
            more = ["--heartbeat", "60", "--keys", str(keys)]
            nodes = subprocess.Popen([sys.executable, *command, *more], stdin=subprocess.PIPE)
            stack.enter_context(nodes)
            stack.callback(nodes.kill)
        assert seen(first)["there"] == count
        first.send_signal(signal.SIGKILL)
        first.wait()
        second, again = researcher(stack, url, count, keys)
        assert again == url
        found = seen(second)
        assert found["there"] == count
        assert found["lost"] == [], "who is back stays"
        assert found["traffic"]["handshakes_failed"] == 0
