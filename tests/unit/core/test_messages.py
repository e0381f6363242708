"""Messages are plain data that costs little: a round has several for each node."""

from __future__ import annotations

import gc

import pytest

from fedplug.core.context import RollEntry
from fedplug.core.messages import LogLine, Progress, TaskFailure, TaskKey, TrainReply, TrainRequest

KEY = TaskKey(experiment_id="experiment", round=3, node_id="paris")


@pytest.mark.parametrize(
    "message",
    [
        KEY,
        TrainRequest(key=KEY, dataset_id="data", plan_class="Plan", model_args={"layers": [64, 10]}),
        TrainReply(key=KEY, sample_count=60, metrics={"loss": 0.5}),
        TaskFailure(key=KEY, code="plan-raised", text="It failed."),
        Progress(key=KEY, step=1, metrics={"loss": 0.5}),
        LogLine(level="warning", text="Beware.", key=KEY),
        RollEntry(0.5, "paris", "replied"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_collector_of_circles_does_not_look_at_what_is_in_none(message: object) -> None:
    """A round makes many of them, and each would bring the next look at all objects of the process nearer."""
    assert not gc.is_tracked(message)
