"""One plan for hospitals whose tables differ: ready data set classes and loading plans, over real node processes.

scikit-learn's breast cancer data, split over three hospitals that call the same columns by different names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from node_kit import nodes_below
from sklearn.datasets import load_breast_cancer

from fedplug import DataManager, Experiment, NumpyTrainingPlan
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodePool
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport
from fedplug_sklearn import FedSGDClassifier
from fedplug_torch import TorchTrainingPlan

PLAN_NAMES = ("radius", "texture", "smoothness")
SOURCES = (0, 1, 4)
MEANS, SCALES = (14.0, 19.0, 0.1), (3.5, 4.3, 0.014)
FILES: dict[str, tuple[tuple[str, ...], str]] = {
    "bonn": (("Radius (mm)", "Textur", "Glattheit"), "Befund"),
    "lyon": (("rayon", "texture", "lissage"), "gravité"),
    "oslo": (("radius", "texture", "smoothness"), "diagnosis"),
}
"""What each hospital calls the columns, and the target."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePool]:
    """The hospitals, whose nodes serve one plan after the other; one is a process of its own, with its workers."""
    folder = tmp_path_factory.mktemp("hospitals")
    x, y = load_breast_cancer(return_X_y=True)
    url = "zmq://127.0.0.1:0"
    with (
        ResearcherEndpoint(open_transport(url, default_host()), url) as pool,
        nodes_below(folder) as make,
        ExitStack() as stack,
    ):
        for index, (name, (columns, target)) in enumerate(FILES.items()):
            rows = np.arange(index, len(y), len(FILES))
            lines = [",".join((*columns, "ward", target))]
            cells = ([*(repr(float(v)) for v in x[row, SOURCES]), f"w{row % 3}", str(y[row])] for row in rows)
            lines += map(",".join, cells)
            file = folder / f"{name}.csv"
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            renamed = [
                f"--map={plan}={source}"
                for plan, source in zip((*PLAN_NAMES, "diagnosis"), (*columns, target), strict=True)
                if plan != source
            ]
            node = make(name).init("--approval", "off")
            node.type(
                "dataset", "add", file, "--tags", "tumours", "--target", "diagnosis", "--columns", ",".join(PLAN_NAMES),
                *renamed,
            )  # fmt: skip
            if name == "bonn":
                node.start(pool.address)
            else:
                stack.enter_context(node.here(pool.address))
        yield pool


class TorchPlan(TorchTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "import torch", "from fedplug import TabularDataset"]

    def init_model(self, model_args):
        return torch.nn.Linear(3, 1)  # noqa: F821

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])  # noqa: F821

    def training_data(self):
        dataset = TabularDataset(  # noqa: F821
            ["radius", "texture", "smoothness"],
            "diagnosis",
            transform=lambda row: (row - np.array([14.0, 19.0, 0.1])) / np.array([3.5, 4.3, 0.014]),
        )
        return DataManager(dataset)

    def _loss(self, data, target):
        output = self.model()(data.float())[:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(output, target.float())  # noqa: F821

    def training_step(self, data, target):
        return self._loss(data, target)

    def testing_step(self, data, target):
        right = (self.model()(data.float())[:, 0] > 0) == (target > 0)
        return {"accuracy": right.float().mean()}


class SklearnPlan(FedSGDClassifier):
    def init_dependencies(self):
        return ["import numpy as np", "from fedplug import CustomDataset"]

    def training_data(self):
        class Scaled(CustomDataset):  # noqa: F821 - imported by init_dependencies
            def read(self):
                rows = self.node.table(["radius", "texture", "smoothness"])
                self.rows = (rows - np.array([14.0, 19.0, 0.1])) / np.array([3.5, 4.3, 0.014])
                self.sick = self.node.column("diagnosis")
                assert self.path.suffix == ".csv"

            def __len__(self):
                return len(self.rows)

            def get_item(self, index):
                return self.rows[index], self.sick[index]

        return DataManager(Scaled())


class NumpyPlan(NumpyTrainingPlan):
    def init_dependencies(self):
        return ["import numpy as np", "from fedplug import TabularDataset"]

    def init_model(self, model_args):
        return {"w": np.zeros(3), "b": np.zeros(1)}

    def training_data(self):
        return DataManager(TabularDataset(["radius", "texture", "smoothness"]))  # noqa: F821

    def _outputs(self, data):
        rows = (data - np.array([14.0, 19.0, 0.1])) / np.array([3.5, 4.3, 0.014])
        return rows, 1 / (1 + np.exp(-(rows @ self.model()["w"] + self.model()["b"])))

    def training_step(self, data, target):
        rows, output = self._outputs(data)
        error = (output - target) / len(target)
        loss = -np.log(np.where(target > 0, output, 1 - output)).mean()
        return float(loss), {"w": rows.T @ error, "b": np.array([error.sum()])}

    def testing_step(self, data, target):
        return {"accuracy": float(((self._outputs(data)[1] > 0.5) == (target > 0)).mean())}


@pytest.mark.parametrize(
    ("plan", "model_args"),
    [
        (TorchPlan, {}),
        pytest.param(SklearnPlan, {"n_features": 3, "n_classes": 2, "loss": "log_loss"}, marks=pytest.mark.slow),
        pytest.param(NumpyPlan, {}, marks=pytest.mark.slow),
    ],
)
def test_one_plan_fits_hospitals_whose_columns_have_different_names(pool, plan, model_args):
    args = {"epochs": 2, "loader_args": {"batch_size": 16}, "optimizer_args": {"lr": 0.3}}
    with Experiment(
        training_plan_class=plan, model_args=model_args, training_args=args, round_limit=3, progress="quiet",
        transport=pool, min_nodes=3, connect_timeout=60, seed=1,
    ) as exp:  # fmt: skip
        exp.set_tags("tumours")
        assert exp.run() == 3
        assert accuracy_of(exp) > 0.85  # the majority class alone is 0.63


def accuracy_of(exp: Experiment) -> float:
    """Of the global model, on all data."""
    x, y = load_breast_cancer(return_X_y=True)
    rows = (x[:, SOURCES] - np.array(MEANS)) / np.array(SCALES)
    params = {name: np.asarray(value) for name, value in exp.params().items()}
    weight = next(value for value in params.values() if value.size == 3).reshape(3)
    bias = next(value for value in params.values() if value.size == 1).reshape(())
    return float(((rows @ weight + bias > 0) == (y > 0)).mean())
