"""Data sets of type ``genomics``: expressions or genotypes, joined with a table of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetRecord, DatasetType, FileDataset, Inspection, check_columns
from fedplug.core.params import Array
from fedplug.node.datasets.cohort import Cohort, read_cohort
from fedplug.node.datasets.folders import Folder


class GenomicsDataset(FileDataset):
    """The matrix as one array (``expression`` or ``dosage``), and each column of the table of samples as another.

    Genes and variants can be named as columns too: ``table(["TP53", "MYC", "age"])`` has the same columns at every
    node, whatever the order in its files.
    """

    _cohort: Cohort | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The genes or variants, in the order of the matrix."""
        self.arrays()
        assert self._cohort is not None
        return self._cohort.features

    def column(self, name: str) -> Array:
        """One array, one column of the table of samples, or one gene or variant.

        Raises:
            DatasetError: There is none of that name.
        """
        arrays = self.arrays()
        place = self._places.get(name)
        matrix = self._matrix()
        if name in arrays or place is None or matrix is None:
            return super().column(name)
        return matrix[:, place]

    def table(self, columns: Sequence[str] | None = None, *, without: Sequence[str] = ()) -> Array:
        """As `NodeDataset.table`; the matrix stands in it with all its genes or variants, in their order.

        Raises:
            DatasetError: A column does not exist or is not numeric.
        """
        for name in without:
            self.column(name)
        names = [name for name in (self.arrays() if columns is None else columns) if name not in without]
        parts = []
        for name in names:
            values = self.column(name)
            parts.append(values if values.ndim == 2 else super().table([name]))
        return np.hstack(parts).astype(np.float64, copy=False)

    def _matrix(self) -> Array | None:
        kind = self._cohort.kind if self._cohort else ""
        return next((array for name, array in self.arrays().items() if self.record.source(name) == kind), None)

    def _read(self) -> dict[str, Array]:
        found = read_cohort(Folder(self.path, self.label, for_owner=False), self.record.options)
        check_columns(self.label, "column", list(found.arrays), self.record.sources)
        self._cohort = found
        self._places = {name: place for place, name in enumerate(found.features)}
        return dict(found.arrays)


class GenomicsType(DatasetType):
    """A VCF file or a table of expressions, and a table of the samples, in one folder."""

    name = "genomics"
    title = "Genomics: expressions or genotypes (VCF), with a table of the samples"
    takes = "folder"
    options = MappingProxyType(
        {
            "matrix": DatasetOption(
                "File with genotypes or expressions",
                "A file in the folder: .vcf, .vcf.gz, .tsv or .csv. Without it: the only one.",
            ),
            "samples": DatasetOption(
                "Table of samples", "Its file in the folder. Without it: samples.csv or samples.tsv."
            ),
            "index": DatasetOption(
                "Column with the names of the samples",
                "A column of that table. Without it: a usual one, such as sample or id, or the first.",
            ),
        }
    )

    def inspect(self, path: Path, label: str, columns: Sequence[str] | None, options: Mapping[str, str]) -> Inspection:
        """As `DatasetType.inspect`: all is read."""
        found = read_cohort(Folder(path, label), options)
        names = tuple(columns or found.arrays)
        check_columns(label, "column", list(found.arrays), names)
        largest = max((found.arrays[name] for name in names), key=lambda array: array.size)
        return Inspection(
            largest.shape, names, tuple(found.dtypes[name] for name in names), found.notes, _missing(found, names)
        )

    def open(self, record: DatasetRecord) -> GenomicsDataset:
        """As `DatasetType.open`."""
        return GenomicsDataset(record)

    def example(self, folder: Path) -> Path:
        """As `DatasetType.example`: expressions of two genes in four samples."""
        (folder / "expression.tsv").write_text(
            "gene\ta\tb\tc\td\nTP53\t1\t2\t3\t4\nMYC\t4\t3\t2\t1\n", encoding="utf-8"
        )
        (folder / "samples.csv").write_text("sample,status\na,0\nb,0\nc,1\nd,1\n", encoding="utf-8")
        return folder


def _missing(found: Cohort, names: Sequence[str]) -> dict[str, int]:
    counts = {}
    for name in names:
        array = found.arrays[name]
        if name == "dosage" and found.kind == "dosage":
            counts[name] = int((array < 0).sum())
        elif array.dtype.kind == "f":
            counts[name] = int(np.isnan(array).sum())
    return counts
