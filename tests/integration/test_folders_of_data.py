"""Folders of images, volumes, signals and genotypes at real nodes, whose plans read them sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from node_kit import Node, nodes_below
from sklearn.datasets import load_digits
from torch import nn

from fedplug import DataManager, Experiment, FedplugWarning, ImageFolderDataset, MedicalFolderDataset, SignalDataset
from fedplug.core.plugins import default_host
from fedplug.core.pool import NodePool
from fedplug.node.datasets.mnist import MnistType
from fedplug.node.datasets.registry import inspect_file
from fedplug.protocol import ResearcherEndpoint
from fedplug.transports.registry import open_transport
from fedplug_sklearn import FedSGDClassifier
from fedplug_torch import TorchTrainingPlan

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodePool, dict[str, Node]]]:
    """Two nodes that serve all tests, and their researcher. Each test adds its own data sets.

    Paris is a process of its own, whose workers load each plan's framework; Oslo runs in this one, which has them.
    """
    url = "zmq://127.0.0.1:0"
    folder = tmp_path_factory.mktemp("nodes")
    with ResearcherEndpoint(open_transport(url, default_host()), url) as pool, nodes_below(folder) as make:
        nodes = {name: make(name).prepare() for name in ("paris", "oslo")}
        nodes["paris"].start(pool.address)
        with nodes["oslo"].here(pool.address):
            yield pool, nodes


@pytest.fixture
def train(hospitals: tuple[NodePool, dict[str, Node]]) -> Any:
    """Return ``train(plan, data, **settings)``: the experiment, run; ``data`` has a data set for each node."""
    pool, nodes = hospitals

    def run(plan: type, data: Mapping[str, tuple[Path, Mapping[str, Any]]], **settings: Any) -> Experiment:
        for name, (folder, about) in data.items():
            nodes[name].add(folder, name=plan.__name__, tags=[plan.__name__], **about)
        exp = Experiment(
            training_plan_class=plan, transport=pool, min_nodes=2, nodes=list(data), seed=1, progress="quiet",
            **settings,
        )  # fmt: skip
        with exp:
            exp.set_tags(plan.__name__)
            exp.run()
        return exp

    return run


class Volumes(TorchTrainingPlan):
    """Tells bright volumes from dark ones, by their mean."""

    def init_model(self):
        return nn.Linear(2, 2)

    def init_optimizer(self):
        return torch.optim.SGD(self.model().parameters(), lr=0.5)

    def training_data(self):
        dataset = MedicalFolderDataset(["T1", "T2"], target="diagnosis", target_transform={"no": 0, "yes": 1}.get)
        return DataManager(dataset, batch_size=4)

    def init_dependencies(self):
        return ["from fedplug import MedicalFolderDataset", "from torch.nn import functional"]

    def training_step(self, data, target):
        assert data["T1"].shape[1:] == (4, 3, 2)
        features = torch.stack([data["T1"].mean((1, 2, 3)), data["T2"].mean((1, 2, 3))], 1)
        return functional.cross_entropy(self.model()(features), target)  # noqa: F821 - a dependency of the plan


def hospital(folder: Path, names: tuple[str, ...], table: str, index: str) -> Path:
    """Eight subjects, their first modality called by one of ``names`` in turn; the last one has no second modality."""
    import nibabel

    rng = np.random.default_rng(len(names))
    lines = [f"{index},age,diagnosis"]
    for number in range(8):
        sick = number % 2
        subject = folder / f"patient-{number:03}"
        for name in (names[number % len(names)], *(() if number == 7 else ("T2w",))):
            (subject / name).mkdir(parents=True)
            voxels = (rng.normal(sick, 0.1, (4, 3, 2)) * 100).astype(np.int16)
            image = nibabel.Nifti1Image(voxels, np.eye(4))
            image.header.set_slope_inter(0.01, 0)
            image.to_filename(subject / name / "scan.nii.gz")
        lines.append(f"patient-{number:03},{40 + number},{'yes' if sick else 'no'}")
    (folder / table).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow  # signals, below, come in two ways as well
def test_one_torch_plan_trains_at_hospitals_that_call_their_modalities_otherwise(tmp_path, train):
    first = hospital(tmp_path / "first", ("T1_philips", "T1_siemens"), "demographics.csv", "id")
    second = hospital(tmp_path / "second", ("T1",), "people.tsv", "patient")
    people = second / "people.tsv"
    people.write_text(people.read_text().replace(",", "\t"))
    nodes = {
        "paris": (first, {"type": "medical", "options": {"modalities": "T1=T1_philips|T1_siemens; T2=T2w"}}),
        "oslo": (
            second,
            {"type": "medical", "options": {"modalities": "T2=T2w", "demographics": "people.tsv", "index": "patient"}},
        ),
    }
    exp = train(Volumes, nodes, training_args={"epochs": 2}, round_limit=8)
    losses = [record["value"] for record in exp.history.records() if record["metric"] == "loss"]
    samples = {record["node_id"]: record["samples"] for record in exp.history.records() if record["phase"] == "train"}
    assert losses[-1] < losses[0] / 3, "it has learned from both"
    assert samples["paris"] == samples["oslo"] == 7, "the subject without a second modality is left out"


class Digits(FedSGDClassifier):
    def training_data(self):
        return DataManager(ImageFolderDataset(), batch_size=32)

    def init_dependencies(self):
        return [*super().init_dependencies(), "from fedplug import ImageFolderDataset"]


def digit_folder(folder: Path, names: Mapping[int, str], rows: slice) -> Path:
    from PIL import Image

    images, labels = load_digits(return_X_y=True)
    for place, (pixels, label) in enumerate(zip(images[rows], labels[rows], strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.reshape(8, 8) * 15).astype(np.uint8)).save(folder / names[label] / f"{place}.png")
    return folder


def test_a_scikit_learn_plan_learns_digits_from_folders_of_images(tmp_path, train):
    here = {digit: f"{digit}" for digit in range(10)}
    there = {digit: f"Ziffer {digit}" for digit in range(10)}
    classes = "; ".join(f"{digit}={name}" for digit, name in there.items())
    nodes = {
        "paris": (digit_folder(tmp_path / "paris", here, slice(0, 400)), {"type": "images"}),
        "oslo": (
            digit_folder(tmp_path / "oslo", there, slice(400, 800)),
            {"type": "images", "options": {"classes": classes}},
        ),
    }
    args = {"epochs": 2, "optimizer_args": {"lr": 0.4}}
    exp = train(
        Digits, nodes, training_args=args, model_args={"n_features": 64, "n_classes": 10, "loss": "log_loss"},
        round_limit=3,
    )  # fmt: skip
    images, labels = load_digits(return_X_y=True)
    held_out = (images[800:] * 15).astype(np.uint8) / 255
    assert exp.training_plan().model().score(held_out, labels[800:]) > 0.85


class Clothes(FedSGDClassifier):
    def training_data(self):
        manager = DataManager(self.dataset, batch_size=64)
        return DataManager(manager.dataset[:6000] / 255, manager.target[:6000], **manager.loader_args)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST: sudo apt-get install dataset-fashion-mnist")
def test_fashion_mnist_is_learned_from_its_own_files(train):
    exp = train(
        Clothes, {"paris": (FASHION, {"type": "mnist"})}, training_args={"epochs": 1, "optimizer_args": {"lr": 0.05}},
        model_args={"n_features": 784, "n_classes": 10, "loss": "log_loss"}, round_limit=4,
    )  # fmt: skip
    record, _ = inspect_file(FASHION, name="test", type="mnist", tags=["#t"], options={"part": "t10k"})
    held_out = MnistType().open(record)
    images = held_out.column("x").reshape(10_000, 784) / 255
    assert exp.training_plan().model().score(images, held_out.column("y")) > 0.75


class Variants(FedSGDClassifier):
    """Two variants by name, so that it does not matter in which order a node's file has them."""

    def training_data(self):
        dosage = self.dataset.table(["1:10:A:G", "1:20:A:G"])
        return DataManager(dosage, self.dataset.column("ill"), batch_size=8)


