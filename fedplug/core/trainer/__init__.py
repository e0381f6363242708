"""The one local loop of the project, free of any framework: what a plan runs on a node, batch by batch."""

from __future__ import annotations

from fedplug.core.trainer.backend import Backend, BackendState
from fedplug.core.trainer.context import Context
from fedplug.core.trainer.defaults import LoopPoint, collect_outputs, default_hooks
from fedplug.core.trainer.hook_set import HookSet
from fedplug.core.trainer.hooks import Hook, HookPlan, hook, hooks_of
from fedplug.core.trainer.info import TrainerInfo
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.methods import control_variates, fedprox, gradient_clipping
from fedplug.core.trainer.multi import MultiModelTrainer
from fedplug.core.trainer.points import Phase, Scope, Trigger
from fedplug.core.trainer.result import FitResult, HookRow, HookTable
from fedplug.core.trainer.trainer import Trainer

__all__ = [
    "Backend",
    "BackendState",
    "Context",
    "FitResult",
    "Hook",
    "HookPlan",
    "HookRow",
    "HookSet",
    "HookTable",
    "LoopPlan",
    "LoopPoint",
    "MultiModelTrainer",
    "Phase",
    "Scope",
    "Trainer",
    "TrainerInfo",
    "Trigger",
    "collect_outputs",
    "control_variates",
    "default_hooks",
    "fedprox",
    "gradient_clipping",
    "hook",
    "hooks_of",
]
