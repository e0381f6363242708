"""docs/folders-of-data.md: its commands add folders as it describes them, its plans draw batches from these."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import edfio
import nibabel
import numpy as np
import pytest
from PIL import Image
from torch import nn

import fedplug
from fedplug.core.data import LoaderArgs
from fedplug.core.plugins import default_host
from fedplug.core.training_plan import PlanSetup
from fedplug.node import NodeStore
from fedplug.node.datasets.registry import DatasetCache, dataset_type, type_names
from fedplug_sklearn import FedSGDClassifier
from fedplug_torch import TorchTrainingPlan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "folders-of-data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^fedplug (node dataset add (\w+) .*)$", PAGE, re.MULTILINE)
PLANS = dict(re.findall(r"^```python\n(class (?:\w+)\(\w+\):\n.*?)^```()", PAGE, re.MULTILINE | re.DOTALL))


def cells(folder, names=("benign", "malignant")):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((9 + number, 9, 3), 20 * len(name), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def scans(folder):
    rows = []
    for number, name in enumerate(("T1_philips", "T1_siemens"), 1):
        patient = folder / f"patient-{number:03}"
        for modality in (name, "T2"):
            (patient / modality).mkdir(parents=True)
            voxels = np.full((4, 4, 2), number, np.int16)
            nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(patient / modality / "scan.nii.gz")
        rows.append(f"{60 + number},{patient.name},{'yes' if number == 1 else 'no'}\n")
    (folder / "demographics.csv").write_text("age,patient,diagnosis\n" + "".join(rows))


def nights(folder):
    folder.mkdir()
    for name, label in (("n1", "ECG II"), ("n2", "MLII")):
        wave = edfio.EdfSignal(np.sin(np.arange(600) / 9), 100, label=label)
        edfio.Edf([wave]).write(folder / f"{name}.edf")
    (folder / "labels.csv").write_text("record,rhythm\nn1,sinus\nn2,af\n")


def cohort(folder):
    folder.mkdir()
    (folder / "expression.tsv").write_text("gene\ta\tb\tc\nMYC\t1\t2\t3\nTP53\t4\t5\t6\n")
    (folder / "samples.csv").write_text("sample,age,ill\na,50,1\nb,60,0\nc,70,1\n")


FOLDERS = {
    "cells": cells,
    "zellen": lambda folder: cells(folder, ("gutartig", "boesartig", "unklar")),
    "scans": scans,
    "nights": nights,
    "cohort": cohort,
    "fashion": lambda folder: folder.mkdir() or dataset_type("mnist").example(folder),
}


@pytest.fixture
def added(tmp_path, typed):
    """Run one of the page's commands; the data set that a plan would get."""

    def add(name):
        (command,) = [command for command, folder in COMMANDS if folder == name]
        FOLDERS[name](tmp_path / name)
        words = shlex.split(command)
        words[words.index(name)] = str(tmp_path / name)
        node = str(tmp_path / "node")
        assert typed("node", "-C", node, "init", "--data-root", str(tmp_path))[0] == 0
        code, printed = typed(words[0], "-C", node, *words[1:])
        assert code == 0, printed
        with NodeStore.open(tmp_path / "node") as store:
            return DatasetCache().get(store.dataset(name))

    return add


def first_batch(text, dataset, **model_args):
    names = {name: getattr(fedplug, name) for name in fedplug.__all__}
    names |= {"TorchTrainingPlan": TorchTrainingPlan, "FedSGDClassifier": FedSGDClassifier}
    scope: dict = {}
    exec(text, names, scope)
    (base,) = scope.values()
    methods = {"init_model": lambda self: nn.Linear(1, 1), "training_step": lambda self, data, target: data}
    kind = type(base.__name__, (base,), methods)
    plan = (base if model_args else kind)()
    plan.setup(PlanSetup(dataset=dataset, model_args=model_args), with_optimizer=False)
    source = default_host().wrap_data(plan.make_data(), plan.framework)
    return next(source.batches(LoaderArgs(batch_size=8, shuffle=False), None))


def plan(name):
    return next(text for text in PLANS if text.startswith(f"class {name}("))


def test_the_table_has_all_types_that_read_folders():
    folders = {name for name in type_names() if dataset_type(name).takes == "folder"}
    assert set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == folders


def test_every_command_of_the_page_is_tried():
    assert [folder for _, folder in COMMANDS] == list(FOLDERS)


def test_images(added):
    dataset = added("cells")
    data, target = first_batch(plan("Cells"), dataset)
    assert data.shape == (6, 3, 8, 8)
    assert target.tolist() == [0, 0, 0, 1, 1, 1]
    assert data[0].unique().tolist() == pytest.approx([120 / 255])


def test_images_in_folders_of_other_names(added):
    dataset = added("zellen")
    assert dataset.classes == ("benign", "malignant", "other")
    assert np.bincount(dataset.labels, minlength=3).tolist() == [3, 6, 0]


def test_medical_folders(added):
    data, target = first_batch(plan("Scans"), added("scans"))
    assert {name: tuple(values.shape) for name, values in data.items()} == {
        "T1": (2, 4, 4, 2),
        "T2": (2, 4, 4, 2),
        "demographics": (2, 1),
    }
    assert data["demographics"].flatten().tolist() == [61, 62]
    assert target.tolist() == [1, 0]


def test_signals(added):
    data, target = first_batch(plan("Nights"), added("nights"))
    assert data.shape == (6, 1, 100)
    assert target.tolist() == [0, 0, 0, 1, 1, 1]


def test_genomes(added):
    data, target = first_batch(plan("Cohort"), added("cohort"), n_features=3, n_classes=2)
    np.testing.assert_array_equal(data, [[4, 1, 50], [5, 2, 60], [6, 3, 70]])
    assert target.tolist() == [1, 0, 1]


def test_files_like_those_of_mnist(added):
    dataset = added("fashion")
    manager = fedplug.DataManager(dataset)
    assert manager.dataset.shape == (4, 2, 2)
    assert manager.target.tolist() == [0, 1, 0, 1]
