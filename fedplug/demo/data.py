"""The demo's data: two real data sets that scikit-learn ships, cut into three unequal hospitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedplug.core.errors import UnknownNameError, UsageError
from fedplug.core.params import Array
from fedplug.core.rng import SeedTree

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")


@dataclass(frozen=True)
class DemoData:
    """One data set of the demo.

    Attributes:
        name: Name of the data set.
        summary: What it is, for the reader.
        columns: Names of the features.
        target: Name of the column to predict.
        classes: What the values 0, 1, ... of that column mean.
        hospitals: Hospital → its ``(features, labels)``.
        held_out: ``(features, labels)`` that no hospital has, to judge by.
    """

    name: str
    summary: str
    columns: Sequence[str]
    target: str
    classes: Sequence[str]
    hospitals: Mapping[str, tuple[Array, Array]]
    held_out: tuple[Array, Array]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags under which the hospitals register the data."""
        return ("#" + self.name, "#demo")


def load(name: str, seed: int = 7) -> DemoData:
    """The data set called ``name``: a quarter of each class is held out, the rest is cut non-IID.

    Raises:
        UnknownNameError: There is no such data set.
        UsageError: scikit-learn, which carries the data, is not installed.
    """
    if name not in _SHARES:
        raise UnknownNameError("demo data set", name, _SHARES)
    try:
        from sklearn import datasets
    except ImportError:
        raise UsageError(
            "The demo's data comes with scikit-learn, which is not installed.", cure="pip install scikit-learn"
        ) from None
    bunch = datasets.load_breast_cancer() if name == "breast-cancer" else datasets.load_digits()
    features, labels = np.asarray(bunch.data, np.float64), np.asarray(bunch.target, np.int64)
    seeds = SeedTree.root(seed).child("demo", name)
    held_out, parts = cut(labels, _SHARES[name], seeds)
    return DemoData(
        name=name,
        summary=_SUMMARIES[name],
        columns=[str(column).replace(" ", "_") for column in bunch.feature_names],
        target="diagnosis" if name == "breast-cancer" else "digit",
        classes=[str(word) if name == "breast-cancer" else f"digit {word}" for word in bunch.target_names],
        hospitals={h: (features[rows], labels[rows]) for h, rows in zip(HOSPITALS, parts, strict=True)},
        held_out=(features[held_out], labels[held_out]),
    )


def cut(labels: Array, shares: Mapping[int, Sequence[float]], seeds: SeedTree) -> tuple[Array, list[Array]]:
    """Hold out a quarter of each class and deal the rest to the hospitals.

    Args:
        labels: Class of each sample.
        shares: Class → share of it that each hospital gets; the shares of a class sum to 1.
        seeds: Where the shuffling comes from.

    Returns:
        Rows that are held out, and the rows of each hospital, sorted.
    """
    held_out: list[Array] = []
    parts: list[list[Array]] = [[] for _ in HOSPITALS]
    for label, share in shares.items():
        rows = seeds.child(label).generator().permutation(np.flatnonzero(labels == label))
        quarter = len(rows) // 4
        held_out.append(rows[:quarter])
        rest = rows[quarter:]
        edges = np.round(np.cumsum(share)[:-1] * len(rest)).astype(int)
        for part, piece in zip(parts, np.split(rest, edges), strict=True):
            part.append(piece)
    return np.sort(np.concatenate(held_out)), [np.sort(np.concatenate(part)) for part in parts]


# A referral centre sees mostly malignant tumours (class 0), a screening centre hardly any.
_SHARES: dict[str, dict[int, tuple[float, float, float]]] = {
    "breast-cancer": {0: (0.85, 0.12, 0.03), 1: (0.05, 0.35, 0.60)},
    "digits": {
        digit: ((0.90, 0.05, 0.05), (0.05, 0.90, 0.05), (0.05, 0.05, 0.90))[min(digit // 3, 2)] for digit in range(10)
    },
}
_SUMMARIES = {
    "breast-cancer": "569 breast tumours, 30 measurements each; benign or malignant? (Wisconsin diagnostic, 1995)",
    "digits": "1,797 handwritten digits of 8 x 8 pixels; which digit? (UCI optical recognition, 1998)",
}
