"""Looking for files: below the allowed folders and nowhere else."""

from __future__ import annotations

import os

import pytest

from fedplug.core.errors import DatasetError, UsageError
from fedplug.node.web.browse import MOST_ENTRIES, allowed, list_folder


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    (root / "wards" / "a").mkdir(parents=True)
    (root / "patients.csv").write_text("a\n1\n")
    (root / ".hidden").write_text("x")
    (tmp_path / "secret.csv").write_text("x\n1\n")
    return root


def test_a_folder_shows_folders_first_and_no_hidden_files(root):
    listing = list_folder(root, [root])
    assert [(entry.name, entry.folder) for entry in listing.entries] == [("wards", True), ("patients.csv", False)]
    assert listing.parent is None
    assert list_folder(root / "wards", [root]).parent == root


@pytest.mark.parametrize(
    "path", ["..", "../secret.csv", "wards/../../secret.csv", "../data/../secret.csv", "wards/a/../../.."], ids=str
)
def test_a_path_that_climbs_out_is_refused(root, path):
    for given in (root / path, f"{root}/{path}"):
        with pytest.raises(UsageError, match="does not lie below"):
            allowed(given, [root])


@pytest.mark.parametrize("path", ["/etc/passwd", "/", "", "patients.csv", "~", "/proc/self/environ", "/nowhere\0/x"])
def test_a_path_elsewhere_is_refused_and_it_is_not_told_whether_it_exists(root, path):
    with pytest.raises(UsageError, match="does not lie below") as caught:
        allowed(path, [root])
    assert str(root) in caught.value.cure


def test_a_folder_whose_name_only_begins_like_a_root_is_refused(root):
    beside = root.with_name("data-of-others")
    beside.mkdir()
    with pytest.raises(UsageError, match="does not lie below"):
        allowed(beside, [root])


def test_links_that_lead_out_are_neither_shown_nor_followed(root, tmp_path):
    (root / "out").symlink_to(tmp_path)
    (root / "out.csv").symlink_to(tmp_path / "secret.csv")
    (root / "in.csv").symlink_to(root / "patients.csv")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(tmp_path / "not-there")
    names = {entry.name for entry in list_folder(root, [root]).entries}
    assert names == {"wards", "patients.csv", "in.csv"}
    for name in ("out", "out.csv", "out/secret.csv", "loop"):
        with pytest.raises(UsageError, match="does not lie below"):
            allowed(root / name, [root])


def test_a_root_that_is_a_link_itself_is_where_it_leads(root, tmp_path):
    way = tmp_path / "way"
    way.symlink_to(root)
    assert allowed(way / "patients.csv", [way]) == root / "patients.csv"
    assert len(list_folder(way, [way]).entries) == 2


def test_devices_and_pipes_are_not_shown(root):
    os.mkfifo(root / "pipe")
    assert {entry.name for entry in list_folder(root, [root]).entries} == {"wards", "patients.csv"}


def test_a_folder_that_the_system_closes_says_so(root, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DatasetError, match="Permission denied"):
        list_folder(root, [root])


def test_a_huge_folder_is_shown_in_part_and_says_so(root):
    for number in range(MOST_ENTRIES + 7):
        (root / f"{number}.csv").touch()
    listing = list_folder(root, [root])
    assert len(listing.entries) == MOST_ENTRIES
    assert listing.left_out == 9


def test_a_file_is_no_folder_and_what_is_gone_is_said_to_be(root):
    with pytest.raises(UsageError, match="is not a folder"):
        list_folder(root / "patients.csv", [root])
    with pytest.raises(UsageError, match="There is no file"):
        allowed(root / "gone.csv", [root])
