"""Images in a folder per class, for training plans."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedplug.core.datasets.base import PlanDataset
from fedplug.core.params import Array


class ImageFolderDataset(PlanDataset):
    """The images of a data set of type ``images``, with the numbers of their classes.

    A sample's data is a float32 array of shape ``(channels, height, width)`` with values from 0 to 1, one channel for
    grey images and three for colour; its target is the number of its class. Classes are numbered in the order of their
    names, which `classes` has.

    Args:
        transform: Applied to the data of each sample, e.g. to bring all images to one size.
        target_transform: Applied to its target.

    Example:
        >>> dataset = ImageFolderDataset(transform=lambda image: image[:, :64, :64])
    """

    needs = "images"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        return tuple(self.node.classes)

    def __len__(self) -> int:
        return len(self.node)

    def sample(self, index: int) -> tuple[Any, Any]:
        """As `PlanDataset.sample`."""
        found = self.node.read(index)
        return channels_first(found["image"]), found["label"]

    def targets(self) -> Array | None:
        """The number of the class of each image."""
        labels: Array = self.node.labels
        return labels


def channels_first(pixels: Array) -> Array:
    """Pixels of shape ``(height, width)`` or ``(height, width, channels)`` as float32 ``(channels, height, width)``.

    Whole numbers of 8 and 16 bits are divided by the largest that there is; all others keep their values.
    """
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    scaled = np.ascontiguousarray(planes, np.float32)
    if pixels.dtype.kind == "u":
        scaled /= np.iinfo(pixels.dtype).max
    return scaled
