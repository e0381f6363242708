"""S1, S2 and S3 on pfl: its simulated backend with federated averaging, in one process and in two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import distributed, nn

from benchmarks.peers.pairs import SEED, Pairs
from benchmarks.peers.rows import arguments
from benchmarks.plain_loop import BATCH, RATE


def model_for_pfl(kind: type[nn.Module]) -> nn.Module:
    """The workload's model with the two methods that pfl asks for."""

    class Model(kind):  # type: ignore[misc, valid-type]
        """The same parameters and scores."""

        def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.train()
            return F.cross_entropy(self(x), y)

        def metrics(self, x: torch.Tensor, y: torch.Tensor) -> Mapping[str, Any]:
            return {"loss": Weighted(F.cross_entropy(self(x), y, reduction="sum").item(), len(y))}

    return Model()


class AfterEachRound(TrainingProcessCallback):  # type: ignore[misc] # pfl is not installed where types are checked
    """Takes the time of a round and has it compared, by the first process if there are several."""

    def __init__(self, pairs: Pairs, trained: list[int]) -> None:
        self._pairs = pairs
        self._trained = trained

    def on_train_begin(self, *, model: Any) -> Any:
        self._pairs.begin(dict(model.pytorch_model.named_parameters()))
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        self._pairs.stop()
        if not distributed.is_initialized():
            self._pairs.compare(dict(model.pytorch_model.named_parameters()), self._trained)
        else:
            nodes: list[list[int]] = [[] for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(nodes, self._trained)
            if distributed.get_rank() == 0:
                self._pairs.compare(
                    dict(model.pytorch_model.named_parameters()), [node for each in nodes for node in each]
                )
            distributed.barrier()  # the others must not begin the next round before
        self._trained.clear()
        return False, Metrics()


def measure(pairs: Pairs) -> None:
    """All rounds of a workload."""
    np.random.seed(SEED)  # noqa: NPY002 # pfl's, from which all processes take the same users
    data, workload = pairs.data, pairs.workload
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    trained: list[int] = []

    def user(node: int) -> Any:
        trained.append(node)
        picked = data.picked(pairs.number, node)
        return PyTorchTensorDataset((x[picked], y[picked]), user_id=str(node))

    users = FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(workload.nodes))))
    net = model_for_pfl(workload.model)
    FederatedAveraging().run(
        # The first round is evaluated whatever is asked for, and is among those that are not counted.
        NNAlgorithmParams(
            central_num_iterations=pairs.rounds, evaluation_frequency=10**9, train_cohort_size=workload.sampled,
            val_cohort_size=0,
        ),
        SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0)),
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE),
        NNEvalHyperParams(local_batch_size=None),
        [AfterEachRound(pairs, trained)],
        send_metrics_to_platform=False,  # which would print them after each round
    )  # fmt: skip


def in_two_processes(name: str, quick: bool) -> None:
    """Start this module again, twice, by PyTorch's launcher, as pfl's documentation does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = [
        "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}",
        "-m", "benchmarks.peers.on_pfl", name, *(["--quick"] if quick else []),
    ]  # fmt: skip
    subprocess.run([sys.executable, *launch], check=True, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"})


def main() -> None:
    """Run one workload and print its rows."""
    name, quick = arguments(__doc__)
    if distributed.is_initialized():
        pairs = Pairs(name, quick, os.getppid())
        measure(pairs)
        if distributed.get_rank() == 0:
            print(pairs.row("pfl", "pfl", "SimulatedBackend, 2 processes").line(), flush=True)
        distributed.destroy_process_group()
        return
    pairs = Pairs(name, quick)
    measure(pairs)
    print(pairs.row("pfl", "pfl", "SimulatedBackend, one process").line(), flush=True)
    in_two_processes(name, quick)


if __name__ == "__main__":
    main()
