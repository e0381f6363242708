from __future__ import annotations

import contextlib
from pathlib import PurePath

import edfio
import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import DatasetError
from fedplug.node.datasets.edf_file import check_edf, read_edf
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.wfdb_record import check_record, read_record

WHAT = "Data set 'ecg': 'a'"
RNG = np.random.default_rng(5)
ECG = RNG.uniform(-1, 1, 400)
RESP = RNG.uniform(-10, 10, 100)


@pytest.fixture
def edf(tmp_path):
    signals = [
        edfio.EdfSignal(ECG, 100, label="ECG", physical_dimension="mV", physical_range=(-1, 1)),
        edfio.EdfSignal(RESP, 25, label="RESP", physical_dimension="L", physical_range=(-10, 10)),
    ]
    file = tmp_path / "a.edf"
    edfio.Edf(signals, annotations=[edfio.EdfAnnotation(1.0, None, "apnoea")]).write(file)
    return file


def check(file):
    with open(file, "rb") as opened:
        return check_edf(opened, WHAT)


def changed(file, place, new):
    data = bytearray(file.read_bytes())
    data[place : place + len(new)] = new
    file.write_bytes(bytes(data))
    return file


def test_channels_of_an_edf_file_are_told_without_its_annotations(edf):
    found = check(edf)
    assert [(c.name, c.rate, c.samples, c.unit) for c in found.channels] == [
        ("ECG", 100.0, 400, "mV"),
        ("RESP", 25.0, 100, "L"),
    ]
    assert found.seconds == 4.0


def test_a_stretch_of_an_edf_file_is_read_in_physical_units(edf):
    resp, ecg = read_edf(edf, WHAT, ["RESP", "ECG"], 1.0, 3.0)
    np.testing.assert_allclose(ecg, ECG[100:300], atol=1e-4)
    np.testing.assert_allclose(resp, RESP[25:75], atol=1e-3)
    assert ecg.dtype == np.float32


@pytest.mark.parametrize(
    ("place", "new", "said"),
    [
        (0, b"1", "begins with no EDF header"),
        (184, b"1000    ", "contradicts itself about its own length"),
        (236, b"-1      ", "the recording was never finished"),
        (236, b"99999999", "promises 99,999,999 data records"),
        (236, b"3       ", "promises 3 data records"),
        (236, b"4.5     ", "number of data records in its header is no whole number"),
        (236, b"nan     ", "number of data records in its header is no number"),
        (244, b"-1      ", "lasts -1 seconds"),
        (244, b"0       ", "lasts 0 seconds"),
        (252, b"0   ", "names 0 channels"),
        (252, b"-3  ", "names -3 channels"),
        (252, b"9999", "names 9999 channels"),
        (252, b"1_0 ", "number of channels in its header is no number"),
        (256 + 3 * 216, b"-5      ", "gives a channel -5 samples"),
        (256 + 3 * 216, b"1e300   ", "promises 4 data records"),
        (256 + 3 * 104, b"1       ", "lies between 1 and 1 (physical)"),
        (256 + 3 * 120, b"32767   ", "lies between 32767 and 32767 (digital)"),
        (256, b"RESP            ", "has two channels called 'RESP'"),
    ],
)
def test_an_edf_header_that_lies_is_refused(edf, place, new, said):
    with pytest.raises(DatasetError) as refused:
        check(changed(edf, place, new))
    assert said in refused.value.message


def test_an_edf_file_cut_off_at_any_byte_is_refused(edf, tmp_path):
    data = edf.read_bytes()
    for length in range(len(data)):
        cut = tmp_path / "cut.edf"
        cut.write_bytes(data[:length])
        with pytest.raises(DatasetError):
            check(cut)


