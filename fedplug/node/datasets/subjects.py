"""The subjects of a medical folder: a folder for each, with one NIfTI volume per modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fedplug.core.errors import DatasetError
from fedplug.core.params import Array
from fedplug.node.datasets.folders import Folder
from fedplug.node.datasets.loading_plan import LoadingPlan, renamed
from fedplug.node.datasets.nifti import SUFFIXES, Volume, check_volume, read_volume

_BIDS = frozenset({"anat", "func", "dwi", "fmap", "perf", "pet", "swi"})
"""Folders that the Brain Imaging Data Structure puts between a subject and its files, which are named by modality."""

_BESIDES = frozenset({"derivatives", "sourcedata", "code", "phenotype"})
"""Folders beside the subjects that are none (likewise)."""


@dataclass(frozen=True)
class Subject:
    """A subject, and where its volumes lie.

    Attributes:
        name: That of its folder. It never leaves the node.
        volumes: The file of each modality, by the names that plans use.
    """

    name: str
    volumes: Mapping[str, PurePath]


def list_subjects(folder: Folder, plan: LoadingPlan) -> list[Subject]:
    """Find the volumes of each subject; none is opened.

    A volume is called after the folder in which it lies alone (``subject/T1/anything.nii.gz``), else after its file
    (``subject/T1.nii.gz``, ``subject/anat/subject_T1.nii.gz``).

    Args:
        folder: The folder of the data set.
        plan: What the modalities that plans ask for are called here: a subject's volume is the first of these that
            it has.

    Raises:
        DatasetError: There are no volumes, two of one subject have one name, or no subject has what the plan names.
    """
    by_subject: dict[str, list[PurePath]] = {}
    for file in folder.files():
        if len(file.parts) > 1 and file.parts[0] not in _BESIDES:
            by_subject.setdefault(file.parts[0], []).append(file)
    found = [(name, _volumes(folder, name, files)) for name, files in by_subject.items()]
    local = {name for _, volumes in found for name in volumes}
    if not local:
        raise DatasetError(
            f"{folder.label} holds no NIfTI volume in the folders of its subjects.",
            cure="It should be: a folder per subject, and in it T1.nii.gz, or a folder T1 with one .nii.gz.",
        )
    for wanted, names in plan.items():
        if local.isdisjoint((*names, wanted)):
            raise DatasetError(
                f"{folder.label}: no subject has what its loading plan calls {wanted!r}: {', '.join(names)}.",
                cure=f"There is: {', '.join(sorted(local)[:40])}.",
            )
    return [
        Subject(name, {wanted: volumes[here] for wanted, here in renamed(volumes, plan).items()})
        for name, volumes in found
    ]


def modalities_of(subjects: Sequence[Subject]) -> list[str]:
    """All modalities that a subject has, sorted."""
    return sorted({name for subject in subjects for name in subject.volumes})


def check_subjects(folder: Folder, subjects: Sequence[Subject]) -> dict[str, list[Volume]]:
    """Check every volume; packed ones are unpacked once, in little memory.

    Returns:
        What the headers of each modality's volumes say.

    Raises:
        DatasetError: A header lies, or a file is damaged.
    """
    found: dict[str, list[Volume]] = {name: [] for name in modalities_of(subjects)}
    for number, subject in enumerate(subjects, 1):
        for name, path in subject.volumes.items():
            what = volume_label(folder, path, name, number)
            with folder.open(path, what) as file:
                found[name].append(check_volume(file, what))
    return found


def read_modality(folder: Folder, subject: Subject, name: str, number: int) -> Array:
    """The values of one volume of a subject, as `read_volume` gives them.

    Raises:
        DatasetError: It is gone, damaged, or lies.
    """
    what = volume_label(folder, subject.volumes[name], name, number)
    with folder.open(subject.volumes[name], what) as file:
        return read_volume(file, what)[1]


def volume_label(folder: Folder, path: PurePath, modality: str, number: int) -> str:
    """How messages call a volume: by its file for the owner, else by modality and the number of the subject."""
    return folder.entry(path, number) if folder.for_owner else f"{folder.label}: {modality} of subject {number}"


def missing_notes(subjects: Sequence[Subject], modalities: Sequence[str]) -> list[str]:
    """For the owner: which subjects lack a modality."""
    notes = []
    for name in modalities:
        without = [subject.name for subject in subjects if name not in subject.volumes]
        if without:
            notes.append(f"{len(without)} of {len(subjects)} subjects have no {name}: {some(without)}.")
    return notes


def volume_notes(volumes: Mapping[str, Sequence[Volume]]) -> list[str]:
    """For the owner: modalities whose volumes differ in shape, size of voxels or orientation."""
    notes = []
    for name, found in volumes.items():
        for what, each in (
            ("shapes", [" x ".join(map(str, volume.shape)) for volume in found]),
            ("sizes of voxels", [" x ".join(f"{zoom:.3g}" for zoom in volume.zooms) for volume in found]),
            ("orientations", [volume.orientation or "unknown" for volume in found]),
        ):
            counts = Counter(each)
            if len(counts) > 1:
                listed = ", ".join(f"{text} ({count})" for text, count in counts.most_common(3))
                notes.append(f"{name}: the volumes have {len(counts)} {what}: {listed}.")
    return notes


def some(names: Sequence[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _volumes(folder: Folder, subject: str, files: Sequence[PurePath]) -> dict[str, PurePath]:
    """The volumes of a subject by the names that they have here."""
    volumes = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    beside = Counter(file.parent for file in volumes)
    found: dict[str, PurePath] = {}
    for number, file in enumerate(volumes, 1):
        by_file = len(file.parts) == 2 or file.parent.name in _BIDS
        if not by_file and beside[file.parent] > 1:
            raise DatasetError(
                f"{folder.entry(file, number)} is one of {beside[file.parent]} volumes in a folder, but a modality has "
                "one per subject.",
                cure="Leave one, or move each into a folder of its own.",
            )
        name = _file_modality(file, subject) if by_file else file.parent.name
        if name in found:
            raise DatasetError(f"{folder.entry(file, number)} is a second volume called {name!r} of one subject.")
        found[name] = file
    return found


def _file_modality(file: PurePath, subject: str) -> str:
    """``T1`` for ``T1.nii.gz``, and for ``<subject>_anything_T1.nii.gz``."""
    stem = file.name.removesuffix(".gz").removesuffix(".GZ")[: -len(".nii")]
    return stem.rpartition("_")[2] if stem.startswith(f"{subject}_") else stem
