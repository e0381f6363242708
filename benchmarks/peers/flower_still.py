"""No-op rounds on Flower: a client that sends back what it was sent, and a server that times the rounds.

No PyTorch here: where Flower starts a process for each message, its import would be most of what is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from benchmarks.clocks import Stopwatch
from benchmarks.peers.rows import Row, row_of_times, versions

WARM_UP = 2

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator] # Flower is not installed where types are checked
def train(message: Message, context: Context) -> Message:
    """Nothing changes."""
    del context
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


class StillRounds:
    """Times no-op rounds with a model of 1 KB in four arrays, and checks that it stays as it is.

    Args:
        nodes: So many nodes, and all of them in each round.
        rounds: How many rounds to count, after two that are not.
        pid: The process whose family is measured; this one by default.
    """

    def __init__(self, nodes: int, rounds: int, pid: int | None = None) -> None:
        self.nodes = nodes
        self.rounds = rounds + WARM_UP
        self.times: list[tuple[float, float]] = []
        self.model = {f"t{number}": np.arange(64, dtype=np.float32) + number for number in range(4)}
        self._watch = Stopwatch(pid)

    def run(self, grid: Grid) -> None:
        """All rounds."""
        averaging = FedAvg(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=self.nodes, min_available_nodes=self.nodes
        )
        averaging.start(
            grid, ArrayRecord({name: Array(value) for name, value in self.model.items()}), num_rounds=self.rounds,
            train_config=ConfigRecord(), evaluate_fn=self._after,
        )  # fmt: skip

    def _after(self, server_round: int, arrays: ArrayRecord) -> Any:
        if server_round:
            self.times.append(self._watch.stop())
        for name, value in arrays.items():
            # not to the bit: Flower's mean is rounded in each round
            if not np.allclose(value.numpy(), self.model[name], rtol=1e-5, atol=0):
                raise AssertionError(f"{name} has changed in round {server_round}")
        self._watch.start()

    def row(self, workload: str, how: str) -> Row:
        """What was measured.

        Raises:
            RuntimeError: Not all rounds came to their end.
        """
        if len(self.times) != self.rounds:
            raise RuntimeError(f"{len(self.times)} of {self.rounds} rounds came to their end")
        found = versions("flwr", "numpy")
        times = self.times[WARM_UP:]
        return row_of_times(workload, "Flower", found["flwr"], how, times, versions=found, nodes=self.nodes)
