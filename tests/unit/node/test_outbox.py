"""Extra arrays that hooks exchange with an aggregator: inbox and outbox, through a whole federation."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug import DataManager, Experiment, NodePayload, NumpyTrainingPlan, Params
from fedplug.core.errors import RoundError
from fedplug.core.trainer import hook
from fedplug.simulation import Federation
from fedplug_scaffold import FedAverage


class ShiftingPlan(NumpyTrainingPlan):
    """Takes ``shift`` from the inbox, adds the node's sample count and sends it back."""

    def init_dependencies(self):
        return ["import numpy as np", "from fedplug import Params", "from fedplug.core.trainer import hook"]

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 1.0, {"w": np.ones(2)}

    @hook("on_fit_end")
    def answer(self, ctx):
        shift = ctx.inbox["shift"]["s"] if "shift" in ctx.inbox else np.zeros(1)
        ctx.outbox["shift"] = Params.from_arrays({"s": shift + ctx.num_train_data})


class Shifting(FedAverage):
    def __init__(self):
        super().__init__()
        self.sent = Params.from_arrays({"s": np.array([100.0])})
        self.seen = []

    def node_payload(self, node_id, ctx):
        return NodePayload(aux={"shift": self.sent}, training_args={})

    def accumulate(self, state, update):
        self.seen.append((update.node_id, float(update.aux["shift"]["s"][0])))
        super().accumulate(state, update)


def nodes():
    return Federation({"a": (np.zeros((10, 1)), np.zeros(10)), "b": (np.zeros((30, 1)), np.zeros(30))})


def test_arrays_go_to_the_node_and_come_back_to_the_aggregator():
    aggregator = Shifting()
    with Experiment(
        tags="simulation", training_plan_class=ShiftingPlan, aggregator=aggregator, round_limit=2,
        transport=nodes(), progress="quiet", seed=1,
    ) as exp:  # fmt: skip
        exp.run()
    assert aggregator.seen == [("a", 110.0), ("b", 130.0)] * 2


def test_what_cannot_travel_is_named():
    with (
        Experiment(
            tags="simulation", training_plan_class=NonsensePlan, round_limit=1, transport=nodes(), progress="quiet"
        ) as exp,
        pytest.raises(RoundError, match=r"put list into ctx.outbox\['shift'\]"),
    ):
        exp.run()


class NonsensePlan(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "from fedplug.core.trainer import hook"]

    def init_model(self):
        return {"w": np.zeros(2)}

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"))

    def training_step(self, data, target):
        return 1.0, {"w": np.ones(2)}

    @hook("on_fit_end")
    def answer(self, ctx):
        ctx.outbox["shift"] = [1.0]
