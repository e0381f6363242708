from __future__ import annotations

from pathlib import Path

import numpy as np

from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.node.datasets.registry import inspect_file
from fedplug.node.jobs import Job


def make_job(folder, do="double", *, params=None, aux=None, number=0, **model_args):
    """A job on a small table in ``folder`` that makes the stand-in trainer do something."""
    path = Path(folder) / "table.csv"
    if not path.exists():
        path.write_text("x,y\n1,0\n2,1\n3,0\n")
    record, _ = inspect_file(path, tags=["t"], target="y")
    request = TrainRequest(
        key=TaskKey(experiment_id="exp", round=number, node_id="n"),
        dataset_id=record.dataset_id,
        plan_class="Plan",
        model_args={"do": do, **model_args},
    )
    params = Params.from_arrays({"w": np.arange(6.0).reshape(2, 3)}) if params is None else params
    return Job(request, PlanBundle("Plan", "class Plan: pass"), params, aux or {}, record)
