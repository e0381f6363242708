"""The types that read folders: what they tell the owner, what plans get, and what is refused."""

from __future__ import annotations

import os
import sys

import edfio
import nibabel
import numpy as np
import pytest
from PIL import Image

from fedplug.core.errors import DatasetError, FedplugError, UsageError
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.registry import DatasetCache, dataset_type, inspect_file

LIBRARY = {"images": "PIL.Image", "medical": "nibabel.nifti1", "signals": "edfio", "genomics": "cyvcf2"}
KINDS = ("images", "medical", "signals", "genomics", "mnist")


def add(folder, type, **more):
    return inspect_file(folder, name="data", type=type, tags=["x"], **more)


def opened(folder, type, **more):
    return DatasetCache().get(add(folder, type, **more)[0])


def notes_of(folder, type, **more):
    return " ".join(add(folder, type, **more)[1])


@pytest.fixture
def images(tmp_path):
    for name in ("cat", "dog", "cow"):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = np.full((4, 6, 3), 10 * number + len(name), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_classes_are_numbered_by_name(images):
    record, notes = add(images, "images")
    assert (record.shape, record.columns, record.target) == ((6, 4, 6, 3), ("image", "label"), "label")
    assert record.dtypes == ("uint8[4,6,3]", "class[cat,cow,dog]")
    assert notes == ("Classes, with their images: cat 2, cow 2, dog 2.",)
    dataset = DatasetCache().get(record)
    assert dataset.classes == ("cat", "cow", "dog")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    sample = dataset.read(3)
    assert sample["label"] == 1
    assert sample["image"].tolist() == np.full((4, 6, 3), 13).tolist()


def test_classes_get_the_names_and_numbers_that_plans_use(images):
    dataset = opened(images, "images", options={"classes": "pet=cat|dog; wild=; farm=cow"})
    assert dataset.classes == ("farm", "pet", "wild")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 1]


