"""Seven aggregation rules under four attacks: 25 nodes in a simulation, of which 5 and then 10 are hostile.

    python attacks.py [--quick] [--rounds N] [--digits] [--source FOLDER] [--output FILE]

trains a small network (784-64-10) on Fashion-MNIST once for each rule and attack, prints a table of the final accuracy
on the test images in Markdown, and writes the same as JSON with ``--output``. The whole takes some ten minutes,
``--quick`` half a minute (and its figures say nothing). The pictures come from ``apt-get install
dataset-fashion-mnist``; ``--source`` names another folder with its four files. Where they are missing, or with
``--digits``, scikit-learn's 1,797 handwritten digits stand in.

What the hostile nodes do, all at once and in every round:

* sign flip: they send the opposite of what they have learnt, ``w - d`` for an honest ``w + d``;
* times 1000: they send ``w + 1000 d``;
* label flip: they train on wrong labels, 9 for 0, 8 for 1 and so on, and send what they learn;
* a little is enough: Baruch, Baruch, Goldberg: "A Little Is Enough: Circumventing Defenses For Distributed Learning",
  NeurIPS 2019, algorithm 3: they all send ``mean - z std`` of what they would have sent, for each value by itself, with
  the largest ``z`` that should go unnoticed: ``s = floor(n / 2 + 1) - m`` honest nodes must be further away than they,
  so that ``z`` is the ``(n - m - s) / (n - m)`` quantile of the normal distribution (n nodes, m of them hostile).

They work inside an aggregator that wraps the one under test, as hostile nodes that plan together would: it replaces
their updates before the rule sees them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedplug import Aggregator, DataManager, Experiment, Params
from fedplug.core.errors import RoundError
from fedplug.simulation import Federation
from fedplug_robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormClipping, TrimmedMean
from fedplug_scaffold import FedAverage
from fedplug_torch import TorchTrainingPlan

NODES = 25
SOURCE = Path("/usr/share/datasets/fashion-mnist")
ATTACKS = ("none", "sign flip", "times 1000", "label flip", "a little is enough")
TRAINING_ARGS = {"num_updates": 10, "loader_args": {"batch_size": 32}, "optimizer_args": {"lr": 0.1}}


class Pictures(TorchTrainingPlan):
    def init_model(self, model_args):
        return nn.Sequential(nn.Linear(model_args["pixels"], 64), nn.ReLU(), nn.Linear(64, 10))

    def init_optimizer(self, optimizer_args):
        return torch.optim.SGD(self.model().parameters(), lr=optimizer_args["lr"])

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), shuffle=True)

    def training_step(self, data, target):
        return F.cross_entropy(self.model()(data), target)


# the attackers -------------------------------------------------------------------------------------------------------


class Attacked(Aggregator):
    """An aggregator whose updates of hostile nodes are replaced before it sees them.

    Args:
        rule: The aggregator under attack.
        attack: One of `ATTACKS`.
        hostile: The hostile nodes.
    """

    def __init__(self, rule: Aggregator, attack: str, hostile: frozenset[str]):
        self.rule, self.attack, self.hostile = rule, attack, hostile
        self.lengths: list[float] = []  # how far each honest update goes

    def aggregate(self, start, updates, ctx):
        theirs = [update.params for update in updates if update.node_id in self.hostile]
        self.lengths += [length(start, update.params) for update in updates if update.node_id not in self.hostile]
        forged = {
            "sign flip": lambda params: start.map(lambda w, x: w - (x - w), params),
            "times 1000": lambda params: start.map(lambda w, x: w + 1000 * (x - w), params),
            "a little is enough": lambda _: little(theirs, len(updates)),
        }.get(self.attack, lambda params: params)
        with np.errstate(over="ignore", invalid="ignore"):  # an attack may go as far as it likes
            seen = [replaced(each, forged(each.params)) if each.node_id in self.hostile else each for each in updates]
        return self.rule.aggregate(start, seen, ctx)


def replaced(update, params):
    return type(update)(update.node_id, params, update.sample_count, update.steps)


def length(start: Params, params: Params) -> float:
    return math.sqrt(sum(float(((params[name] - start[name]).astype(np.float64) ** 2).sum()) for name in start))


def little(theirs: list[Params], nodes: int) -> Params:
    """The mean of what hostile nodes would have sent, less a few standard deviations."""
    z = little_z(nodes, len(theirs))
    return Params.stack_reduce(theirs, lambda x: x.mean(axis=0) - np.float32(z) * x.std(axis=0))


def little_z(nodes: int, hostile: int) -> float:
    further = math.floor(nodes / 2 + 1) - hostile
    return statistics.NormalDist().inv_cdf((nodes - hostile - further) / (nodes - hostile))


# the data ------------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from a gzipped file in MNIST's format."""
    with gzip.open(path) as file:
        _, kind, axes = struct.unpack(">HBB", file.read(4))
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        if kind != 8:
            raise ValueError(f"{path} holds no unsigned bytes.")
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def fashion(source: Path):
    """Training images and labels, test images and labels."""
    found = []
    for part in ("train", "t10k"):
        images = read_idx(source / f"{part}-images-idx3-ubyte.gz")
        found.append(images.reshape(len(images), -1).astype(np.float32) / np.float32(255))
        found.append(read_idx(source / f"{part}-labels-idx1-ubyte.gz").astype(np.int64))
    return found


