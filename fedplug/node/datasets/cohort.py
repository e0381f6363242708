"""Genomics: a matrix of expressions or genotypes, joined with the table of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.matrix_file import read_matrix
from fedplug.node.datasets.side_table import find_table, matched_rows, read_side_table
from fedplug.node.datasets.subjects import some
from fedplug.node.datasets.vcf_file import MISSING, read_vcf
from fedplug.node.datasets.vcf_file import SUFFIXES as VCF_SUFFIXES

TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


@dataclass(frozen=True)
class Cohort:
    """Samples with what was measured of each.

    Attributes:
        kind: ``"expression"`` or ``"dosage"``: what the matrix holds, and its name among the arrays.
        features: Names of its columns: genes, or variants.
        arrays: The matrix, of shape ``(samples, features)``, and the columns of the table of samples.
        dtypes: Of each array, as they are told.
        notes: What the owner should know. They hold names of samples.
    """

    kind: str
    features: tuple[str, ...]
    arrays: Mapping[str, Array]
    dtypes: Mapping[str, str]
    notes: tuple[str, ...]


def read_cohort(folder: Folder, options: Mapping[str, str]) -> Cohort:
    """Read the matrix and the table of a folder, and keep the samples that both have, in the order of the table.

    Args:
        folder: The folder: one file with a matrix (VCF or table), and one table of samples.
        options: ``samples`` (the name of the table of samples, by default ``samples.csv`` or ``samples.tsv``),
            ``matrix`` (the name of the other file) and ``index`` (the column with the names of the samples).

    Raises:
        DatasetError: A file is missing or broken, or no sample is in both.
    """
    files = folder.files()
    matrix = _matrix_file(folder, files, options)
    rest = [file for file in files if file != matrix]
    table = find_table(folder, rest, options.get("samples", ""), ("samples",))
    if table is None:
        raise DatasetError(
            f"{folder.label} has no table of samples beside its matrix.", cure="It should be called samples.csv."
        )
    what = f"{folder.label}: {matrix.name!r}" if folder.for_owner else f"{folder.label}: its matrix"
    side = read_side_table(folder, table, options.get("index", ""))
    notes: list[str] = []
    if matrix.name.lower().endswith(VCF_SUFFIXES):
        kind, dtype = "dosage", "int8"
        genotypes = read_vcf(folder, matrix, what)
        names, features, values = genotypes.samples, genotypes.variants, genotypes.dosage
        if genotypes.several:
            notes.append(f"{genotypes.several} variants have several alternative alleles, which are counted together.")
    else:
        kind, dtype = "expression", "float32"
        found = read_matrix(folder, matrix, what)
        if (side.rows_of(found.columns) >= 0).sum() >= (side.rows_of(found.rows) >= 0).sum():
            found = found.turned()  # whose names the table knows are the samples
        names, features, values = found.rows, found.columns, found.values
    rows = matched_rows(folder, side, names)
    if kind in side.columns:
        raise DatasetError(f"{folder.label}: its table of samples has a column {kind!r}, as the matrix is called.")
    kept = np.flatnonzero(rows >= 0)
    kept = kept[np.argsort(rows[kept], kind="stable")]
    arrays = {kind: np.ascontiguousarray(values[kept])}
    arrays |= {name: column[rows[kept]] for name, column in side.columns.items()}
    notes += _notes(kind, names, rows, len(side.places) - len(kept), arrays[kind])
    return Cohort(kind, features, arrays, {kind: f"{dtype}[{len(features)}]", **side.dtypes}, tuple(notes))


def _matrix_file(folder: Folder, files: Sequence[PurePath], options: Mapping[str, str]) -> PurePath:
    asked, samples = options.get("matrix", ""), options.get("samples", "")
    if asked:
        if PurePath(asked) not in files:
            raise DatasetError(f"{folder.label} has no file {asked!r} in its folder.")
        return PurePath(asked)
    genotypes = [file for file in files if file.name.lower().endswith(VCF_SUFFIXES)]
    tables = [
        file
        for file in files
        if file.name.lower().endswith(TABLES) and file.name != samples and file.stem.lower() != "samples"
    ]
    found = genotypes or tables
    if len(found) != 1:
        what = "genotypes" if genotypes else "expressions"
        raise DatasetError(
            f"{folder.label} has {len(found)} files that could be its matrix of {what}; it needs one.",
            cure="Say which by the options 'matrix' and 'samples'; or call the table of samples samples.csv.",
        )
    return found[0]


def _notes(kind: str, names: Sequence[str], rows: Array, extra: int, matrix: Array) -> list[str]:
    notes = []
    without = [name for name, row in zip(names, rows.tolist(), strict=True) if row < 0]
    if without:
        notes.append(f"{len(without)} samples of the matrix are not in the table, and are left out: {some(without)}.")
    if extra:
        notes.append(f"{extra} rows of the table have no sample in the matrix, and are left out.")
    missing = int(np.isnan(matrix).sum()) if kind == "expression" else int((matrix == MISSING).sum())
    if missing:
        as_what = "NaN" if kind == "expression" else str(MISSING)
        notes.append(f"{missing:,} of {matrix.size:,} values of the matrix are missing; plans see {as_what}.")
    return notes
