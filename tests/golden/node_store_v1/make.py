"""Makes ``node.sqlite`` with the code of part 1, which it must be run by; see README.md beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fedplug.core.data import DataManager
from fedplug.core.messages import TaskKey, TrainRequest
from fedplug.core.numpy_plan import NumpyTrainingPlan
from fedplug.core.params import Params
from fedplug.core.plan_source import bundle_plan
from fedplug.core.plugins import default_host
from fedplug.core.pool import DatasetsFound, NodeJoined, UpdateOffered
from fedplug.node import Node, NodeStore
from fedplug.node.datasets.registry import inspect_file
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport


class Line(NumpyTrainingPlan):
    def init_model(self, model_args):
        return {"slope": np.zeros(1), "offset": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["age"]), self.dataset.column("dose").astype(np.float64))

    def training_step(self, data, target):
        error = data @ self.model()["slope"] + self.model()["offset"] - target
        return float((error**2).mean()), {"slope": 2 * error @ data / len(data), "offset": np.array([2 * error.mean()])}


def main(folder: Path, table: Path) -> None:
    with NodeStore.create(folder, name="Clinic of part 1", node_id="clinic-1", researcher="inproc://golden") as store:
        store.add_dataset(inspect_file(table, name="patients", tags=["demo", "1"], target="dose")[0])
        store.add_dataset(inspect_file(table, name="others", tags=["demo"], description="Grüße")[0])
    url = "inproc://golden"
    pool = ResearcherEndpoint(open_transport(url, default_host()), url)

    def wait(kind):
        while not isinstance(event := pool.next_event(60), kind):
            assert event is not None
        return event

    with Node(folder, url, worker="inline"):
        wait(NodeJoined)
        pool.search(1, ("1",))
        (card,) = wait(DatasetsFound).cards
        request = TrainRequest(
            key=TaskKey(experiment_id="golden", round=0, node_id="clinic-1"), dataset_id=card.dataset_id,
            plan_class="Line", training_args={"epochs": 1}, seed=1, data_seed=1,
        )  # fmt: skip
        start = {"slope": np.zeros(1), "offset": np.zeros(1)}
        pool.train(request, bundle_plan(Line), Params.from_arrays(start))
        wait(UpdateOffered)
    pool.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