def test_mixed_images_and_files_that_are_none_are_told(images):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(images / "cat" / "small.png")
    (images / "cat" / "notes.txt").write_text("nothing")
    (images / "readme.txt").write_text("nothing")
    record, notes = add(images, "images")
    told = " ".join(notes)
    assert "The images have 2 sizes: 6 x 4 (6), 3 x 3 (1)." in told
    assert "1 images are grey and 6 are in colour." in told
    assert "2 files are not images" in told
    assert record.shape == (7,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": "pet=horse"}, "has no folder 'horse' with images"),
        ({"classes": "pet"}, "cannot be understood"),
        ({"classes": "pet=cat; tame=cat"}, "'cat' stands for two names"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_options_that_do_not_fit_are_refused(images, options, said):
    with pytest.raises((DatasetError, UsageError)) as refused:
        add(images, "images", options=options)
    assert said in str(refused.value)


def volume(file, value=1, shape=(3, 2, 2)):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.full(shape, value, np.int16), np.eye(4)).to_filename(file)


@pytest.fixture
def subjects(tmp_path):
    for number in range(3):
        volume(tmp_path / f"00{number}" / "T1" / "any.nii.gz", number)
        if number < 2:
            volume(tmp_path / f"00{number}" / "T2.nii", 10 + number)
    (tmp_path / "demographics.csv").write_text("code,age,sex\n000,40,f\n1,,m\n9,50,f\n")
    return tmp_path


def test_what_subjects_lack_is_told_and_counted(subjects):
    record, notes = add(subjects, "medical")
    assert record.columns == ("T1", "T2", "age", "sex")
    assert record.dtypes == ("int16[3,2,2]", "int16[3,2,2]", "float64", "str")
    assert record.missing == {"T2": 1, "age": 2, "sex": 1}
    assert notes == (
        "1 of 3 subjects have no T2: 002.",
        "1 of 3 subjects have no row in the table of demographics: 002.",
        "1 rows of the table of demographics belong to no subject.",
    )


def test_a_subject_is_read_with_what_is_asked_for(subjects):
    dataset = opened(subjects, "medical")
    assert len(dataset) == 3
    assert dataset.having(["T1", "T2"]).tolist() == [0, 1]
    assert dataset.having(["T2", "age"]).tolist() == [0]
    assert sorted(dataset.read(2)) == ["T1"]
    found = dataset.read(1, ["T2", "sex"])
    assert found["T2"].tolist() == np.full((3, 2, 2), 11).tolist()
    assert found["sex"] == "m"
    with pytest.raises(DatasetError, match="subject 3 has no 'T2'"):
        dataset.read(2, ["T2"])
    with pytest.raises(DatasetError, match="has no modality or column 'CT'"):
        dataset.having(["CT"])


def test_volumes_that_differ_are_told(subjects):
    volume(subjects / "002" / "T1" / "any.nii.gz", shape=(5, 2, 2))
    assert "T1: the volumes have 2 shapes: 3 x 2 x 2 (2), 5 x 2 x 2 (1)." in notes_of(subjects, "medical")


def test_files_named_as_in_bids_are_found(tmp_path):
    for number in (1, 2):
        volume(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_ses-1_T1w.nii.gz")
        volume(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_ses-1_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\nsub-2\t31\n")
    assert add(tmp_path, "medical")[0].columns == ("T1w", "T2w", "age")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: volume(f / "001" / "T1" / "other.nii.gz"), "is one of 2 volumes in a folder"),
        (lambda f: volume(f / "001" / "T1.nii"), "is a second volume called 'T1'"),
        (lambda f: (f / "more.csv").write_text("a\n1\n") and (f / "demographics.csv").rename(f / "x.csv"), "several"),
        (lambda f: (f / "demographics.csv").write_text("code,age\n1,2\n1,3\n"), "two rows for '1' (rows 2 and 3)"),
        (lambda f: (f / "demographics.csv").write_text("code,age\nx,2\n"), "has no row for any sample"),
        (lambda f: (f / "demographics.csv").write_text("code,T1\n1,2\n"), "both a modality and a column"),
        (lambda f: (f / "001" / "T2.nii").write_bytes(b"\0" * 500), "'001/T2.nii' is not a NIfTI volume"),
        (lambda f: (f / "001" / "T3.nii").symlink_to("/etc/hostname"), "link that leads out"),
        (lambda f: os.mkfifo(f / "001" / "T3.nii"), "named pipe"),
    ],
)
def test_a_medical_folder_that_cannot_be_is_refused(subjects, spoil, said):
    spoil(subjects)
    with pytest.raises(DatasetError) as refused:
        add(subjects, "medical")
    assert said in str(refused.value)


def test_what_plans_are_told_names_no_subject(subjects):
    dataset = opened(subjects, "medical")
    file = subjects / "001" / "T2.nii"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError) as refused:
        dataset.read(1)
    assert "T2 of subject 2: its header promises 3 x 2 x 2 voxels" in str(refused.value)
    file.unlink()
    with pytest.raises(DatasetError, match="T2 of subject 2 cannot be opened: No such file") as gone:
        dataset.read(1)
    for error in (refused.value, gone.value):
        assert "001" not in str(error)
        assert str(subjects) not in str(error)


def test_one_modality_has_several_names_here(subjects):
    (subjects / "001" / "T1").rename(subjects / "001" / "T1_siemens")
    record, _ = add(subjects, "medical", options={"modalities": "T1w = T1|T1_siemens"})
    assert record.columns[:2] == ("T1w", "T2")
    assert [DatasetCache().get(record).read(i, ["T1w"])["T1w"].flat[0] for i in range(3)] == [0, 1, 2]


@pytest.fixture
def signals(tmp_path):
    for number, rate in enumerate((100, 100, 50)):
        wave = edfio.EdfSignal(np.linspace(-1, 1, 4 * rate), rate, label="ECG II", physical_range=(-1, 1))
        edfio.Edf([wave]).write(tmp_path / f"r{number}.edf")
    (tmp_path / "labels.csv").write_text("record,rhythm\nr0,sinus\nr1,af\n")
    return tmp_path


