"""The getting-started experiment: a small CNN learns Fashion-MNIST on three nodes.

docs/getting-started.md walks through it. In short:

    python fashion_data.py       once: writes the nodes' data and says how to start the nodes
    fedplug run experiment.py    waits for the three nodes at zmq://127.0.0.1:7400 and trains

An argument names the folder of the data, if it is not fashion-mnist.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from fedplug import DataManager, Experiment
from fedplug_torch import TorchTrainingPlan


# Here we define the model to be used.
# You can use any class name (here 'Net')
class MyTrainingPlan(TorchTrainingPlan):
    # Defines and return model
    def init_model(self, model_args):
        return self.Net(model_args=model_args)

    class Net(nn.Module):
        def __init__(self, model_args):
            super().__init__()  # restored

            fc_hidden_layer_size = model_args.get("fc_hidden_size", 128)

            self.conv1 = nn.Conv2d(1, 32, 3, 1)
            self.conv2 = nn.Conv2d(32, 64, 3, 1)
            self.dropout1 = nn.Dropout(0.25)
            self.dropout2 = nn.Dropout(0.5)
            self.fc1 = nn.Linear(9216, fc_hidden_layer_size)
            self.fc2 = nn.Linear(fc_hidden_layer_size, 10)

        def forward(self, x):
            x = self.conv1(x)
            x = F.relu(x)
            x = self.conv2(x)
            x = F.relu(x)
            x = F.max_pool2d(x, 2)
            x = self.dropout1(x)
            x = torch.flatten(x, 1)
            x = self.fc1(x)
            x = F.relu(x)
            x = self.dropout2(x)
            x = self.fc2(x)

            output = F.log_softmax(x, dim=1)
            return output

    def training_data(self):
        return DataManager(self.dataset.column("images"), self.dataset.column("labels"), shuffle=True)  # restored

    def training_step(self, data, target):
        output = self.forward(data)
        loss = torch.nn.functional.nll_loss(output, target)
        return loss

    def init_optimizer(self, optimizer_args):
        return torch.optim.Adam(self.model().parameters(), lr=optimizer_args["lr"])

    def init_dependencies(self):
        return ["import torch", "import torch.nn as nn", "import torch.nn.functional as F"]  # restored


TRAINING_ARGS = {
    "num_updates": 100,
    "loader_args": {"batch_size": 48},
    "optimizer_args": {"lr": 1e-3},
}


def accuracy(model, images, labels):
    """The share of images whose class the model names."""
    model.eval()  # no dropout
    with torch.no_grad():
        right = [
            (model(data).argmax(1) == target).sum().item()
            for data, target in zip(torch.tensor(images).split(1000), torch.tensor(labels).split(1000), strict=True)
        ]
    return sum(right) / len(labels)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else "fashion-mnist")
    with np.load(folder / "test.npz") as test:
        images, labels = test["images"], test["labels"]
    with Experiment(
        tags="#fashion-mnist",
        training_plan_class=MyTrainingPlan,
        model_args={"fc_hidden_size": 128},
        training_args=TRAINING_ARGS,
        round_limit=5,
        min_nodes=3,
        tensorboard=True,
        seed=1,
    ) as exp:
        while exp.round_current() < exp.round_limit():
            exp.run_once()
            share = accuracy(exp.training_plan().model(), images, labels)
            print(f"round {exp.round_current()}: accuracy on the test images {share:.4f}", flush=True)
        print(f"model: {exp.experimentation_path() / 'model.safetensors'}")
        print(f"curves: tensorboard --logdir {exp.experimentation_path() / 'runs'}")