def cohort(folder: Path, order: tuple[int, ...], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    names = [f"s{number}" for number in range(40)]
    ill = rng.integers(0, 2, 40)
    dosage = {10: np.where(ill == 1, 2, 0), 20: rng.integers(0, 3, 40)}
    text = (
        "##fileformat=VCFv4.2\n##contig=<ID=1,length=1000>\n"
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(names) + "\n"
    )
    for position in order:
        calls = "\t".join(("0/0", "0/1", "1/1")[count] for count in dosage[position])
        text += f"1\t{position}\t.\tA\tG\t.\t.\t.\tGT\t{calls}\n"
    (folder / "calls.vcf").write_text(text)
    shuffled = rng.permutation(40)
    rows = "".join(f"{names[number]},{ill[number]}\n" for number in shuffled)
    (folder / "samples.csv").write_text("sample,ill\n" + rows)
    return folder


def test_genotypes_are_joined_with_the_table_of_samples(tmp_path, train):
    nodes = {
        "paris": (cohort(tmp_path / "paris", (10, 20), 1), {"type": "genomics"}),
        "oslo": (cohort(tmp_path / "oslo", (20, 10), 2), {"type": "genomics"}),
    }
    exp = train(
        Variants, nodes, training_args={"epochs": 5, "optimizer_args": {"lr": 0.1}},
        model_args={"n_features": 2, "n_classes": 2, "loss": "log_loss"}, round_limit=3,
    )  # fmt: skip
    model = exp.training_plan().model()
    assert model.predict([[2, 1], [0, 1]]).tolist() == [1, 0]


class Waves(TorchTrainingPlan):
    """Fast waves and slow ones, in windows of a second."""

    def init_model(self):
        return nn.Sequential(nn.Conv1d(1, 4, 9, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(84, 2))

    def init_optimizer(self):
        return torch.optim.Adam(self.model().parameters(), lr=0.01)

    def training_data(self):
        dataset = SignalDataset("wave", target="kind", window=1.0, rate=50, target_transform={"slow": 0, "fast": 1}.get)
        return DataManager(dataset, batch_size=8)

    def init_dependencies(self):
        return ["from fedplug import SignalDataset", "from torch.nn import functional"]

    def training_step(self, data, target):
        assert data.shape[1:] == (1, 50)
        return functional.cross_entropy(self.model()(data), target)  # noqa: F821 - a dependency of the plan


def waves(rate: int) -> dict[str, tuple[str, Any]]:
    times = np.arange(10 * rate) / rate
    kinds = {"slow": 1.0, "fast": 6.0}
    return {f"r{i}": (kind, np.sin(2 * np.pi * kinds[kind] * times + i)) for i, kind in enumerate(["slow", "fast"] * 4)}


def test_signals_of_two_formats_and_rates_train_one_plan(tmp_path, train):
    import edfio
    import wfdb

    for name in ("edf", "wfdb"):
        (tmp_path / name).mkdir()
        rows = "".join(f"{record},{kind}\n" for record, (kind, _) in waves(100).items())
        (tmp_path / name / "labels.csv").write_text("record,kind\n" + rows)
    for record, (_, wave) in waves(100).items():
        channel = edfio.EdfSignal(wave, 100, label="wave", physical_range=(-1, 1))
        edfio.Edf([channel]).write(tmp_path / "edf" / f"{record}.edf")
    for record, (_, wave) in waves(250).items():
        wfdb.wrsamp(record, 250, ["mV"], ["W1"], wave[:, None], fmt=["16"], write_dir=str(tmp_path / "wfdb"))
    nodes = {
        "paris": (tmp_path / "edf", {"type": "signals"}),
        "oslo": (tmp_path / "wfdb", {"type": "signals", "options": {"channels": "wave=W1"}}),
    }
    with pytest.warns(FedplugWarning, match="The type of 'wave' is float32 at 100 Hz on paris, but float32 at 250 Hz"):
        exp = train(Waves, nodes, training_args={"epochs": 2}, round_limit=4)
    records = exp.history.records()
    losses = [record["value"] for record in records if record["metric"] == "loss"]
    assert losses[-1] < losses[0] / 3
    samples = {record["node_id"]: record["samples"] for record in records if record["phase"] == "train"}
    assert samples["paris"] == samples["oslo"] == 80, "ten windows of each recording"
