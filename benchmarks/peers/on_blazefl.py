"""S1, S2 and S3 on blazefl: the federated averaging that comes with it, one by one and in its two pools."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blazefl import contrib
from torch import nn

from benchmarks.peers.pairs import SEED, Pairs, order
from benchmarks.peers.rows import Row, arguments
from benchmarks.plain_loop import BATCH, RATE


class Models:
    """Makes the workload's model: a `ModelSelector` of blazefl."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind

    def select_model(self, model_name: str) -> nn.Module:
        del model_name
        return self.kind()


class Loader:
    """Batches of tensors, and the data set that they come from, as blazefl asks a loader for both.

    It slices tensors as the plain loop does; the `DataLoader` of PyTorch, which blazefl's examples take, is slower.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, picked: torch.Tensor) -> None:
        self.x, self.y, self.dataset = x, y, picked

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for low in range(0, len(self.dataset), BATCH):
            picked = self.dataset[low : low + BATCH]
            yield self.x[picked], self.y[picked]


class Partitions:
    """The nodes' data: a `PartitionedDataset` of blazefl. Its tensors lie in memory that processes share.

    Attributes:
        number: The round for which loaders are made.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.x = torch.from_numpy(pairs.data.x).share_memory_()
        self.y = torch.from_numpy(pairs.data.y).share_memory_()
        self.rows = torch.from_numpy(np.stack(pairs.data.rows)).share_memory_()
        self.number = 0

    def get_dataloader(self, type_: Any, cid: int | None, batch_size: int | None, generator: Any) -> Loader:
        del type_, batch_size, generator
        assert cid is not None
        rows = self.rows[cid]
        return Loader(self.x, self.y, rows[torch.from_numpy(order(self.number, cid, len(rows)))])

    def set_dataset(self, type_: Any, cid: int | None, dataset: Any) -> None:
        """A node's data stay as they are."""

    def get_dataset(self, type_: Any, cid: int | None) -> Any:
        raise NotImplementedError("Training asks for a loader only.")


def trainers(models: Models, data: Partitions, nodes: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """The three ways in which blazefl trains the nodes of a round."""
    common: dict[str, Any] = {
        "model_selector": models, "model_name": "model", "dataset": data, "device": "cpu", "num_clients": nodes,
        "epochs": 1, "batch_size": BATCH, "lr": RATE, "seed": SEED,
    }  # fmt: skip
    pool = {"state_dir": folder / "states", "num_parallels": 2}
    if version("blazefl").split(".")[0] < "3":
        pool |= {"share_dir": folder / "shared", "ipc_mode": "shared_memory"}
    return {
        "one by one": lambda: contrib.FedAvgBaseClientTrainer(**common),
        "2 threads": lambda: contrib.FedAvgThreadPoolClientTrainer(**common, num_parallels=2),
        "2 processes": lambda: contrib.FedAvgProcessPoolClientTrainer(**common, **pool),
    }


def measure(name: str, quick: bool, how: str, folder: Path) -> Row:
    """One workload with one of the trainers."""
    pairs = Pairs(name, quick)
    workload = pairs.workload
    models, data = Models(workload.model), Partitions(pairs)
    server = contrib.FedAvgBaseServerHandler(
        model_selector=models, model_name="model", dataset=data, global_round=pairs.rounds,
        num_clients=workload.nodes, sample_ratio=workload.sampled / workload.nodes, device="cpu", batch_size=BATCH,
        seed=SEED,
    )  # fmt: skip
    trainer = trainers(models, data, workload.nodes, folder)[how]()
    data.number = pairs.number
    pairs.begin(server.model.state_dict())
    for _ in range(pairs.rounds):
        nodes = server.sample_clients()
        trainer.local_process(server.downlink_package(), nodes)
        for package in trainer.uplink_package():
            server.load(package)
        pairs.stop()
        data.number = pairs.number
        pairs.compare(server.model.state_dict(), nodes)
    return pairs.row("blazefl", "blazefl", how)


def main() -> None:
    """Run one workload and print a row for each trainer."""
    name, quick = arguments(__doc__)
    for how in ("one by one", "2 threads", "2 processes"):
        with tempfile.TemporaryDirectory(prefix="fedplug-bench-") as folder:
            print(measure(name, quick, how, Path(folder)).line(), flush=True)


if __name__ == "__main__":
    main()
