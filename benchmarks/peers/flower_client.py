"""The client of the workloads on Flower. A module of its own, so that its functions travel by name."""

from __future__ import annotations

from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.pairs import WORKLOADS, Data

app = ClientApp()


@lru_cache(maxsize=1)
def data(name: str) -> Data:
    """The nodes' data, read once in each of Flower's worker processes."""
    torch.set_num_threads(1)
    return Data(WORKLOADS[name])


@app.train()  # type: ignore[untyped-decorator] # Flower is not installed where types are checked
def train(message: Message, context: Context) -> Message:
    """One epoch, by the plain loop's own lines."""
    config = message.content["config"]
    mine = data(config["workload"])
    node = int(context.node_config["partition-id"])
    picked = mine.picked(config["server-round"], node)
    mine.loop.train(message.content["arrays"].to_torch_state_dict(), picked)
    metrics = MetricRecord({"num-examples": len(picked), "node": node})
    reply = RecordDict({"arrays": ArrayRecord(mine.loop.model.state_dict()), "metrics": metrics})
    return Message(reply, reply_to=message)