def test_recordings_are_read_in_stretches_with_their_label(signals):
    record, notes = add(signals, "signals", options={"channels": "ECG=ECG II"})
    assert (record.shape, record.columns, record.dtypes) == ((3, 2), ("ECG", "rhythm"), ("float32", "str"))
    told = " ".join(notes)
    assert "Channel ECG has 2 sampling rates: 100 Hz (2), 50 Hz (1)." in told
    assert "1 of 3 recordings have no row in the table of labels: r2." in told
    dataset = DatasetCache().get(record)
    assert dataset.seconds(0) == 4.0
    found = dataset.read(1, start=1.0, stop=2.0)
    assert found["rhythm"] == "af"
    np.testing.assert_allclose(found["ECG"], np.linspace(-1, 1, 400)[100:200], atol=1e-4)
    with pytest.raises(DatasetError, match="recording 2 lasts 4 seconds: there is no stretch from 3 to 5"):
        dataset.read(1, start=3.0, stop=5.0)


@pytest.mark.parametrize("turned", [False, True], ids=["genes by samples", "samples by genes"])
def test_expressions_are_joined_with_the_table_in_its_order(tmp_path, turned):
    genes = "gene\ta\tb\tc\nTP53\t1\t2\t3\nMYC\t4\tNA\t6\n"
    samples = "sample\tTP53\tMYC\na\t1\t4\nb\t2\tNA\nc\t3\t6\n"
    (tmp_path / "expression.tsv").write_text(samples if turned else genes)
    (tmp_path / "samples.csv").write_text("sample,age,ill\nc,60,1\nb,50,0\nz,70,0\n")
    record, notes = add(tmp_path, "genomics", target="ill")
    assert record.shape == (2, 2)
    assert record.columns == ("expression", "age", "ill")
    assert record.dtypes == ("float32[2]", "int64", "int64")
    assert record.missing == {"expression": 1}
    assert "1 samples of the matrix are not in the table, and are left out: a." in notes
    assert "1 rows of the table have no sample in the matrix, and are left out." in notes
    dataset = DatasetCache().get(record)
    np.testing.assert_array_equal(dataset.column("expression"), [[3, 6], [2, np.nan]])
    np.testing.assert_array_equal(dataset.table(["MYC", "age"]), [[6, 60], [np.nan, 50]])
    assert dataset.table().shape == (2, 4)
    assert dataset.features == ("TP53", "MYC")
    with pytest.raises(DatasetError, match="has no column 'BRCA1'"):
        dataset.table(["BRCA1"])


@pytest.mark.parametrize("type", KINDS)
def test_an_empty_folder_and_a_single_file_are_refused(tmp_path, type):
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for path in ("file", "empty"):
        with pytest.raises(FedplugError):
            add(tmp_path / path, type)


@pytest.mark.parametrize("type", LIBRARY)
def test_a_library_that_is_not_there_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch, type):
    folder = dataset_type(type).example(tmp_path)
    if type == "genomics":
        (folder / "expression.tsv").rename(folder / "old.bak")
        head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\n"
        (folder / "calls.vcf").write_text(head)
    top = LIBRARY[type].partition(".")[0]
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Nothing(top), *sys.meta_path])
    with pytest.raises(DatasetError) as refused:
        inspect_file(folder, name="data", type=type, tags=["x"])
    assert f"{top}, which is not installed" in refused.value.message
    assert refused.value.cure == f'pip install "fedplug[{type}]"'


class _Nothing:
    def __init__(self, top):
        self.top = top

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.top:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.top)


def test_the_folder_itself_is_named_to_nobody(images):
    (images / "cat" / "out.png").symlink_to("/etc/hostname")
    for for_owner in (True, False):
        with pytest.raises(DatasetError) as refused:
            Folder(images, "Data set 'data'", for_owner=for_owner).files()
        assert str(images) not in str(refused.value)
        assert ("cat/out.png is a link that leads out of its folder" in str(refused.value)) == for_owner
