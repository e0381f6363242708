"""The laws of data managers: what a `BatchSource` makes of the samples that it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fedplug.core.data import BatchSource, DataManager, LoaderArgs
from fedplug.core.errors import UnknownNameError
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree
from fedplug.testing.registry import (
    Check,
    CheckResult,
    LawBrokenError,
    NotApplicableError,
    OnFail,
    Profile,
    Subject,
    law,
    run_checks,
)

# what a batch holds --------------------------------------------------------------------------------------------------


def contents(batch: Any) -> list[bytes]:
    """One value for each sample of a batch, equal exactly where the samples are."""
    parts = list(_arrays(batch))
    counts = {len(part) for part in parts}
    if len(counts) != 1:
        raise LawBrokenError(f"All arrays of a batch must have the same number of samples, but have {sorted(counts)}.")
    return [b"|".join(_value(part[row]) for part in parts) for row in range(counts.pop())]


def samples(source: BatchSource) -> list[bytes]:
    """All samples of a source, in its own order, each drawn alone."""
    return [each for batch in source.batches(LoaderArgs(1, shuffle=False), None) for each in contents(batch)]


def _arrays(value: Any) -> Iterator[Array]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _arrays(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _arrays(each)
    else:
        dense = value.toarray() if hasattr(value, "toarray") else value
        yield np.asarray(dense)


def _value(row: Any) -> bytes:
    array = np.asarray(row)
    return f"{array.dtype} {array.shape} ".encode() + array.tobytes()


class SourceTrials:
    """Batch sizes: one, a few, all, and more than all; with an order for each."""

    def seeded(self, subject: Subject, profile: Profile) -> Iterable[tuple[int, int]]:
        """Pairs of a batch size and a seed."""
        count = len(subject.component)
        if count < 2:
            raise NotApplicableError("it holds no two samples to tell apart")
        sizes = sorted({1, 3, max(1, count // 2), max(1, count), count + 1})
        for seed in range(5 if profile == "full" else 1):
            yield from ((size, seed) for size in (sizes if profile == "quick" else range(1, count + 2)))

    def drawn(self, subject: Subject) -> None:
        """None: all sizes are tried."""


# the laws ------------------------------------------------------------------------------------------------------------


def check_order(source: BatchSource, trial: tuple[int, int]) -> None:
    """A pass draws the samples in the order that is asked for: each once, or as its own order has them."""
    size, seed = trial
    every = samples(source)
    if len(every) != len(source):
        raise LawBrokenError(f"len says {len(source)} samples, but a pass draws {len(every)}.")
    order = np.random.default_rng(seed).permutation(len(source))
    args = LoaderArgs(size, shuffle=False)
    for asked, words in ((None, "in their own order"), (order, f"in the order {order.tolist()}")):
        wanted = every if asked is None else [every[place] for place in asked]
        found = [each for batch in source.batches(args, asked) for each in contents(batch)]
        _same(found, wanted, f"Batches of {size} were drawn {words}")


def check_sizes(source: BatchSource, trial: tuple[int, int]) -> None:
    """Batches are full, but for the last, which ``drop_last`` leaves out if it is not."""
    size, _ = trial
    for drop in (False, True):
        args = LoaderArgs(size, shuffle=False, drop_last=drop)
        found = [len(contents(batch)) for batch in source.batches(args, None)]
        full, rest = divmod(len(source), size)
        wanted = [size] * full + ([rest] if rest and not drop else [])
        if found != wanted:
            raise LawBrokenError(
                f"{len(source)} samples in batches of {size} (drop_last={drop}) must make batches of {wanted}, "
                f"but make {found}."
            )


def check_subset(source: BatchSource, trial: tuple[int, int]) -> None:
    """A subset has the samples that were asked for, in that order; so has a subset of it, and one of nothing."""
    size, seed = trial
    every = samples(source)
    chosen = np.random.default_rng(seed).permutation(len(every))[: max(1, len(every) // 2)]
    part = source.subset(chosen)
    if len(part) != len(chosen):
        raise LawBrokenError(f"A subset of {len(chosen)} samples says that it has {len(part)}.")
    _same(samples(part), [every[place] for place in chosen], f"The subset {chosen.tolist()} was drawn")
    _same(samples(part.subset(np.array([len(chosen) - 1]))), [every[chosen[-1]]], "A subset of a subset was drawn")
    nothing = source.subset(np.empty(0, np.int64))
    if len(nothing) or list(nothing.batches(LoaderArgs(size, shuffle=False), None)):
        raise LawBrokenError("A subset of no samples must have none, and no batch.")
    _same(samples(source), every, "A subset was taken, and the samples were drawn again")


def check_kept(source: BatchSource, trial: tuple[int, int]) -> None:
    """A batch stays what it is when the next one is drawn."""
    size, seed = trial
    for order in (None, np.random.default_rng(seed).permutation(len(source))):
        held, seen = [], []
        for batch in source.batches(LoaderArgs(size, shuffle=False), order):
            held.append(batch)
            seen.append(contents(batch))
        for number, (batch, before) in enumerate(zip(held, seen, strict=True)):
            if contents(batch) != before:
                raise LawBrokenError(f"Batch {number} of {len(held)} has changed when later ones were drawn.")


def check_epoch(source: BatchSource, trial: tuple[int, int]) -> None:
    """An epoch draws every sample once; its order depends on the seed alone, and is their own without ``shuffle``."""
    size, seed = trial
    every = samples(source)

    def epoch(root: int, *, shuffle: bool) -> list[bytes]:
        drawn = source.epoch(LoaderArgs(size, shuffle=shuffle), SeedTree.root(root))
        return [each for batch in drawn for each in contents(batch)]

    shuffled = epoch(seed, shuffle=True)
    if Counter(shuffled) != Counter(every):
        raise LawBrokenError(f"A shuffled epoch of {len(every)} samples does not draw each of them once.")
    _same(epoch(seed, shuffle=True), shuffled, "An epoch was drawn again with the same seed")
    _same(epoch(seed, shuffle=False), every, "An epoch was drawn without shuffle")
    if len(set(every)) > 8 and all(epoch(seed + other, shuffle=True) == shuffled for other in (1, 2)):
        raise LawBrokenError("Epochs with three different seeds draw the samples in the same order.")


def check_split(source: BatchSource, trial: tuple[int, int]) -> None:
    """A split is disjoint and complete, holds out the share that is asked for, and depends on the seed alone."""
    _, seed = trial
    every = samples(source)
    for ratio in (0.0, 0.25, 0.5):
        train, test = source.split(ratio, SeedTree.root(seed))
        wanted = int(len(every) * ratio)
        if len(test) != wanted or len(train) != len(every) - wanted:
            raise LawBrokenError(
                f"test_ratio={ratio} of {len(every)} samples must hold out {wanted}, but the split has "
                f"{len(train)} and {len(test)}."
            )
        found = samples(train), samples(test)
        if Counter(found[0]) + Counter(found[1]) != Counter(every):
            raise LawBrokenError(f"A split by {ratio} of {len(every)} samples loses some, or has some twice.")
        again = source.split(ratio, SeedTree.root(seed))
        _same([*samples(again[0]), *samples(again[1])], [*found[0], *found[1]], "The split was made again")


def check_labels(source: BatchSource, trial: tuple[int, int]) -> None:
    """``labels`` are the targets, one for each sample, in their order; of a subset, those of the subset."""
    chosen = np.random.default_rng(trial[1]).permutation(len(source))[: max(1, len(source) // 2)]
    for part, words in ((source, "the samples"), (source.subset(chosen), f"the subset {chosen.tolist()}")):
        told = part.labels()
        targets = [batch[1] for batch in part.batches(LoaderArgs(1, shuffle=False), None)]
        drawn = [np.ravel(next(_arrays(target), np.empty(0))).tolist() for target in targets]
        found = None if told is None else [np.ravel(each).tolist() for each in np.asarray(told)]
        if found != drawn:
            raise LawBrokenError(f"labels of {words} must be the targets {drawn}, but are {found}.")


def check_arguments(source: BatchSource, trial: tuple[int, int]) -> None:
    """A loader argument that nobody knows is refused with UnknownNameError."""
    source.check_args(LoaderArgs(trial[0]))
    try:
        source.check_args(LoaderArgs.merge({"batch_size": trial[0], "an_argument_that_no_loader_has": 1}))
    except UnknownNameError:
        return
    raise LawBrokenError("check_args must refuse a loader argument that nobody knows, but took it.")


_TRIALS = SourceTrials()


def _unlabelled(source: Any) -> str:
    return "labels gives None" if source.labels() is None else ""


DATA_MANAGER_CHECKS: tuple[Check, ...] = (
    law(check_order, trials=_TRIALS),
    law(check_sizes, trials=_TRIALS),
    law(check_subset, trials=_TRIALS),
    law(check_kept, trials=_TRIALS),
    law(check_epoch, trials=_TRIALS),
    law(check_split, trials=_TRIALS),
    law(check_labels, trials=_TRIALS, absent=_unlabelled),
    law(check_arguments, trials=_TRIALS),
)
"""All laws of data managers."""


def check_data_manager(
    source: BatchSource | DataManager | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    framework: str = "",
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test what the training loop draws its batches from against every law.

    Args:
        source: With some samples, ten or so, no two of which are equal. A `DataManager` is wrapped for ``framework``
            first, as at a node.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        framework: Name of the framework, e.g. ``"torch"``.
        expected_failures: Id of a law that it breaks and will break → why.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    if isinstance(source, DataManager):
        from fedplug.core.plugins import default_host

        source = default_host().wrap_data(source, framework)
    subject = Subject.of(source).with_options(expected_failures)
    return run_checks(DATA_MANAGER_CHECKS, subject, on_fail=on_fail, profile=profile)


def _same(found: list[bytes], wanted: list[bytes], words: str) -> None:
    if len(found) != len(wanted):
        raise LawBrokenError(f"{words}: that must give {len(wanted)} samples, but gives {len(found)}.")
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if one != other:
            raise LawBrokenError(f"{words}: sample {place} of {len(wanted)} is another one than it must be.")
