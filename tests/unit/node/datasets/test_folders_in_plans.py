"""Folders as plans of each framework see them: samples are read when they are drawn, and mistakes are named."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from fedplug import DataManager, ImageFolderDataset, MedicalFolderDataset, SignalDataset
from fedplug.core.data import LoaderArgs
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.plugins import default_host
from fedplug.core.rng import SeedTree
from fedplug.node.datasets.registry import DatasetCache, dataset_type, inspect_file

FRAMEWORKS = ("numpy", "sklearn", "torch")


def opened(folder, type, **more):
    return DatasetCache().get(inspect_file(folder, name="data", type=type, tags=["x"], **more)[0])


@pytest.fixture
def images(tmp_path):
    for number in range(10):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 3), number, np.uint8)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    return opened(tmp_path, "images")


def source_of(dataset, node, framework):
    dataset.bind(node)
    return default_host().wrap_data(DataManager(dataset), framework)


def all_of(source, order=None, size=4):
    return list(source.batches(LoaderArgs(batch_size=size, shuffle=False), order))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_draws_the_same_samples(images, framework):
    source = source_of(ImageFolderDataset(), images, framework)
    assert len(source) == 10
    assert source.labels().tolist() == [0] * 5 + [1] * 5
    batches = all_of(source)
    assert [len(target) for _, target in batches] == [4, 4, 2]
    shape = (6,) if framework == "sklearn" else (1, 2, 3)
    assert tuple(batches[0][0].shape) == (4, *shape)
    values = np.concatenate([np.asarray(data).reshape(len(data), -1)[:, 0] for data, _ in batches])
    np.testing.assert_allclose(values * 255, [0, 2, 4, 6, 8, 1, 3, 5, 7, 9], atol=1e-4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_parts_and_orders_are_those_that_were_asked_for(images, framework):
    source = source_of(ImageFolderDataset(target_transform=lambda label: label + 5), images, framework)
    part = source.subset(np.array([9, 0, 4]))
    assert part.labels().tolist() == [6, 5, 5]
    ((data, target),) = all_of(part, np.array([2, 0, 1]))
    assert np.asarray(target).tolist() == [5, 6, 5]
    firsts = np.asarray(data).reshape(3, -1)[:, 0] * 255
    np.testing.assert_allclose(firsts, [8, 9, 0], atol=1e-4)
    training, testing = source.split(0.2, SeedTree.root(1), stratify=True)
    assert np.bincount(testing.labels()).tolist()[5:] == [1, 1]
    assert len(training) == 8


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_what_is_drawn_is_read(images, framework, monkeypatch):
    read, before = [], images.read
    monkeypatch.setattr(images, "read", lambda index: read.append(index) or before(index))
    source = source_of(ImageFolderDataset(), images, framework)
    read.clear()
    next(iter(source.batches(LoaderArgs(batch_size=3, shuffle=False), np.array([7, 1, 2, 3, 4, 5, 6, 8, 9, 0]))))
    assert read == [7, 1, 2]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_samples_of_different_shapes_are_told_with_the_way_out(images, framework):
    cut = iter(range(1, 100))
    source = source_of(ImageFolderDataset(transform=lambda image: image[..., : 1 + next(cut) % 2]), images, framework)
    with pytest.raises(DatasetError) as refused:
        all_of(source)
    assert "transform" in refused.value.cure


def test_tensors_have_the_dtypes_that_layers_and_losses_want(images):
    data, target = all_of(source_of(ImageFolderDataset(), images, "torch"))[0]
    assert (data.dtype, target.dtype) == (torch.float32, torch.int64)


def test_masks_stay_whole_numbers(tmp_path):
    for number in range(2):
        for name, dtype in (("T1", np.float32), ("mask", np.uint8)):
            (tmp_path / f"s{number}").mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(np.full((2, 2, 2), number, dtype), np.eye(4))
            image.to_filename(tmp_path / f"s{number}" / f"{name}.nii")
    node = opened(tmp_path, "medical")
    data, target = all_of(source_of(MedicalFolderDataset("T1", "mask"), node, "torch"))[0]
    assert (tuple(data.shape), data.dtype) == ((2, 2, 2, 2), torch.float32)
    assert (tuple(target.shape), target.dtype) == ((2, 2, 2, 2), torch.int64)
    with pytest.raises(DatasetError, match="learns one number per sample"):
        source_of(MedicalFolderDataset("T1", "mask"), node, "sklearn")
    with pytest.raises(DatasetError, match="has no modality or column 'CT'"):
        MedicalFolderDataset("CT").bind(node)


def test_windows_are_all_that_fit_into_a_recording(tmp_path):
    node = opened(dataset_type("signals").example(tmp_path), "signals")  # four recordings of 2 s at 50 Hz
    for window, step, count in ((0.5, None, 16), (0.75, 0.25, 24), (2.0, None, 4), (1.5, 1.0, 4)):
        dataset = SignalDataset("ECG", "rhythm", window=window, step=step)
        dataset.bind(node)
        assert len(dataset) == count
        assert {dataset[i][0].shape for i in range(count)} == {(1, int(window * 50))}
    whole = SignalDataset("ECG", rate=100)
    whole.bind(node)
    np.testing.assert_allclose(whole[0][0][0, ::2], node.read(0)["ECG"], atol=1e-6)
    with pytest.raises(DatasetError, match="and lasts 3 seconds"):
        SignalDataset("ECG", window=3.0).bind(node)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ImageFolderDataset(transform="resize"),
        lambda: MedicalFolderDataset([]),
        lambda: MedicalFolderDataset("T1", "mask", target="age"),
        lambda: SignalDataset([]),
        lambda: SignalDataset("ECG", window=-1.0),
        lambda: SignalDataset("ECG", step=1.0),
        lambda: SignalDataset("ECG", rate=float("nan")),
        lambda: len(ImageFolderDataset()),
        lambda: DataManager(ImageFolderDataset(), [1, 2]),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(wrong):
    with pytest.raises(UsageError):
        wrong()


def test_a_class_for_another_type_says_which_to_use(images):
    with pytest.raises(DatasetError, match="wants a data set of type 'medical'") as refused:
        MedicalFolderDataset("T1").bind(images)
    assert "ImageFolderDataset" in refused.value.cure
