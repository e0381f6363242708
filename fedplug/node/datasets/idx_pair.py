"""The two IDX files of a data set in the format of MNIST: images, and a label for each."""

from __future__ import annotations

from pathlib import PurePath

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.idx_file import read_idx


def find_pairs(folder: Folder) -> dict[str, tuple[PurePath, PurePath]]:
    """The files of images and labels by what their names begin with, e.g. ``train`` and ``t10k``.

    Raises:
        DatasetError: A file has no counterpart, or there is none.
    """
    found: dict[str, dict[str, PurePath]] = {}
    for file in folder.files():
        for what in ("images", "labels"):
            if what in file.name and "idx" in file.name:
                part = file.name.partition(what)[0].rstrip("-_.") or "all"
                if what in found.setdefault(part, {}):
                    raise DatasetError(f"{folder.label} has two files with the {what} of {part!r}.")
                found[part][what] = file
    for part, files in found.items():
        if len(files) < 2:
            raise DatasetError(f"{folder.label} has only the {next(iter(files))} of {part!r}.")
    if not found:
        raise DatasetError(
            f"{folder.label} holds no files in the format of MNIST.",
            cure="It should hold train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, packed or not.",
        )
    return {part: (files["images"], files["labels"]) for part, files in found.items()}


def choose_pair(folder: Folder, part: str) -> str:
    """The part that is meant: the one that was asked for, else the only one, else ``train``.

    Raises:
        DatasetError: There is none of that name, or nobody said which.
    """
    parts = find_pairs(folder)
    if part and part not in parts:
        raise DatasetError(f"{folder.label} has no part {part!r}.", cure=f"It has: {', '.join(parts)}.")
    if part or len(parts) == 1:
        return part or next(iter(parts))
    if "train" in parts:
        return "train"
    raise DatasetError(f"{folder.label} has several parts: {', '.join(parts)}.", cure="Say which by the option 'part'.")


def read_pair(folder: Folder, part: str) -> tuple[Array, Array]:
    """Images of shape ``(samples, height, width)`` and their labels of shape ``(samples,)``, as they are stored.

    Raises:
        DatasetError: A file is broken or lies about its size, or they do not have one length.
    """
    arrays = []
    for number, (path, axes) in enumerate(zip(find_pairs(folder)[part], (3, 1), strict=True), 1):
        what = folder.entry(path, number)
        with folder.open(path, what) as file:
            arrays.append(read_idx(file, what, axes))
    images, labels = arrays
    if len(images) != len(labels):
        raise DatasetError(f"{folder.label} has {len(images):,} images, but {len(labels):,} labels.")
    if labels.dtype.kind not in "iu":
        raise DatasetError(f"{folder.label}: its labels are no whole numbers, but {labels.dtype.name}.")
    return images, labels
