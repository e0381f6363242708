"""Ways to divide one data set among virtual nodes.

A partition names the samples of each node by number and copies none. Every sample goes to exactly one node, every
node gets at least one, and the same seed gives the same parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.numbers import is_number, is_whole
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree

Column = Callable[[Any], Array]
"""Gives one value per sample: of an array that is named, of the target (None), or of an array of one's own."""


_LARGEST = 1e9  # beyond it, an exponent or a concentration makes no difference that 64 bits could show


@dataclass(frozen=True, eq=False)
class Parts:
    """Who has which samples.

    Attributes:
        order: The numbers of all samples, node after node, shape ``(samples,)``.
        bounds: Where each node's begin in ``order``, and the end of the last, shape ``(nodes + 1,)``.
        names: The nodes' ids; None: they are numbered.
    """

    order: Array
    bounds: Array
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, order: Array, sizes: Array, names: tuple[str, ...] | None = None) -> Parts:
        """The parts of so many samples each, cut from ``order``."""
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]), names)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, node: int) -> Array:
        """The numbers of a node's samples."""
        return self.order[self.bounds[node] : self.bounds[node + 1]]


class Partition(ABC):
    """How samples are divided among nodes. Derive from it to divide them your own way."""

    @abstractmethod
    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """Divide the samples ``0 .. samples - 1``.

        Args:
            samples: How many there are.
            column: Gives one value per sample; ``column(None)`` gives the target.
            seed: Where everything random comes from.

        Raises:
            UsageError: There are fewer samples than the nodes need.
            DatasetError: A column does not exist, or cannot be used.
        """


