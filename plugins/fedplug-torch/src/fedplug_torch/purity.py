"""What a plan's code is, as far as it tells: nothing but arithmetic on its model and its batch, or more.

A recorded step is played back without its code being run. That is the same only if the code reads and writes nothing
that could be another thing the next time, and does nothing that somebody sees (`impure`). A plan that is set up once
for many trainings must not even ask for some things, or its nodes would get other answers (`aware`). Attributes of the
plan, its modules and their classes are watched elsewhere (`fedplug_torch.plan_state`).
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

from torch import nn

from fedplug.core.code_reach import Reach, awareness
from fedplug.core.training_plan import TrainingPlan
from fedplug_torch.plan_parts import FRAMEWORKS, is_fixed, own_classes

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_SETTING_UP = frozenset(("init_model", "init_optimizer", "training_data", "init_dependencies", "init_helpers"))
_NEVER = frozenset(("testing_step", "predict", "init_dependencies", "init_helpers"))


def impure(plan: TorchTrainingPlan, model: nn.Module) -> str:
    """What a plan's step depends on besides its model and its batch, in words; empty if nothing is seen."""
    reach = Reach(FRAMEWORKS, is_fixed)
    for kind in own_classes(plan, model):
        of_plan = issubclass(kind, TrainingPlan)
        reach.add_class(kind, _SETTING_UP | _NEVER if of_plan else frozenset())
    for holder in (plan, *model.modules()):
        for value in vars(holder).values():
            if issubclass(type(value), FunctionType | type):  # not isinstance, which asks what stands for another
                reach.add(type(holder).__name__, value)
    return reach.problems[0] if reach.problems else ""


def aware(plan: TorchTrainingPlan, model: nn.Module) -> str:
    """What a plan asks for, or does, that its own loop would answer or show otherwise; empty if nothing is seen."""
    held = [value for holder in (plan, *model.modules()) for value in vars(holder).values()]
    functions = [value for value in held if type(value) is FunctionType]
    return awareness([type(plan), *own_classes(plan, model)], functions)
