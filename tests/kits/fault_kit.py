"""Whole runs over lines that break: a researcher, node processes, and a `FaultProxy` before each of them.

Durations and sizes are small: a heartbeat takes a tenth of the usual time, a chunk is a 64th of the usual size, and an
update has some 400 of them. So every fault meets a transfer under way, and no test has to move much or to wait long.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from node_kit import Node

from fedplug import DataManager, Experiment, Monitor, NumpyTrainingPlan, QuorumStrategy, Strategy
from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.keys import KeyPair
from fedplug.core.messages import Progress, TrainReply
from fedplug.core.plugins import default_host
from fedplug.core.transport import Transport, TransportOptions
from fedplug.node import NodeStore
from fedplug.node.audit.log import AuditLog
from fedplug.protocol import Limits, ResearcherEndpoint
from fedplug.testing.fault_proxy import FaultProxy
from fedplug.transports.registry import open_transport

HEARTBEAT = 0.2
CHUNK = 16 * 1024
CREDIT = 4
LIMITS = Limits(
    heartbeat=HEARTBEAT,
    chunk=CHUNK,
    inline=1024,
    peer_credit=CREDIT,
    pool_credit=2 * CREDIT,
    repeat=0.5,
    ack_delay=0.02,
)
SIZE = 800_000
UPDATE = 8 * SIZE
"""Bytes of an update."""

NODES = ("lyon", "paris")
ROUNDS = 2
LONG = 300.0
"""Seconds after which a round is given up: a last resort, on which no result depends."""


class LargePlan(NumpyTrainingPlan):
    """A model of some megabytes that takes next to no time to train."""

    def init_model(self):
        return {"slope": np.random.normal(size=3), "large": np.random.normal(size=self.model_args()["size"])}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        model = self.model()
        error = data @ model["slope"] - target
        return float((error**2).mean()), {
            "slope": 2 * error @ data / len(data),
            "large": model["large"] * np.tanh(error.mean()) + np.random.normal(),
        }


class Watch(Monitor):
    """Remembers what happens, and calls back when it does: ``look(what, node_id)``."""

    def __init__(self, look: Callable[[str, str], object] = lambda what, node_id: None) -> None:
        self.look = look
        self.dropped_nodes: list[tuple[str, str]] = []
        self.replies: Counter[tuple[int, str]] = Counter()
        self.results: list[RoundResult] = []

    def round_started(self, ctx: RoundContext, node_ids: Any) -> None:
        self.look("round", "")

    def progress(self, node_id: str, progress: Progress) -> None:
        self.look("progress", node_id)

    def replied(self, node_id: str, reply: TrainReply) -> None:
        self.replies[reply.key.round, node_id] += 1
        self.look("replied", node_id)

    def dropped(self, node_id: str, reason: str) -> None:
        self.dropped_nodes.append((node_id, reason))
        self.look("dropped", node_id)

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        self.results.append(result)
        self.look("ended", "")


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        experiment_id: Its id.
        digest: SHA-256 of the final model.
        rounds: Rounds that were done.
        watch: What was seen.
        traffic: The researcher's counters.
    """

    experiment_id: str
    digest: str
    rounds: int
    watch: Watch
    traffic: Mapping[str, int]


class FaultNode(Node):
    """A node whose process runs ``fault_node.py``.

    Attributes:
        keys: Its keys, and the public key of the researcher; None without keys.
    """

    keys: tuple[KeyPair, str] | None = None

    def start(self, *urls: str, env: Any = None, cwd: Any = None) -> Node:
        """As `Node.start`."""
        self._urls = urls or self._urls
        (self.url,) = self._urls
        script = Path(__file__).with_name("fault_node.py")
        keys = [self.keys[0].public, self.keys[0].secret, self.keys[1]] if self.keys else []
        command = [sys.executable, str(script), str(self.place), self.url, str(HEARTBEAT), *keys]
        with (self.place / "output").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        return self

    def started(self, experiment_id: str) -> Counter[str]:
        """How often each task of an experiment was trained here, by its key."""
        with NodeStore.open(self.place) as store:
            entries = AuditLog(store).entries(events=["training-started"])
        keys = [entry.data["task"] for entry in entries]
        return Counter(key for key in keys if key.startswith(experiment_id))


@dataclass
class Federation:
    """Nodes that knock at an address where researchers come and go, each through a proxy of its own."""

    port: int
    options: TransportOptions
    nodes: dict[str, FaultNode] = field(default_factory=dict)
    proxies: dict[str, FaultProxy] = field(default_factory=dict)

    @contextmanager
    def experiment(
        self, watch: Watch, strategy: Strategy | None = None, transport: Transport | None = None, **more: Any
    ) -> Iterator[Experiment]:
        """An experiment over all nodes; they hear that it is over when the block is left.

        Args:
            watch: Sees what happens.
            strategy: Waits for all nodes by default.
            transport: In place of the plain one.
            more: Other arguments of `Experiment`.
        """
        url = f"zmq://127.0.0.1:{self.port}"
        transport = transport or open_transport(url, default_host())
        args = {"epochs": 2, "loader_args": {"batch_size": 8}, "optimizer_args": {"lr": 0.01}, "log_interval": 1}
        settings: dict[str, Any] = {
            "tags": "#faults", "training_plan_class": LargePlan, "model_args": {"size": SIZE}, "training_args": args,
            "node_selection_strategy": strategy or QuorumStrategy(len(self.nodes), deadline=LONG),
            "round_limit": ROUNDS, "seed": 7, "min_nodes": len(self.nodes), "connect_timeout": LONG,
            "progress": "quiet",
        }  # fmt: skip
        with (
            ResearcherEndpoint(transport, url, self.options, limits=LIMITS) as pool,
            Experiment(transport=pool, monitor=watch, **settings | more) as exp,
        ):
            yield exp

    def run(self, watch: Watch | None = None, **more: Any) -> Outcome:
        """A whole run; the arguments are those of `experiment`."""
        watch = watch or Watch()
        with self.experiment(watch, **more) as exp:
            rounds = exp.run()
            return Outcome(exp.id, exp.params().fingerprint(), rounds, watch, dict(exp.pool().traffic()))


@contextmanager
def federation_below(folder: Path, names: tuple[str, ...] = NODES, *, keys: bool = False) -> Iterator[Federation]:
    """Yield a `Federation` whose nodes run, with or without keys. In the end all are stopped."""
    transport = open_transport("zmq://127.0.0.1:1", default_host())
    pairs = {name: transport.new_keys() for name in ("", *names)} if keys else {}
    options = TransportOptions(heartbeat=HEARTBEAT)
    if pairs:
        enrolled = {pairs[name].public: name for name in names}
        options = replace(options, keys=pairs[""], enrolled=lambda key: enrolled.get(key, ""))
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as free:
            federation = Federation(free.getsockname()[1], options)
        for index, name in enumerate(names):
            rng = np.random.default_rng(index)
            x = rng.normal(index, 1, size=(32, 3))
            np.savez(folder / f"{name}.npz", x=x, y=x @ np.array([1.0, -2.0, 0.5]) + index)
            proxy = stack.enter_context(FaultProxy(federation.port, seed=index))
            node = FaultNode(folder / name)
            node.keys = (pairs[name], pairs[""].public) if pairs else None
            node.add(folder / f"{name}.npz", name="data", tags=["#faults"]).start(f"zmq://127.0.0.1:{proxy.port}")
            stack.callback(_stopped, node)
            federation.nodes[name], federation.proxies[name] = node, proxy
        yield federation


def _stopped(node: FaultNode) -> None:
    node.end()
    assert node.wait() in (0, -9), node.output()
