"""Data sets of type ``mnist``: images and labels in IDX files, the format of MNIST and its kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType, FileDataset, Inspection, check_columns
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.idx_pair import choose_pair, find_pairs, read_pair

_COLUMNS = ("x", "y")


class MnistFiles(FileDataset):
    """``x``: images of shape ``(samples, height, width)``; ``y``: their labels."""

    def _read(self) -> dict[str, Array]:
        folder = Folder(self.path, self.label, for_owner=False)
        return dict(
            zip(_COLUMNS, read_pair(folder, choose_pair(folder, self.record.options.get("part", ""))), strict=True)
        )


class MnistType(DatasetType):
    """A folder with ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz`` and the like, packed or not."""

    name = "mnist"
    title = "Images and labels in the format of MNIST (IDX files)"
    takes = "folder"
    options = MappingProxyType(
        {"part": DatasetOption("Which files", "train or t10k, as their names begin; train without it.")}
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`: all is read."""
        check_columns(label, "array", _COLUMNS, columns or _COLUMNS)
        folder = Folder(path, label)
        part = choose_pair(folder, options.get("part", ""))
        arrays = dict(zip(_COLUMNS, read_pair(folder, part), strict=True))
        names = tuple(columns or _COLUMNS)
        images, labels = arrays["x"], arrays["y"]
        dtypes = {"x": f"{images.dtype.name}[{images.shape[1]},{images.shape[2]}]", "y": labels.dtype.name}
        found, counts = np.unique(labels, return_counts=True)
        notes = [
            f"{len(found)} classes, {found.min()} to {found.max()}, of {counts.min():,} to {counts.max():,} images."
        ]
        rest = [other for other in find_pairs(folder) if other != part]
        if rest:
            notes.append(f"It is the part {part!r}; also there: {', '.join(rest)} (option 'part').")
        return Inspection(
            arrays[names[0]].shape if len(names) == 1 else images.shape,
            names,
            tuple(dtypes[name] for name in names),
            tuple(notes),
            target="y" if "y" in names else "",
        )

    def open(self, record: DatasetRecord) -> MnistFiles:
        """As `DatasetType.open`."""
        return MnistFiles(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`: four images of 2 by 2."""
        head = b"\0\0\x08"
        images = head + b"\3" + b"".join(n.to_bytes(4, "big") for n in (4, 2, 2)) + bytes(range(16))
        (folder / "train-images-idx3-ubyte").write_bytes(images)
        (folder / "train-labels-idx1-ubyte").write_bytes(head + b"\1" + (4).to_bytes(4, "big") + bytes([0, 1, 0, 1]))
        return folder
