"""The conformance kit for types of data sets: ours pass, and each law is broken by somebody."""

from __future__ import annotations

import numpy as np
import pytest

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetType, FileDataset, Inspection, StoredDataset
from fedplug.core.errors import DatasetError
from fedplug.node.datasets.arrays_file import ArraysType
from fedplug.node.datasets.csv_file import CsvType
from fedplug.testing import LawBrokenError, check_dataset_type


@pytest.mark.parametrize("kind", [CsvType, ArraysType])
def test_ours_pass(kind):
    assert {result.outcome for result in check_dataset_type(kind())} == {"pass"}


class Numbers(FileDataset):
    def _read(self):
        return {"n": read(self.path, self.label)}


class NumberType(DatasetType):
    """One number a line."""

    name = "numbers"
    suffixes = (".num",)

    def inspect(self, path, label, columns, options):
        return Inspection((len(read(path, label)),), ("n",), ("float64",))

    def open(self, record):
        return Numbers(record)

    def example(self, folder):
        (folder / "a.num").write_text("1\n2\n3\n")
        return folder / "a.num"


def read(path, label):
    try:
        found = [float(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        raise DatasetError(f"{label} cannot be read.") from None
    if not found:
        raise DatasetError(f"{label} is empty.")
    return np.array(found)


class WrongLength(NumberType):
    def inspect(self, path, label, columns, options):
        return Inspection((7,), ("n",), ("float64",))


class Restless(NumberType):
    class Data(StoredDataset):
        reads = 0

        def __len__(self):
            return 3

        def read(self, index):
            self.check_index(index)
            type(self).reads += 1
            return {"n": type(self).reads}

    def open(self, record):
        return self.Data(record)


class Endless(NumberType):
    class Data(Numbers):
        def read(self, index):
            return {"n": self.arrays()[self.record.columns[0]][index % 3]}

    def open(self, record):
        return self.Data(record)


class DeafToNames(NumberType):
    class Data(StoredDataset):
        def __len__(self):
            return 3

        def read(self, index):
            self.check_index(index)
            return {"n": index}

    def open(self, record):
        return self.Data(record)


class Unlabelled(NumberType):
    options = {"unit": "the unit of the numbers"}  # noqa: RUF012 - wrong in more than one way


class DeafToPlans(NumberType):
    options = {"units": DatasetOption("Units", renames="unit")}  # noqa: RUF012

    def names_here(self, path, label, option):
        return ["mm"]


class Nameless(DeafToPlans):
    def names_here(self, path, label, option):
        return []


class Talkative(NumberType):
    def inspect(self, path, label, columns, options):
        try:
            return super().inspect(path, label, columns, options)
        except DatasetError:
            raise DatasetError(f"{path} cannot be read.") from None


class Gullible(NumberType):
    def inspect(self, path, label, columns, options):
        return Inspection((3,), ("n",), ("float64",))


class Fragile(NumberType):
    def inspect(self, path, label, columns, options):
        if path.exists() and path.stat().st_size < 6:
            raise RuntimeError("cut short")
        return super().inspect(path, label, columns, options)


def test_a_type_that_obeys_the_laws_passes():
    assert {result.outcome for result in check_dataset_type(NumberType())} == {"pass"}


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (WrongLength, "describes"), (Restless, "reads"), (Endless, "reads"), (DeafToNames, "uses-plan-names"),
        (Unlabelled, "loading-plans"), (DeafToPlans, "loading-plans"), (Nameless, "loading-plans"),
        (Talkative, "refuses"), (Gullible, "refuses"), (Fragile, "survives-damage"),
    ],
)  # fmt: skip
def test_each_law_is_broken_by_somebody(kind, law):
    results = check_dataset_type(kind(), on_fail="report")
    assert law in {result.check for result in results if result.outcome == "fail"}
    with pytest.raises((LawBrokenError, RuntimeError)):
        check_dataset_type(kind())
