"""Rounds that nobody ran, for tests of what shows results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import Progress, TaskKey, TrainReply
from fedplug.core.params import Params
from fedplug.researcher.history import History

PARAMS = Params.from_arrays({"w": np.zeros(2, dtype=np.float32)})


@dataclass(frozen=True)
class Result(RoundResult):
    """A round's result with merged values that are no single numbers."""

    values: Mapping[str, Any] = field(default_factory=dict)
    node_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def key(number: int, node: str) -> TaskKey:
    return TaskKey(experiment_id="e", round=number, node_id=node)


def reply(node: str, number: int, metrics: Mapping[str, float], samples: int = 10, steps: int = 3) -> TrainReply:
    return TrainReply(
        key=key(number, node),
        sample_count=samples,
        steps=steps,
        metrics=dict(metrics),
        timing={"train": 2.0, "setup": 0.5},
    )


def add(
    history: History,
    number: int,
    nodes: Mapping[str, Mapping[str, float]],
    *,
    metrics: Mapping[str, float] | None = None,
    dropped: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    node_values: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    trained: bool = True,
    traffic: Mapping[str, int] | None = None,
) -> None:
    """Add a round in which each node reports these metrics."""
    result = Result(
        params=PARAMS,
        replies={node: reply(node, number, each) for node, each in nodes.items()},
        dropped=dropped or {},
        metrics=metrics or {},
        seconds=4.0,
        traffic={"bytes_sent": 100, "bytes_received": 50} if traffic is None else traffic,
        values=values or {},
        node_values=dict.fromkeys(nodes, node_values or {}),
    )
    history.add_round(RoundContext(round=number, node_ids=tuple(nodes)), result, names, trained=trained)


def tick(history: History, node: str, number: int, step: int, phase: str = "train", **metrics: float) -> None:
    history.progress(node, Progress(key=key(number, node), step=step, phase=phase, metrics=metrics))


def some_history(nodes: int = 3, rounds: int = 3, *, private: bool = False) -> History:
    """A whole little experiment: losses, tests, a confusion matrix, a dropped node, training curves."""
    history = History()
    ids = [f"n{i:03d}" for i in range(nodes)]
    names = {node: f"clinic-{i}" for i, node in enumerate(ids)}
    for number in range(rounds):
        history.round_started(RoundContext(round=number), ids)
        told = {}
        for place, node in enumerate(ids):
            for step in (1, 2, 3):
                tick(history, node, number, step, loss=1 / (1 + number) + place / 100 - step / 1000)
            loss, accuracy = 1 / (1 + number) + place / 100, number / rounds + place / 1000
            told[node] = {"loss": loss, "test_global_accuracy": accuracy, "test_local_accuracy": accuracy + 0.1}
            if private:
                told[node] |= {"dp_epsilon": 1.0 + number + place / 10, "dp_delta": 1e-5}
        if number == 1 and nodes > 1:
            del told[ids[-1]]
        merged = {name: float(np.mean([each[name] for each in told.values()])) for name in told[ids[0]]}
        merged |= {name: max(each[name] for each in told.values()) for name in merged if name.startswith("dp_")}
        add(
            history,
            number,
            told,
            metrics=merged,
            dropped={ids[-1]: "it ran out of memory"} if number == 1 and nodes > 1 else {},
            values={"test_global_confusion_matrix": np.array([[8, 2], [1, 9 + number]])},
            names=names,
        )
    return history
