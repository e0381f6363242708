"""Reading genotypes from VCF files (plain, gzip or bgzip), as counts of alleles other than the reference.

The format is VCF 4.x (samtools.github.io/hts-specs); cyvcf2 reads it, after the whole file has been looked through for
lines that are longer than any memory, and for its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.extras import library
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.unpacked import Unpacked

SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz")

MAX_LINE = 2**26
"""Longest line in bytes: ten million genotypes and more."""

MAX_CELLS = 2**33
"""Most genotypes of a file."""

MISSING = -1
"""The dosage of a genotype that is not known."""

_CHUNK = 2**20
_CURE = "Look at it with: bcftools view FILE"


@dataclass(frozen=True)
class Genotypes:
    """The genotypes of a file.

    Attributes:
        samples: Their names, in the order of the file.
        variants: ``chromosome:position:reference:alternatives`` of each, in the order of the file.
        dosage: Alleles other than the reference, int8 of shape ``(samples, variants)``; -1 where one is not known.
        several: Number of variants with several alternatives, which are counted together.
    """

    samples: tuple[str, ...]
    variants: tuple[str, ...]
    dosage: Array
    several: int


def read_vcf(folder: Folder, path: PurePath, what: str) -> Genotypes:
    """Read all genotypes of a file.

    Args:
        folder: The folder of the data set.
        path: The file, one in it.
        what: How messages call it.

    Raises:
        DatasetError: It is no VCF file, cut off, too large, has no samples or no variants, a variant is broken, or two
            variants are the same.
    """
    _check_lines(folder, path, what)
    with closing(_opened(folder, path, what)) as reader:
        samples = tuple(reader.samples)
        if not samples:
            raise DatasetError(f"{what} has no samples: it lists variants without genotypes.")
        names, columns, several = [], [], 0
        for number, variant in enumerate(_variants(reader, what), 1):
            if number * len(samples) > MAX_CELLS:
                raise DatasetError(f"{what} holds more than {MAX_CELLS:,} genotypes.", cure="Choose variants first.")
            names.append(f"{variant.CHROM}:{variant.POS}:{variant.REF}:{','.join(variant.ALT) or '.'}")
            several += len(variant.ALT) > 1
            columns.append(_dosage(variant, len(samples), f"{what}: its variant {number}"))
    if not names:
        raise DatasetError(f"{what} has samples, but no variants.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{what} holds the variant {twice[:100]} twice.", cure="Make them one: bcftools norm -d")
    return Genotypes(samples, tuple(names), np.ascontiguousarray(np.array(columns, np.int8).T), several)


def _dosage(variant: Any, samples: int, what: str) -> Array:
    if "GT" not in (variant.FORMAT or ()):
        return np.full(samples, MISSING, np.int8)
    alleles = variant.genotype.array()[:, :-1]  # without the last column, which says whether the alleles are phased
    if alleles.shape[0] != samples or alleles.max(initial=0) > len(variant.ALT):
        raise DatasetError(f"{what} has a genotype with an allele that it does not list.", cure=_CURE)
    unknown = (alleles == -1).any(axis=1) | (alleles < 0).all(axis=1)  # -2 fills up those with fewer alleles
    counts = np.minimum((alleles > 0).sum(axis=1), np.iinfo(np.int8).max)
    return np.where(unknown, MISSING, counts).astype(np.int8)


def _variants(reader: Any, what: str) -> Iterator[Any]:
    done = 0
    try:
        for variant in reader:
            yield variant
            done += 1
    except (DatasetError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - cyvcf2 raises plain Exception
        raise DatasetError(f"{what} is broken at its variant {done + 1}.", cure=_CURE) from None


def _opened(folder: Folder, path: PurePath, what: str) -> Any:
    cyvcf2 = library("cyvcf2", "genomics")
    try:
        return cyvcf2.VCF(str(folder.root / path))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - likewise
        raise DatasetError(f"{what} is not a VCF file: its header cannot be read.", cure=_CURE) from None


def _check_lines(folder: Folder, path: PurePath, what: str) -> None:
    """Look through the whole file, unpacked, before a parser sees it."""
    with folder.open(path, what) as file:
        stream = Unpacked(file, what)
        start = stream.read(_CHUNK)
        if not start.startswith(b"##fileformat=VCF"):
            raise DatasetError(f"{what} is not a VCF file: it does not begin with ##fileformat=VCF.", cure=_CURE)
        length, chunk = 0, start
        while chunk:
            if b"\0" in chunk:
                raise DatasetError(f"{what} holds a zero byte, so it is no text.", cure=_CURE)
            cut = chunk.rfind(b"\n")
            length = length + len(chunk) if cut < 0 else len(chunk) - cut - 1
            if length > MAX_LINE:
                raise DatasetError(f"{what} has a line of more than {MAX_LINE:,} bytes.", cure=_CURE)
            chunk = stream.read(_CHUNK)
        if length:
            raise DatasetError(f"{what} is cut off: its last line does not end.", cure=_CURE)
