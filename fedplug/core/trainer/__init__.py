"""The one local loop of the project, free of any framework: what a plan runs on a node, batch by batch."""

from __future__ import annotations

from fedplug.core.trainer.backend import Backend
from fedplug.core.trainer.loop import LoopPoint, TrainResult, evaluate, train
from fedplug.core.trainer.loop_plan import LoopPlan

__all__ = ["Backend", "LoopPlan", "LoopPoint", "TrainResult", "evaluate", "train"]
