"""What a trainer may be given as data, and how it becomes batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedplug.core.data import ArrayData, BatchSource, LoaderArgs, sample_count
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree

SPLITS = ("train", "val", "test")
"""The splits that every context has, empty or not."""

Parsed = dict[str, Any]
"""``{split}_data``, ``{split}_loader`` and ``num_{split}_data`` of each split."""


class LoaderSource(BatchSource):
    """Batches of somebody else's loader, in its own order and sizes.

    Args:
        loader: Gives ``(data, target)`` batches whenever it is iterated over.
        samples: Samples of a pass.
    """

    def __init__(self, loader: Any, samples: int) -> None:
        self.loader = loader
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def subset(self, indices: Array) -> BatchSource:
        """Not possible: a loader has its own order."""
        raise UsageError("A loader cannot be split.", cure="Give the trainer the data set instead of a loader.")

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        """One pass of the loader."""
        yield from self.loader

    def epoch(self, args: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        """One pass of the loader, which shuffles by itself."""
        return self.batches(args, None)

    def loader_args(self) -> LoaderArgs:
        """What says how many batches a pass has."""
        size = getattr(self.loader, "batch_size", None)
        if not isinstance(size, int):
            passes = len(self.loader) if hasattr(self.loader, "__len__") else self._samples
            size = -(-self._samples // max(1, passes))
        drop = bool(getattr(self.loader, "drop_last", False))
        return LoaderArgs(max(1, size), shuffle=False, drop_last=drop)


def parse_data(data: Any) -> Parsed:
    """The data of each split as the page names it.

    Args:
        data: A dict by split (``train``, ``val``, ``test``, or any other name). Each split is a `BatchSource`, a
            data set (with ``len`` and items), a loader (with ``dataset``), a dict of arrays with the key ``y``,
            a pair ``(data, target)``, or None.

    Raises:
        UsageError: It is no dict, or a split is something else.
    """
    if not isinstance(data, Mapping):
        raise UsageError(
            f"The data of a trainer must be a dict by split, but got a {type(data).__name__}.",
            cure='E.g. {"train": (x, y), "test": (x_test, y_test)}.',
        )
    parsed: Parsed = {}
    for split in dict.fromkeys([*SPLITS, *map(str, data)]):
        value = data.get(split)
        found: tuple[Any, Any, int] = (None, None, 0)
        if value is None:
            pass
        elif is_loader(value):
            found = None, value, len(value.dataset)
        elif isinstance(value, Mapping) and "y" in value:
            found = value, None, sample_count(value["y"])
        elif isinstance(value, tuple) and len(value) == 2:
            found = value, None, sample_count(value[0])
        elif isinstance(value, BatchSource) or _is_dataset(value):
            found = value, None, len(value)
        else:
            raise UsageError(
                f"The data of split {split!r} is a {type(value).__name__}, which no trainer can draw batches from.",
                cure="Use a BatchSource, a data set, a loader, a dict of arrays with 'y', or a pair (data, target); or "
                "override parse_data.",
            )
        parsed[f"{split}_data"], parsed[f"{split}_loader"], parsed[f"num_{split}_data"] = found
    return parsed


def by_split(parsed: Parsed) -> dict[str, Parsed]:
    """The three names of each split, apart.

    Raises:
        UsageError: A custom ``parse_data`` left one out.
    """
    splits = [name.removeprefix("num_").removesuffix("_data") for name in parsed if name.startswith("num_")]
    if not splits:
        raise UsageError("parse_data returned no split.", cure='It must return e.g. {"train_data": ..., ...}.')
    found = {}
    for split in splits:
        names = (f"{split}_data", f"{split}_loader", f"num_{split}_data")
        found[split] = {name: parsed.get(name) for name in names}
    return found


def source_of(split: str, parsed: Parsed, wrap: Callable[[Any, Any], BatchSource]) -> BatchSource | None:
    """What batches of a split are drawn from; None if there is no data.

    Args:
        split: Its name.
        parsed: Its three names; see `parse_data`.
        wrap: Turns the framework's own data into batches.

    Raises:
        DatasetError: The number of samples is wrong.
    """
    data, loader, samples = parsed[f"{split}_data"], parsed[f"{split}_loader"], parsed[f"num_{split}_data"] or 0
    if loader is not None:
        return LoaderSource(loader, samples) if samples else None
    if data is None or not samples:
        return None
    if isinstance(data, BatchSource):
        source = data
    elif isinstance(data, Mapping):
        rest = {name: value for name, value in data.items() if name != "y"}
        source = wrap(rest["x"] if rest.keys() == {"x"} else rest, data["y"])
    elif isinstance(data, tuple):
        source = wrap(*data)
    else:
        source = wrap(data, None)
    if len(source) != samples:
        raise DatasetError(
            f"num_{split}_data says {samples} samples, but the data has {len(source)}.", cure="Correct parse_data."
        )
    return source


def is_loader(value: Any) -> bool:
    """Whether ``value`` gives batches of a data set of its own, like torch's ``DataLoader``."""
    return hasattr(value, "dataset") and hasattr(value, "__iter__") and not isinstance(value, BatchSource | ArrayData)


def _is_dataset(value: Any) -> bool:
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return sized and not isinstance(value, Mapping | str | list | tuple)


def batch_sizes(samples: int, loader: LoaderArgs) -> list[int]:
    """Number of samples in each batch of a pass."""
    full, rest = divmod(samples, loader.batch_size)
    return [loader.batch_size] * full + ([rest] if rest and not loader.drop_last else [])


def sized(source: BatchSource, loader: LoaderArgs, batches: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
    """Batches with their numbers of samples."""
    if isinstance(source, LoaderSource):
        return ((batch, sample_count(batch[1] if batch[1] is not None else batch[0])) for batch in batches)
    return zip(batches, batch_sizes(len(source), loader), strict=False)
