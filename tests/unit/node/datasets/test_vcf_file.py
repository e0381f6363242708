from __future__ import annotations

import gzip
from pathlib import PurePath

import numpy as np
import pytest

from fedplug.core.errors import DatasetError
from fedplug.node.datasets import vcf_file
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.vcf_file import read_vcf

HEAD = (
    "##fileformat=VCFv4.2\n##contig=<ID=1,length=100000>\n"
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tann\tbob\tcy\n"
)
WHAT = "Data set 'cohort': 'a.vcf'"


def row(position, genotypes, alternative="G", form="GT"):
    return "\t".join(["1", str(position), ".", "A", alternative, ".", ".", ".", form, *genotypes]) + "\n"


BODY = (
    row(10, ["0/1", "1|1", "./."])
    + row(20, ["1/2", "0", "."], "G,T")
    + row(30, ["0/0", "0/.", "0/0"], ".")
    + row(40, ["5", "6", "7"], form="DP")
)
DOSAGE = [[1, 2, 0, -1], [2, 0, -1, -1], [-1, -1, 0, -1]]


def written(tmp_path, text, name="a.vcf"):
    file = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def read(file):
    return read_vcf(Folder(file.parent, WHAT), PurePath(file.name), WHAT)


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz"])
def test_genotypes_become_counts_of_alternative_alleles(tmp_path, name):
    found = read(written(tmp_path, HEAD + BODY, name))
    assert found.samples == ("ann", "bob", "cy")
    assert found.variants == ("1:10:A:G", "1:20:A:G,T", "1:30:A:.", "1:40:A:G")
    assert found.dosage.dtype == np.int8
    np.testing.assert_array_equal(found.dosage, DOSAGE)
    assert found.several == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with ##fileformat=VCF"),
        ("chromosome,position\n1,2\n", "does not begin with ##fileformat=VCF"),
        ("##fileformat=VCFv4.2\n", "its header cannot be read"),
        (HEAD, "has samples, but no variants"),
        (HEAD.replace("\tFORMAT\tann\tbob\tcy", "") + "1\t10\t.\tA\tG\t.\t.\t.\n", "has no samples"),
        (HEAD + row(10, ["0/1", "1|1"]), "is broken at its variant 1"),
        (HEAD + BODY + row("x", ["0/1", "1|1", "0/0"]), "is broken at its variant 5"),
        (HEAD + row(-5, ["0/1", "1|1", "0/0"]), "is broken at its variant 1"),
        (HEAD + row(10, ["0/b", "1|1", "0/0"]), "is broken at its variant 1"),
        (HEAD + row(10, ["0/9", "1|1", "0/0"]), "its variant 1 has a genotype with an allele that it does not list"),
        (HEAD + BODY + row(10, ["0/1", "1|1", "0/0"]), "holds the variant 1:10:A:G twice"),
        (HEAD + BODY[:-4], "its last line does not end"),
        (HEAD.encode() + b"1\t10\0", "holds a zero byte"),
    ],
)
@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz"])
def test_a_broken_file_is_refused_with_the_reason(tmp_path, text, said, name):
    with pytest.raises(DatasetError) as refused:
        read(written(tmp_path, text, name))
    assert said in refused.value.message
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz"])
def test_a_file_cut_off_at_any_byte_is_refused_or_ends_after_a_whole_variant(tmp_path, name):
    data = written(tmp_path, HEAD + BODY, name).read_bytes()
    for length in range(len(data)):
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes(data[:length])
        try:
            found = read(cut)
        except DatasetError:
            continue
        assert name == "a.vcf"  # what gzip has packed has an end that can be missed
        np.testing.assert_array_equal(found.dosage, np.array(DOSAGE)[:, : len(found.variants)])


def test_a_line_longer_than_memory_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(vcf_file, "MAX_LINE", 2**20)
    with pytest.raises(DatasetError, match="has a line of more than 1,048,576 bytes"):
        read(written(tmp_path, HEAD + "1" * 2**22, "a.vcf.gz"))