@dataclass(frozen=True)
class IID(Partition):
    """Every node gets a random part of the samples, all of one size (some one more).

    Args:
        nodes: Number of nodes.
    """

    nodes: int

    def __post_init__(self) -> None:
        _check_nodes(self.nodes)

    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """As `Partition.divide`."""
        _check_enough(samples, self.nodes, 1)
        return Parts.of(seed.generator().permutation(samples), _dealt(samples, np.ones(self.nodes)))


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Every class is dealt to the nodes in shares that are drawn from a Dirichlet distribution.

    Yurochkin et al., ICML 2019; Li et al., ICDE 2022. The smaller ``alpha``, the fewer nodes hold most of a class: at
    0.1 a node has a few classes and the nodes differ much in size; at 100 it is nearly `IID`. A node that would have
    fewer than ``min_samples`` gets the rest from those that have most.

    Args:
        nodes: Number of nodes.
        alpha: Concentration, above 0.
        by: Name of the array that holds the classes; the target by default.
        min_samples: So many samples has every node.
    """

    nodes: int
    alpha: float
    by: str | None = None
    min_samples: int = 1

    def __post_init__(self) -> None:
        _check_nodes(self.nodes)
        _check_positive("alpha", self.alpha)
        _check_min(self.min_samples)

    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """As `Partition.divide`."""
        _check_enough(samples, self.nodes, self.min_samples)
        generator = seed.generator()
        owners = np.empty(samples, np.int64)
        for mine in _by_class(column(self.by), generator):
            ends = np.rint(np.cumsum(_shares(generator, self.alpha, self.nodes)) * len(mine)).astype(np.int64)
            ends[-1] = len(mine)
            owners[mine] = np.repeat(np.arange(self.nodes), np.diff(ends, prepend=0))
        sizes = np.bincount(owners, minlength=self.nodes)
        _give_to_the_poor(owners, sizes, self.min_samples, generator)
        return Parts.of(np.argsort(owners, kind="stable"), sizes)


@dataclass(frozen=True)
class Shards(Partition):
    """The samples are sorted by class and cut into pieces, and every node gets some of them at random.

    McMahan et al., AISTATS 2017, section 3: with two pieces, most nodes know two classes only.

    Args:
        nodes: Number of nodes.
        per_node: Pieces that a node gets.
        by: Name of the array that holds the classes; the target by default.
    """

    nodes: int
    per_node: int = 2
    by: str | None = None

    def __post_init__(self) -> None:
        _check_nodes(self.nodes)
        if not is_whole(self.per_node, 1):
            raise UsageError(f"per_node must be a whole number of at least 1, got {self.per_node!r}.")

    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """As `Partition.divide`."""
        pieces = self.nodes * self.per_node
        _check_enough(samples, self.nodes, self.per_node)
        generator = seed.generator()
        ordered = np.concatenate(list(_by_class(column(self.by), generator)))
        ends = np.cumsum(_dealt(samples, np.ones(pieces)))
        drawn = generator.permutation(pieces)
        starts = np.concatenate([[0], ends[:-1]])
        order = np.concatenate([ordered[starts[piece] : ends[piece]] for piece in drawn])
        sizes = (ends - starts)[drawn].reshape(self.nodes, self.per_node).sum(1)
        return Parts.of(order, sizes)


@dataclass(frozen=True)
class Quantity(Partition):
    """The nodes have different numbers of random samples.

    Every node gets ``min_samples``; the rest is dealt in proportion to weights. Exactly one of the first two arguments
    is given.

    Args:
        nodes: Number of nodes.
        alpha: The weights are drawn from a symmetric Dirichlet distribution: the smaller, the more unequal.
        power: The weights are 1, 2**-power, 3**-power, ... in random order.
        min_samples: So many samples has every node.
    """

    nodes: int
    alpha: float | None = None
    power: float | None = None
    min_samples: int = 1

    def __post_init__(self) -> None:
        _check_nodes(self.nodes)
        _check_min(self.min_samples)
        if (self.alpha is None) == (self.power is None):
            raise UsageError("Quantity needs either alpha or power.", cure="E.g. Quantity(nodes=100, alpha=0.5).")
        _check_positive(*(("power", self.power) if self.alpha is None else ("alpha", self.alpha)))

    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """As `Partition.divide`."""
        _check_enough(samples, self.nodes, self.min_samples)
        generator = seed.generator()
        if self.alpha is not None:
            weights = _shares(generator, self.alpha, self.nodes)
        else:
            ranks = generator.permutation(np.arange(1.0, self.nodes + 1))
            weights = np.exp(-min(float(self.power or 0.0), _LARGEST) * np.log(ranks))
        sizes = self.min_samples + _dealt(samples - self.nodes * self.min_samples, weights)
        return Parts.of(generator.permutation(samples), sizes)


@dataclass(frozen=True, eq=False)
class Natural(Partition):
    """Every value of a column is a node, such as a writer, a hospital or a town; its id is the value.

    Args:
        by: Name of the array that tells whose a sample is; or such values, one per sample.
    """

    by: Any

    def divide(self, samples: int, column: Column, seed: SeedTree) -> Parts:
        """As `Partition.divide`; nothing is random."""
        values, owners, sizes = np.unique(column(self.by), return_inverse=True, return_counts=True)
        names = [str(value) for value in values.tolist()]
        if "" in names:
            raise DatasetError("A sample belongs to nobody: its value is empty, and no node can be called that.")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DatasetError(f"Two nodes would be called {twice!r}.", cure="Give values whose texts differ.")
        return Parts.of(np.argsort(owners.reshape(-1), kind="stable"), sizes, tuple(names))


def check_parts(parts: Any, samples: int, partition: Partition) -> Parts:
    """Refuse what a partition, which may be a stranger's, has made if a sample is missing or there twice.

    Raises:
        UsageError: It is no division of ``samples`` samples.
    """
    who = type(partition).__name__
    if not isinstance(parts, Parts):
        raise UsageError(f"{who}.divide returned a {type(parts).__name__}.", cure="Return Parts.of(order, sizes).")
    order, bounds = np.asarray(parts.order), np.asarray(parts.bounds)
    whole = order.ndim == 1 and order.dtype.kind in "iu" and len(order) == samples
    if not whole or not np.array_equal(np.sort(order), np.arange(samples)):
        raise UsageError(f"{who}.divide does not give each of the {samples} samples to exactly one node.")
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != samples or (np.diff(bounds) < 1).any():
        raise UsageError(f"{who}.divide leaves a node without any sample.")
    if parts.names is not None and len(set(parts.names)) != len(parts):
        raise UsageError(f"{who}.divide gives {len(parts)} nodes {len(set(parts.names))} different names.")
    return parts


def _by_class(values: Array, generator: np.random.Generator) -> list[Array]:
    """The numbers of the samples of each class, in random order."""
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise DatasetError(
            "The samples cannot be divided by class: their target is no class, but numbers that are not whole.",
            cure="Name the array that holds the classes (by=...), or use IID or Quantity.",
        )
    _, classes = np.unique(values, return_inverse=True)
    classes = classes.reshape(-1)
    shuffled = generator.permutation(len(values))
    ordered = shuffled[np.argsort(classes[shuffled], kind="stable")]
    return np.split(ordered, np.cumsum(np.bincount(classes))[:-1])


def _shares(generator: np.random.Generator, alpha: float, nodes: int) -> Array:
    """One draw from the symmetric Dirichlet distribution."""
    return generator.dirichlet(np.full(nodes, min(float(alpha), _LARGEST)))


def _dealt(count: int, weights: Array) -> Array:
    """``count`` as whole numbers in proportion to ``weights``: the largest remainders are rounded up."""
    exact = weights / weights.sum() * count
    sizes: Array = np.floor(exact).astype(np.int64)
    behind = count - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:behind]] += 1
    return sizes


def _give_to_the_poor(owners: Array, sizes: Array, least: int, generator: np.random.Generator) -> None:
    """Move samples from the largest nodes to those with fewer than ``least``, in place."""
    lacking = np.repeat(np.arange(len(sizes)), np.maximum(least - sizes, 0))
    if not len(lacking):
        return
    given = _skimmed(sizes, len(lacking))
    by_owner = np.argsort(owners[shuffled := generator.permutation(len(owners))], kind="stable")
    starts = np.cumsum(sizes) - sizes
    picked = [shuffled[by_owner[starts[node] : starts[node] + given[node]]] for node in np.flatnonzero(given)]
    owners[np.concatenate(picked)] = lacking
    sizes -= given
    np.add.at(sizes, lacking, 1)


def _skimmed(sizes: Array, count: int) -> Array:
    """How many samples each node gives, ``count`` in all, so that the largest are levelled."""
    low, high = 0, int(sizes.max())
    while low < high:  # the lowest level above which there are no more than `count` samples
        middle = (low + high) // 2
        if int(np.maximum(sizes - middle, 0).sum()) <= count:
            high = middle
        else:
            low = middle + 1
    given: Array = np.maximum(sizes - low, 0)
    given[np.flatnonzero(sizes >= low)[: count - int(given.sum())]] += 1
    return given


def _check_nodes(nodes: object) -> None:
    if not is_whole(nodes, 1):
        raise UsageError(f"nodes must be a whole number of at least 1, got {nodes!r}.")


def _check_positive(name: str, value: object) -> None:
    if not (is_number(value) and 0 < value < np.inf):
        raise UsageError(f"{name} must be a number above 0, got {value!r}.")


def _check_min(least: object) -> None:
    if not is_whole(least, 1):
        raise UsageError(f"min_samples must be a whole number of at least 1, got {least!r}.")


def _check_enough(samples: int, nodes: int, each: int) -> None:
    if samples < nodes * each:
        raise UsageError(
            f"{samples} samples are too few for {nodes} nodes with at least {each} each.",
            cure="Ask for fewer nodes, or for fewer samples a node.",
        )
