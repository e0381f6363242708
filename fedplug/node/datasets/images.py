"""Data sets of type ``images``: a folder with a folder of pictures for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType, Inspection, StoredDataset, check_columns
from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.image_files import SUFFIXES, Picture, check_image, read_image
from fedplug.node.datasets.loading_plan import LoadingPlan, loading_plan

_NAMED = 20  # classes that a dtype lists
_COLUMNS = ("image", "label")


@dataclass(frozen=True)
class ImageList:
    """The pictures of a folder.

    Attributes:
        classes: Their names as plans know them, sorted; the number of a class is its place here.
        files: Sorted by class, then by name.
        labels: The number of the class of each, int64 of shape ``(files,)``.
        ignored: Files that are no pictures by their ending.
    """

    classes: tuple[str, ...]
    files: tuple[PurePath, ...]
    labels: Array
    ignored: int


def list_images(folder: Folder, plan: LoadingPlan) -> ImageList:
    """Find the pictures of each class, in its folder and the folders in that; none is opened.

    Args:
        folder: The folder of the data set.
        plan: The folders of a class, where they are not called as plans call the class. A class may have several
            folders, or none: then it has no pictures here, but its number.

    Raises:
        DatasetError: There are no pictures, or the plan names a folder that is not there.
    """
    inside: dict[str, list[PurePath]] = {}
    ignored = 0
    for file in folder.files():
        if len(file.parts) > 1 and file.suffix.lower() in SUFFIXES:
            inside.setdefault(file.parts[0], []).append(file)
        else:
            ignored += 1
    if not inside:
        raise DatasetError(
            f"{folder.label} holds no images in the folders of its classes.", cure=f"Endings: {', '.join(SUFFIXES)}."
        )
    claimed = [name for names in plan.values() for name in names]
    missing = next((name for name in claimed if name not in inside), None)
    if missing is not None:
        raise DatasetError(
            f"{folder.label} has no folder {missing!r} with images, which its loading plan names.",
            cure=f"It has: {', '.join(list(inside)[:40])}.",
        )
    by_class = {name: files for name, files in inside.items() if name not in claimed}
    for name, names in plan.items():
        by_class[name] = sorted([*by_class.get(name, ()), *(file for each in names for file in inside[each])])
    classes = tuple(sorted(by_class))
    files = tuple(file for name in classes for file in by_class[name])
    labels = np.repeat(np.arange(len(classes)), [len(by_class[name]) for name in classes])
    return ImageList(classes, files, labels.astype(np.int64), ignored)


def check_images(folder: Folder, images: ImageList) -> list[Picture]:
    """Check the header of each picture.

    Raises:
        DatasetError: One is damaged, too large, or no picture.
    """
    found = []
    for number, path in enumerate(images.files, 1):
        what = folder.entry(path, number)
        with folder.open(path, what) as file:
            found.append(check_image(file, what))
    return found


def class_text(classes: tuple[str, ...]) -> str:
    """What stands as the dtype of the labels: the classes in the order of their numbers."""
    listed = ",".join(classes)
    return f"class[{listed}]" if len(classes) <= _NAMED and len(listed) <= 200 else f"class[{len(classes)}]"


def picture_notes(images: ImageList, pictures: list[Picture]) -> list[str]:
    """What the owner should know: classes with their numbers of images, mixed sizes, what was left out."""
    counts = Counter(images.labels.tolist())
    listed = ", ".join(f"{name} {counts[number]}" for number, name in enumerate(images.classes[:_NAMED]))
    more = f" and {len(images.classes) - _NAMED} more" if len(images.classes) > _NAMED else ""
    notes = [f"Classes, with their images: {listed}{more}."]
    sizes = Counter((picture.width, picture.height) for picture in pictures)
    if len(sizes) > 1:
        common = ", ".join(f"{w} x {h} ({count})" for (w, h), count in sizes.most_common(3))
        notes.append(
            f"The images have {len(sizes)} sizes: {common}{', ...' if len(sizes) > 3 else ''}. "
            "Plans must bring them to one size by a transform."
        )
    kinds = Counter("colour" if picture.channels else "grey" for picture in pictures)
    if len(kinds) > 1:
        notes.append(f"{kinds['grey']} images are grey and {kinds['colour']} are in colour.")
    stacks = sum(picture.frames > 1 for picture in pictures)
    if stacks:
        notes.append(f"{stacks} files hold several images each, of which the first is read.")
    if images.ignored:
        notes.append(f"{images.ignored} files are not images by their ending, and were left out.")
    return notes


def common_shape(pictures: list[Picture]) -> tuple[int, ...] | None:
    """The shape that all have; None if they differ."""
    shapes = {picture.shape for picture in pictures}
    return shapes.pop() if len(shapes) == 1 else None


class ImageFolder(StoredDataset):
    """Pictures and the numbers of their classes, read one by one."""

    ready = "ImageFolderDataset"

    def __init__(self, record: DatasetRecord) -> None:
        super().__init__(record)
        self._folder = Folder(self.path, self.label, for_owner=False)
        self._found: ImageList | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        return self._images.classes

    @property
    def labels(self) -> Array:
        """The number of the class of each picture, int64 of shape ``(samples,)``."""
        return self._images.labels

    def __len__(self) -> int:
        return len(self._images.files)

    def read(self, index: int) -> Mapping[str, Any]:
        """One picture: ``image`` (see `read_image`) and ``label``, the number of its class.

        Raises:
            DatasetError: It is gone or damaged.
            IndexError: There is none of that number.
        """
        self.check_index(index)
        images = self._images
        what = self._folder.entry(images.files[index], index + 1)
        with self._folder.open(images.files[index], what) as file:
            sample = {"image": read_image(file, what), "label": int(images.labels[index])}
        return {name: sample[self.record.source(name)] for name in self.record.columns}

    def prepare(self) -> None:
        """List the pictures."""
        self._found = list_images(self._folder, _plan(self.record.options, self.label))

    @property
    def _images(self) -> ImageList:
        if self._found is None:
            self.prepare()
        assert self._found is not None
        return self._found


class ImagesType(DatasetType):
    """A folder for each class, with its pictures in it."""

    name = "images"
    title = "Images in a folder per class"
    takes = "folder"
    options = MappingProxyType(
        {
            "classes": DatasetOption(
                "Classes", "A class may have several folders, or none here: its number stays the same.", renames="class"
            )
        }
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`: the header of every picture is checked."""
        folder = Folder(path, label)
        check_columns(label, "column", _COLUMNS, columns or _COLUMNS)
        images = list_images(folder, _plan(options, label))
        pictures = check_images(folder, images)
        shape = common_shape(pictures)
        kinds = {picture.dtype for picture in pictures}
        dtype = kinds.pop() if len(kinds) == 1 else "float32"
        dtypes = {
            "image": f"{dtype}[{','.join(map(str, shape))}]" if shape else dtype,
            "label": class_text(images.classes),
        }
        names = tuple(columns or _COLUMNS)
        return Inspection(
            (len(pictures), *(shape or ())),
            names,
            tuple(dtypes[name] for name in names),
            tuple(picture_notes(images, pictures)),
            target="label" if "label" in names else "",
        )

    def names_here(self, path: Path, label: str, option: str) -> Sequence[str]:
        """As `DatasetType.names_here`: the folders with pictures."""
        return list_images(Folder(path, label), {}).classes

    def open(self, record: DatasetRecord) -> ImageFolder:
        """As `DatasetType.open`."""
        return ImageFolder(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`: four pictures of two classes."""
        for place, name in enumerate(("bright", "dark", "bright", "dark")):
            (folder / name).mkdir(exist_ok=True)
            pixels = np.full((8, 8), 200 - 150 * (place % 2), np.uint8)
            library("PIL.Image", "images").fromarray(pixels).save(folder / name / f"{place}.png")
        return folder


def _plan(options: Mapping[str, str], label: str) -> LoadingPlan:
    return loading_plan(options.get("classes", ""), "classes", label)
