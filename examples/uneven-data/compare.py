"""How many rounds do FedAverage, FedProx, FedNova and Scaffold need where each node has two of ten classes?

    python compare.py [--quick] [--digits] [--rounds 100] [--updates 10 50] [--seeds 1 2 3] [--output FOLDER]

Ten virtual nodes share Fashion-MNIST's 60,000 training images so that each holds two classes. In every round each makes
so many updates of plain gradient descent (batch 32) on a small network (784-64-10), and the global model is tested on
the 10,000 test images. Prints a table of the rounds until 70 % of them are right, and writes it as JSON, with all
curves, and as a picture (if matplotlib is installed).

``--digits`` takes scikit-learn's 1,797 handwritten digits instead, as does a machine without Debian's package
dataset-fashion-mnist, and says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import DataManager, Experiment
from fedplug.simulation import Federation
from fedplug_scaffold import FedAverage, FedNova, FedProx, Scaffold
from fedplug_torch import TorchTrainingPlan

GOAL = 0.7
NODES = 10
METHODS = {
    "FedAverage": lambda: FedAverage("uniform"),
    "FedProx (mu 0.1)": lambda: FedProx(0.1, "uniform"),
    "FedNova": FedNova,
    "Scaffold": Scaffold,
}


class Plan(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Flatten(), nn.Linear(model_args["pixels"], 64), nn.ReLU(), nn.Linear(64, 10))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=32)

    def training_step(self, data, target):
        return F.cross_entropy(self.forward(data), target)


def images(digits: bool) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Name of the data, training images and labels, test images and labels."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fashion-mnist"))
    from fashion_data import load

    if not digits:
        try:
            return ("Fashion-MNIST", *load("train"), *load("test"))
        except FileNotFoundError as error:
            print(f"{error}\nHandwritten digits of scikit-learn stand in.", file=sys.stderr)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    return "digits", x[:1400], y[:1400], x[1400:], y[1400:]


def two_classes_each(labels: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Rows for each of ten nodes: half of one class and half of the next."""
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(np.flatnonzero(labels == digit)), 2) for digit in range(10)]
    return [np.concatenate([halves[node][0], halves[(node + 1) % 10][1]]) for node in range(NODES)]


def curve(make, hospitals, pixels, test, rounds, updates, seed, lr) -> list[float]:
    """Accuracy on the test images after each round; ends when the goal is reached twice in a row."""
    x, y = torch.from_numpy(test[0]), test[1]
    found: list[float] = []
    with Experiment(
        tags="#images",
        transport=hospitals,
        training_plan_class=Plan,
        model_args={"pixels": pixels},
        training_args={"num_updates": updates, "optimizer_args": {"lr": lr}, "log_interval": 0},
        aggregator=make(),
        seed=seed,
        progress="quiet",
    ) as exp:
        for _ in range(rounds):
            exp.run(1)
            with torch.no_grad():
                found.append(float((exp.training_plan().model()(x).argmax(1).numpy() == y).mean()))
            if len(found) >= 2 and min(found[-2:]) >= GOAL:
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150, help="give up after so many (default: 150)")
    parser.add_argument("--updates", type=int, nargs="+", default=[10, 50], help="local updates a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run each")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate of the nodes")
    parser.add_argument("--digits", action="store_true", help="small data, for a first look")
    parser.add_argument("--quick", action="store_true", help="digits, one seed, 30 rounds of 10 updates")
    parser.add_argument("--output", type=Path, default=Path("uneven-data"), help="folder for table, curves and picture")
    options = parser.parse_args()
    if options.quick:
        options.digits, options.seeds, options.rounds, options.updates = True, [1], 30, [10]
    torch.set_num_threads(1)
    name, x, y, *test = images(options.digits)
    parts = two_classes_each(y)
    hospitals = Federation({f"node-{i}": (x[rows], y[rows]) for i, rows in enumerate(parts)}, tags="#images")
    pixels = int(np.prod(x.shape[1:]))
    began, curves = time.monotonic(), {}
    for updates in options.updates:
        for method, make in METHODS.items():
            runs = [curve(make, hospitals, pixels, test, options.rounds, updates, s, options.lr) for s in options.seeds]
            curves[f"{method}, {updates} updates"] = runs
            print(f"{method}, {updates} updates: rounds {[reached(run) for run in runs]}", file=sys.stderr)
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"data": name, "goal": GOAL, "seconds": time.monotonic() - began, "lr": options.lr, "curves": curves}
    (options.output / "curves.json").write_text(json.dumps(report, indent=1))
    print(table(curves, options.updates, options.rounds))
    draw(curves, options, name)


def reached(run: list[float]) -> int | None:
    """The first round, from 1, that ends at the goal."""
    return next((number + 1 for number, accuracy in enumerate(run) if accuracy >= GOAL), None)


def table(curves: dict[str, list[list[float]]], updates: list[int], rounds: int) -> str:
    """Median rounds to the goal as Markdown."""
    lines = ["| method | " + " | ".join(f"{n} updates a round" for n in updates) + " |"]
    lines.append("| --- |" + " --- |" * len(updates))
    for method in METHODS:
        cells = []
        for count in updates:
            found = [reached(run) for run in curves[f"{method}, {count} updates"]]
            known = [each if each is not None else rounds + 1 for each in found]
            middle = sorted(known)[len(known) // 2]
            cells.append(f"more than {rounds}" if middle > rounds else f"{middle} ({min(known)} to {max(known)})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(curves: dict[str, list[list[float]]], options: argparse.Namespace, name: str) -> None:
    """Accuracy over rounds, of the first seed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("No picture: pip install matplotlib.", file=sys.stderr)
        return
    figure, panels = plt.subplots(1, len(options.updates), figsize=(5 * len(options.updates), 3.6), squeeze=False)
    for panel, updates in zip(panels[0], options.updates, strict=True):
        for method in METHODS:
            run = curves[f"{method}, {updates} updates"][0]
            panel.plot(range(1, len(run) + 1), run, label=method, linewidth=1.5)
        panel.axhline(GOAL, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title=f"{name}, {updates} updates a round", xlabel="round", ylabel="test accuracy", ylim=(0, 1))
        panel.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(options.output / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
