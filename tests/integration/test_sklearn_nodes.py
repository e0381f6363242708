"""scikit-learn over node processes: CSV files at four hospitals whose patients differ, and what came out of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedplug import DataManager, Experiment
from fedplug.simulation import Federation
from fedplug_sklearn import FedSGDClassifier

NODES = ("lyon", "nice", "oslo", "paris")
ROUNDS = 12


class CancerPlan(FedSGDClassifier):
    def training_data(self):
        manager = DataManager(self.dataset)
        mean, spread = (np.array(self.model_args()[name]) for name in ("mean", "spread"))
        return DataManager((manager.dataset - mean) / spread, manager.target)

    def init_model(self, model_args):
        return super().init_model({k: v for k, v in model_args.items() if k not in ("mean", "spread")})


def split() -> tuple[dict[str, pd.DataFrame], pd.DataFrame, Any]:
    """A frame for each node (labels by Dirichlet 0.5), one of held-out rows, and how to standardise."""
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.rename(columns=lambda name: name.replace(" ", "_"))
    rng = np.random.default_rng(3)
    order = rng.permutation(len(frame))
    held_out, rest = frame.iloc[order[:142]], frame.iloc[order[142:]]
    parts: dict[str, list[int]] = {node: [] for node in NODES}
    for label in (0, 1):
        rows = np.flatnonzero(rest["target"].to_numpy() == label)
        cuts = (np.cumsum(rng.dirichlet([0.5] * 4)) * len(rows)).astype(int)[:-1]
        for node, some in zip(NODES, np.split(rows, cuts), strict=True):
            parts[node] += some.tolist()
    scaler = StandardScaler().fit(rest.drop(columns="target").to_numpy())
    return {node: rest.iloc[rows] for node, rows in parts.items()}, held_out, scaler


def train(transport: Any, scaler: Any, ready: Any = None, **args: Any) -> Experiment:
    sizes = {"n_features": 30, "n_classes": 2, "loss": "log_loss", "alpha": 0.001}
    exp = Experiment(
        training_plan_class=CancerPlan,
        model_args={**sizes, "mean": scaler.mean_.tolist(), "spread": scaler.scale_.tolist()},
        training_args={"epochs": 1, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 0.05}, **args},
        round_limit=ROUNDS, transport=transport, min_nodes=4 if ready else None, seed=5, progress="quiet",
    )  # fmt: skip
    with exp:
        if ready:
            ready(exp.pool().description)
        exp.set_tags("#cancer")
        exp.run()
    return exp


@pytest.fixture
def start_csv_nodes(make_node: Any, tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts the nodes: Lyon and Nice as processes, the others in this one, which is faster."""
    with ExitStack() as stack:

        def start(url: str, frames: dict[str, pd.DataFrame]) -> None:
            for name, frame in frames.items():
                file = tmp_path / f"{name}.csv"
                frame.to_csv(file, index=False)
                node = make_node(name).add(file, name="patients", tags=["#cancer"], target="target")
                if name in ("lyon", "nice"):
                    node.start(url)
                else:
                    stack.enter_context(node.here(url))

        yield start


def test_four_hospitals_train_the_model_that_all_their_patients_would_give(
    start_csv_nodes: Any, tmp_path: Path
) -> None:
    frames, held_out, scaler = split()
    apart = train("zmq://127.0.0.1:0", scaler, lambda url: start_csv_nodes(url, frames))
    simulated = train(Federation(frames, tags="#cancer", target="target"), scaler)
    assert apart.params() == simulated.params(), "the same bits as without a network"

    everybody = Federation({"all": pd.concat(frames.values())}, tags="#cancer", target="target")
    pooled = train(everybody, scaler).training_plan().model()
    model = make_pipeline(scaler, apart.training_plan().model())
    x, y = held_out.drop(columns="target").to_numpy(), held_out["target"].to_numpy()
    assert model.score(x, y) > 0.94
    assert model.score(x, y) > make_pipeline(scaler, pooled).score(x, y) - 0.02
