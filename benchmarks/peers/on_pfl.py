"""S1, S2 and S3 on pfl: its simulated backend with federated averaging, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from torch import nn

from benchmarks.peers.pairs import Pairs
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
    """Takes the time of a round and has it compared."""

    def __init__(self, pairs: Pairs, trained: list[int]) -> None:
        self._pairs = pairs
        self._trained = trained

    def on_train_begin(self, *, model: Any) -> Any:
        self._pairs.begin(dict(model.pytorch_model.named_parameters()))
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        self._pairs.stop()
        self._pairs.compare(dict(model.pytorch_model.named_parameters()), self._trained)
        self._trained.clear()
        return False, Metrics()


def main() -> None:
    """Run one workload and print its row."""
    name, quick = arguments(__doc__)
    pairs = Pairs(name, quick)
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
    print(pairs.row("pfl", "pfl", "SimulatedBackend, one process", processes=1).line())


if __name__ == "__main__":
    main()
