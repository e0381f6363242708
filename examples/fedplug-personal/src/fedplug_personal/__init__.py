"""Personalised federated learning: a model of its own for each node. Nothing here knows a framework.

Each method is a base class of training plans, to be put ahead of the framework's, and a trainer that it uses::

    class MyPlan(Ditto, TorchTrainingPlan):
        ...

Settings are attributes of the plan; entries of the same name in the experiment's ``model_args`` win.
"""

from __future__ import annotations

from fedplug import Component, hookimpl
from fedplug_personal.ditto import Ditto, DittoTrainer
from fedplug_personal.fedem import FedEM, MixtureTrainer
from fedplug_personal.finetuning import FineTuning, FineTuningTrainer

__all__ = ["Ditto", "DittoTrainer", "FedEM", "FineTuning", "FineTuningTrainer", "MixtureTrainer"]

__fedplug_api__ = 1


@hookimpl
def fedplug_register_training_plans() -> list[Component]:
    return [
        Component("ditto", "fedplug_personal:Ditto", "A personal model near the global one (Li et al., 2021)."),
        Component("fedem", "fedplug_personal:FedEM", "A mixture of shared models (Marfoq et al., 2021)."),
        Component("fine-tuning", "fedplug_personal:FineTuning", "A few local steps before each evaluation."),
    ]
