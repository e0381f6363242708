"""The laws of partitions: each sample exactly once, sizes and skew as asked, and the same seed, the same parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.rng import SeedTree
from fedplug.simulation import IID, Dirichlet, Federation, Natural, Partition, Parts, Quantity, Shards

NODES = st.integers(1, 40)
POSITIVE = st.floats(1e-3, 1e3)
LEAST = st.integers(1, 3)
KINDS = st.one_of(
    st.builds(IID, NODES),
    st.builds(Dirichlet, NODES, POSITIVE, min_samples=LEAST),
    st.builds(Shards, NODES, st.integers(1, 4)),
    st.builds(Quantity, NODES, alpha=POSITIVE, min_samples=LEAST),
    st.builds(Quantity, NODES, power=POSITIVE, min_samples=LEAST),
)
LABELS = st.builds(  # skewed, and enough for 40 nodes with 4 samples each
    lambda count, classes, seed: np.random.default_rng(seed).geometric(1 / classes, count) - 1,
    st.integers(160, 300), st.integers(1, 6), st.integers(0, 2**32),
)  # fmt: skip
SEEDS = st.integers(0, 2**32)


def divide(partition: Partition, labels: np.ndarray, seed: int = 0) -> Parts:
    federation = Federation.from_arrays({"number": np.arange(len(labels)), "y": labels}, partition=partition, seed=seed)
    return federation._data.parts  # type: ignore[attr-defined] # shared data has parts


def sizes_of(parts: Parts) -> np.ndarray:
    return np.diff(parts.bounds)


def shares_of(parts: Parts, labels: np.ndarray) -> np.ndarray:
    """Of each class (row), the part that each node (column) has."""
    counts = np.array([np.bincount(labels[parts[node]], minlength=labels.max() + 1) for node in range(len(parts))]).T
    return counts / counts.sum(1, keepdims=True)


@given(KINDS, LABELS, SEEDS)
def test_each_sample_is_at_exactly_one_node_and_none_is_empty(partition, labels, seed) -> None:
    parts = divide(partition, labels, seed)
    assert len(parts) == partition.nodes
    assert sorted(parts.order.tolist()) == list(range(len(labels)))
    assert sizes_of(parts).min() >= getattr(partition, "min_samples", 1)


@given(KINDS, SEEDS)
def test_the_same_seed_gives_the_same_parts_and_another_one_others(partition, seed) -> None:
    labels = np.arange(400) % 5
    one, again, other = (divide(partition, labels, each) for each in (seed, seed, seed + 1))
    assert np.array_equal(one.order, again.order)
    assert np.array_equal(one.bounds, again.bounds)
    assert partition.nodes == 1 or not np.array_equal(one.order, other.order)


@given(NODES, LABELS, SEEDS)
def test_iid_parts_have_one_size(nodes, labels, seed) -> None:
    assert np.ptp(sizes_of(divide(IID(nodes), labels, seed))) <= 1


@given(st.integers(1, 20), st.integers(1, 4), LABELS, SEEDS)
def test_shards_are_runs_of_the_sorted_classes(nodes, per_node, labels, seed) -> None:
    parts = divide(Shards(nodes, per_node), labels, seed)
    assert np.ptp(sizes_of(parts)) <= per_node
    smallest = np.bincount(labels)[np.unique(labels)].min()
    if -(-len(labels) // (nodes * per_node)) <= smallest:  # then no piece can span more than two classes
        assert max(len(np.unique(labels[parts[node]])) for node in range(nodes)) <= 2 * per_node


def test_two_shards_of_a_class_or_less_give_most_nodes_two_classes() -> None:
    labels = np.arange(6000) % 10
    parts = divide(Shards(100), labels)
    classes = [len(np.unique(labels[parts[node]])) for node in range(100)]
    assert max(classes) == 2
    assert sum(classes) > 150


@given(st.integers(1, 30), st.floats(0.05, 5), LEAST, SEEDS)
def test_a_power_law_gives_the_sizes_that_it_says(nodes, power, least, seed) -> None:
    parts = divide(Quantity(nodes, power=power, min_samples=least), np.zeros(2000, np.int64), seed)
    weights = np.arange(1.0, nodes + 1) ** -power
    expected = least + (2000 - nodes * least) * weights / weights.sum()
    assert np.abs(np.sort(sizes_of(parts))[::-1] - expected).max() <= 1


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_spread_as_the_distribution_says(alpha) -> None:
    nodes, classes = 10, 400
    labels = np.repeat(np.arange(classes), 200)
    found = (shares_of(divide(Dirichlet(nodes, alpha), labels, 3), labels) ** 2).sum(1).mean()
    expected = (alpha + 1) / (nodes * alpha + 1)  # of the sum of squares of one draw
    assert abs(found / expected - 1) < 0.05
    quantity = divide(Quantity(1000, alpha=alpha), np.zeros(1_000_000, np.int64), 3)
    found = ((sizes_of(quantity) / 1e6) ** 2).sum()
    assert abs(found / ((alpha + 1) / (1000 * alpha + 1)) - 1) < 0.2


def test_a_large_alpha_is_like_iid_and_a_small_one_puts_a_class_into_one_node() -> None:
    labels = np.arange(10_000) % 10
    even = shares_of(divide(Dirichlet(10, 1e6), labels), labels)
    assert np.abs(even - 0.1).max() < 0.01
    uneven = shares_of(divide(Dirichlet(10, 1e-6), labels), labels)
    assert (np.sort(uneven, 1)[:, -1] > 0.99).all()


@given(st.integers(1, 60), st.floats(1e-6, 0.2), SEEDS)
def test_only_the_largest_nodes_give_to_those_that_would_be_empty(nodes, alpha, seed) -> None:
    labels = np.arange(120) % 3
    parts = sizes_of(divide(Dirichlet(nodes, alpha, min_samples=2), labels, seed))
    assert parts.sum() == 120
    assert parts.min() >= 2


def test_values_of_a_column_are_nodes() -> None:
    data = {"x": np.arange(6.0), "town": np.array(["nice", "lyon", "nice", "lyon", "paris", "nice"])}
    federation = Federation.from_arrays(data, partition=Natural("town"))
    assert {node: federation.dataset(node).column("x").tolist() for node in federation.nodes} == {
        "lyon": [1, 3], "nice": [0, 2, 5], "paris": [4],
    }  # fmt: skip
    outside = Federation.from_arrays(np.arange(4.0), np.zeros(4), partition=Natural([7, 8, 7, 7]))
    assert outside.dataset("7").arrays()["x"].tolist() == [0, 2, 3]
    assert list(outside.dataset("7").arrays()) == ["x", "y"]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60))
def test_a_column_divides_into_its_values(values) -> None:
    owners = np.array(values)
    data = {"owner": owners, "x": np.arange(len(values))}
    federation = Federation.from_arrays(data, partition=Natural("owner"))
    assert set(federation.nodes) == {str(value) for value in values}
    for node in federation.nodes:
        assert federation.dataset(node).column("x").tolist() == np.flatnonzero(owners == int(node)).tolist()


def test_a_partition_of_ones_own_is_used_and_checked() -> None:
    class Halves(Partition):
        def divide(self, samples: int, column: Any, seed: SeedTree) -> Parts:
            return Parts.of(np.arange(samples), np.array([samples // 2, samples - samples // 2]), ("a", "b"))

    federation = Federation.from_arrays(np.arange(5.0), np.zeros(5), partition=Halves())
    assert federation.dataset("b").column("x").tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts.of(np.array([0, 1, 1]), np.array([1, 2])), "each of the 3 samples to exactly one node"),
        (Parts.of(np.array([0, 1]), np.array([1, 1])), "each of the 3 samples to exactly one node"),
        (Parts.of(np.array([0, -1, 2]), np.array([1, 2])), "each of the 3 samples to exactly one node"),
        (Parts.of(np.array([0, 1, 7]), np.array([1, 2])), "each of the 3 samples to exactly one node"),
        (Parts.of(np.arange(3), np.array([3, 0])), "without any sample"),
        (Parts.of(np.arange(3), np.array([1, 2]), ("a", "a")), "2 nodes 1 different names"),
        ([[0], [1, 2]], r"returned a list"),
    ],
)
def test_a_partition_that_loses_samples_is_refused(parts, message) -> None:
    class Wrong(Partition):
        def divide(self, samples: int, column: Any, seed: SeedTree) -> Parts:
            return parts

    with pytest.raises(UsageError, match=message):
        Federation.from_arrays(np.arange(3.0), np.zeros(3), partition=Wrong())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IID(0), "nodes must be a whole number"),
        (lambda: IID(2.5), "nodes must be a whole number"),  # type: ignore[arg-type]
        (lambda: Dirichlet(3, 0), "alpha must be a number above 0"),
        (lambda: Dirichlet(3, float("nan")), "alpha must be a number above 0"),
        (lambda: Dirichlet(3, 1, min_samples=0), "min_samples must be a whole number"),
        (lambda: Shards(3, 0), "per_node must be a whole number"),
        (lambda: Quantity(3), "either alpha or power"),
        (lambda: Quantity(3, alpha=1, power=1), "either alpha or power"),
        (lambda: Quantity(3, power=-1), "power must be a number above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("partition", [IID(4), Dirichlet(2, 1, min_samples=2), Shards(2), Quantity(4, power=1)])
def test_more_nodes_than_samples_are_refused(partition) -> None:
    with pytest.raises(UsageError, match="3 samples are too few for"):
        divide(partition, np.zeros(3, np.int64))


def test_what_cannot_be_divided_is_refused_in_words() -> None:
    x = np.zeros((4, 2))
    with pytest.raises(DatasetError, match="no class, but numbers that are not whole"):
        Federation.from_arrays(x, np.array([0.5, 1, 2, 3]), partition=Dirichlet(2, 1))
    with pytest.raises(DatasetError, match="not said which array holds the classes"):
        Federation.from_arrays({"x": x}, partition=Shards(2, 1))
    with pytest.raises(DatasetError, match="no such array"):
        Federation.from_arrays({"x": x}, partition=Shards(2, 1, by="town"))
    with pytest.raises(DatasetError, match="must have one number or text per sample"):
        Federation.from_arrays({"x": x}, partition=Natural("x"))
    with pytest.raises(DatasetError, match="must have one number or text per sample"):
        Federation.from_arrays({"x": x}, partition=Natural([1, 2]))
    with pytest.raises(DatasetError, match="its value is empty"):
        Federation.from_arrays({"x": x}, partition=Natural(["a", "", "b", "c"]))
    with pytest.raises(UsageError, match="partition must say how"):
        Federation.from_arrays(x, np.zeros(4), partition=10)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a ndarray, without a target"):
        Federation.from_arrays(x, partition=IID(2))


def test_shared_samples_are_copies_that_a_plan_may_change() -> None:
    x = np.arange(6.0)
    federation = Federation.from_arrays(x, np.zeros(6), partition=IID(2))
    first = federation.dataset("node-0")
    assert first.column("x") is first.column("x")
    first.column("x")[:] = -1
    assert x.tolist() == [0, 1, 2, 3, 4, 5]
    assert federation.dataset("node-0").column("x").min() >= 0
    assert len(first) == 3
    assert federation.dataset("node-0").read(0).keys() == {"x", "y"}