def digits():
    """The same of scikit-learn's handwritten digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return [x[:1500], y[:1500], x[1500:], y[1500:]]


def dealt(x, y, alpha: float | None, seed: int = 1) -> dict[str, tuple]:
    """The images of each node: any of them, or, with ``alpha``, of each class a share drawn from Dirichlet(alpha)."""
    rng = np.random.default_rng(seed)
    if alpha is None:
        parts = np.array_split(rng.permutation(len(y)), NODES)
    else:
        pieces: list[list] = [[] for _ in range(NODES)]
        for label in range(10):
            rows = rng.permutation(np.flatnonzero(y == label))
            ends = np.round(np.cumsum(rng.dirichlet([alpha] * NODES))[:-1] * len(rows)).astype(int)
            for piece, some in zip(pieces, np.split(rows, ends), strict=True):
                piece.append(some)
        parts = [np.concatenate(piece) for piece in pieces]
        parts = [part if len(part) else rng.permutation(len(y))[:1] for part in parts]
    return {f"node-{number:02}": (x[part], y[part]) for number, part in enumerate(parts)}


# one run -------------------------------------------------------------------------------------------------------------


def run(rule: Aggregator, attack: str, hostile: int, data, rounds: int, alpha: float | None = None):
    """Final accuracy on the test images, and the aggregator with what it has seen."""
    x, y, test_x, test_y = data
    nodes = dealt(x, y, alpha)
    liars = frozenset(sorted(nodes)[:hostile])
    if attack == "label flip":
        nodes = {node: (a, 9 - b if node in liars else b) for node, (a, b) in nodes.items()}
    attacked = Attacked(rule, attack, liars)
    with Experiment(
        tags="simulation",
        training_plan_class=Pictures,
        model_args={"pixels": x.shape[1]},
        training_args=TRAINING_ARGS,
        aggregator=attacked,
        transport=Federation(nodes),
        seed=1,
        progress="quiet",
    ) as experiment:
        for _ in range(rounds):
            try:
                experiment.run_once()
            except RoundError:  # the model has become so large that no node can train it any more
                break
        model = experiment.training_plan().model()
        with torch.no_grad():
            right = model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y
    return float(right.mean()), attacked


def rules(hostile: int, limit: float) -> dict[str, Callable[[], Aggregator]]:
    """The rules, told how many nodes are hostile where they need to know."""
    return {
        "FedAverage": FedAverage,
        "coordinate-median": CoordinateMedian,
        "trimmed-mean": lambda: TrimmedMean(hostile),
        "geometric-median": GeometricMedian,
        "krum": lambda: Krum(hostile),
        "multi-krum": lambda: MultiKrum(hostile),
        "norm-clipping": lambda: NormClipping(limit),
    }


def table(results: list[dict], hostile: int, skewed: str) -> str:
    """The accuracies with so many hostile nodes, in Markdown."""
    columns = ["none", skewed, *ATTACKS[1:]]
    found = {(each["rule"], each["attack"]): each["accuracy"] for each in results if each["hostile"] == hostile}
    lines = [f"| {hostile} of {NODES} hostile | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    names = dict.fromkeys(rule for rule, _ in found)
    lines += [f"| {rule} | " + " | ".join(f"{found[rule, column]:.3f}" for column in columns) + " |" for rule in names]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Aggregation rules under attack.")
    parser.add_argument("--rounds", type=int, help="rounds of each run (default 40, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="few rounds and pictures, to see that it runs")
    parser.add_argument("--digits", action="store_true", help="scikit-learn's digits instead of Fashion-MNIST")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of Fashion-MNIST's four files")
    parser.add_argument("--alpha", type=float, default=0.3, help="Dirichlet parameter of the column with skewed labels")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 40)
    few = options.digits or not options.source.is_dir()
    if few and not options.digits:
        print(f"No {options.source} (apt-get install dataset-fashion-mnist): digits stand in.", file=sys.stderr)
    data, name = (digits(), "scikit-learn's digits") if few else (fashion(options.source), "Fashion-MNIST")
    if options.quick:
        data = [part[:5000] for part in data]
    torch.set_num_threads(1)
    began = time.monotonic()

    plain = "none", 0, None
    clean, seen = run(FedAverage(), "none", 0, data, rounds)
    limit = round(statistics.median(seen.lengths), 2)
    skewed = f"none, skewed labels (alpha {options.alpha:g})"
    print(f"{name}, {rounds} rounds, norm-clipping at {limit:g} (the median length of honest updates)\n", flush=True)

    results: list[dict] = []
    known = {("FedAverage", *plain): clean}
    for hostile in (5,) if options.quick else (5, 10):
        for rule, make in rules(hostile, limit).items():
            told = hostile if rule in ("trimmed-mean", "krum", "multi-krum") else 0
            for attack in ("none", skewed, *ATTACKS[1:]):
                alpha = options.alpha if attack == skewed else None
                kind = "none" if attack == skewed else attack
                key = (rule, kind, hostile if kind != "none" else told, alpha)
                if key not in known:
                    known[key], _ = run(make(), kind, hostile if kind != "none" else 0, data, rounds, alpha)
                results.append({"rule": rule, "attack": attack, "hostile": hostile, "accuracy": known[key]})
        print(table(results, hostile, skewed) + "\n", flush=True)
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s on {os.cpu_count()} cores, {platform.machine()}")
    if options.output:
        facts = {"data": name, "rounds": rounds, "nodes": NODES, "limit": limit, "seconds": round(seconds)}
        options.output.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("FEDPLUG_DIR", folder)
        main()