@given(flips=st.lists(st.tuples(st.integers(0, 1023), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3))
def test_whatever_an_edf_header_says_it_is_read_or_refused(tmp_path_factory, flips):
    file = tmp_path_factory.getbasetemp() / "flipped.edf"
    edfio.Edf([edfio.EdfSignal(ECG, 100, label="ECG"), edfio.EdfSignal(RESP, 25, label="RESP")]).write(file)
    for place, new in flips:
        changed(file, place, new)
    with contextlib.suppress(DatasetError):
        found = check(file)
        arrays = read_edf(file, WHAT, [c.name for c in found.channels], 0.0, found.seconds)
        assert [len(array) for array in arrays] == [channel.samples for channel in found.channels]


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    signals = np.column_stack([ECG, RNG.uniform(-1, 1, 400)])
    wfdb.wrsamp("a", 100, ["mV", "mV"], ["I", "II"], signals, fmt=["16", "16"], write_dir=str(folder))
    return folder / "a.hea"


def check_wfdb(header):
    return check_record(Folder(header.parent, "Data set 'ecg'"), PurePath(header.name), WHAT)


def test_a_record_of_wfdb_is_checked_and_read(record):
    found = check_wfdb(record)
    assert [(c.name, c.rate, c.samples, c.unit) for c in found.channels] == [
        ("I", 100.0, 400, "mV"),
        ("II", 100.0, 400, "mV"),
    ]
    assert found.seconds == 4.0
    second, first = read_record(record, WHAT, ["II", "I"], 1.0, 3.0)
    np.testing.assert_allclose(first, ECG[100:300], atol=1e-3)
    assert second.shape == (200,)


@pytest.mark.parametrize("form", ["80", "16", "24", "32", "212"])
def test_formats_of_samples_are_read(tmp_path, form):
    wfdb.wrsamp("b", 100, ["mV"], ["I"], ECG[:, None], fmt=[form], write_dir=str(tmp_path))
    assert check_wfdb(tmp_path / "b.hea").channels[0].samples == 400
    (found,) = read_record(tmp_path / "b.hea", WHAT, ["I"], 0.0, 4.0)
    np.testing.assert_allclose(found, ECG, atol=0.02)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a.dat", "../a.dat", "a file outside its own folder"),
        ("a.dat", "/etc/passwd", "a file outside its own folder"),
        ("a.dat", "x::http://127.0.0.1/a", "a file outside its own folder"),
        ("a.dat", "b.dat", "the file of samples that its header names cannot be opened"),
        ("a 2 100 400", "a 2 100 401", "promises 1,604 bytes of samples; the file holds 1,600"),
        ("a 2 100 400", "a 2 100 99999999999999999999999", "bytes of samples; the file holds 1,600"),
        ("a 2 100 400", "a 2 100 -4", "does not say how many channels and samples"),
        ("a 2 100 400", "a 2 100", "does not say how many channels and samples"),
        ("a 2 100 400", "a 0 100 400", "has 0 channels of 400 samples"),
        ("a 2 100 400", "a 3 100 400", "promises 3 channels, but does not describe them"),
        ("a 2 100 400", "a 2 0 400", "samples per second"),
        ("a 2 100 400", "a/2 2 100 400", "is made of several segments"),
        (" 16 ", " 516 ", "stores samples in the format '516'"),
        (" 16 ", " 16x9 ", "promises"),
        (" 16 ", " 16+9 ", "promises 1,609 bytes"),
        (" II", " I", "has two channels called 'I'"),
    ],
)
def test_a_header_of_wfdb_that_lies_is_refused(record, old, new, said):
    text = record.read_text()
    assert old in text
    record.write_text(text.replace(old, new))
    with pytest.raises(DatasetError) as refused:
        check_wfdb(record)
    assert said in refused.value.message
    assert str(record.parent) not in str(refused.value)


def test_samples_that_are_a_link_to_elsewhere_are_refused(record, tmp_path):
    samples = record.with_suffix(".dat")
    samples.rename(tmp_path / "outside.dat")
    samples.symlink_to(tmp_path / "outside.dat")
    with pytest.raises(DatasetError, match="is a link that leads out of the folder"):
        check_wfdb(record)


def test_a_record_cut_off_at_any_byte_is_refused(record):
    samples = record.with_suffix(".dat")
    data = samples.read_bytes()
    for length in range(0, len(data), 7):
        samples.write_bytes(data[:length])
        with pytest.raises(DatasetError):
            check_wfdb(record)


def test_a_header_of_wfdb_cut_off_at_any_byte_is_read_or_refused(record):
    data = record.read_bytes()
    for length in range(len(data)):
        record.write_bytes(data[:length])
        with contextlib.suppress(DatasetError):
            check_wfdb(record)
