from __future__ import annotations

import os

import pytest

from fedplug.core.errors import KeysError, UsageError
from fedplug.core.key_folder import NEXT_FILE, OWN_FILE, KeyFolder
from fedplug.core.keys import KeyPair

FIRST = KeyPair("1a" * 32, "2b" * 32)
SECOND = KeyPair("3c" * 32, "4d" * 32)


@pytest.fixture
def keys(tmp_path):
    return KeyFolder(tmp_path / "place" / "keys", renew="fedplug node rotate")


def mode(path):
    return path.stat().st_mode & 0o777


def test_what_is_kept_comes_back_and_only_its_owner_can_read_it(keys):
    assert keys.pair() is None
    previous = os.umask(0)
    try:
        keys.add(FIRST)
    finally:
        os.umask(previous)
    assert keys.pair() == FIRST
    assert (mode(keys.path), mode(keys.path / OWN_FILE)) == (0o700, 0o600)
    assert sorted(path.name for path in keys.path.iterdir()) == [".lock", OWN_FILE]


def test_keys_are_never_written_over(keys):
    keys.add(FIRST)
    with pytest.raises(UsageError, match=r"keys in .* already"):
        keys.add(SECOND)
    keys.add_next(SECOND)
    with pytest.raises(UsageError, match="New keys wait"):
        keys.add_next(FIRST)
    assert (keys.pair(), keys.next_pair()) == (FIRST, SECOND)


def test_new_keys_take_the_place_of_the_old_ones_when_they_are_told_to(keys):
    keys.add(FIRST)
    with pytest.raises(UsageError) as caught:
        keys.take_next()
    assert "fedplug node rotate" in caught.value.cure
    keys.add_next(SECOND)
    assert keys.pair() == FIRST
    assert keys.take_next() == SECOND
    assert (keys.pair(), keys.next_pair()) == (SECOND, None)
    assert FIRST.secret not in (keys.path / OWN_FILE).read_text()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o610, 0o602])
def test_a_file_that_others_can_read_is_refused_with_the_cure(keys, bits):
    keys.add(FIRST)
    (keys.path / OWN_FILE).chmod(bits)
    with pytest.raises(KeysError, match="Others can read") as caught:
        keys.pair()
    assert f"chmod 600 '{keys.path / OWN_FILE}'" in caught.value.cure
    assert "make new keys then: fedplug node rotate" in caught.value.cure
    assert FIRST.secret not in str(caught.value)
    (keys.path / OWN_FILE).chmod(0o400)
    assert keys.pair() == FIRST


@pytest.mark.parametrize("bits", [0o750, 0o701, 0o755])
def test_a_folder_that_others_can_look_into_is_refused_with_the_cure(keys, bits):
    keys.add(FIRST)
    keys.path.chmod(bits)
    with pytest.raises(KeysError, match="Others can look into") as caught:
        keys.pair()
    assert f"chmod 700 '{keys.path}'" in caught.value.cure
    with pytest.raises(KeysError, match="Others can look into"):
        keys.add_next(SECOND)
    assert not (keys.path / NEXT_FILE).exists()


def test_a_file_of_somebody_else_is_refused(keys, monkeypatch):
    keys.add(FIRST)
    monkeypatch.setattr(os, "geteuid", lambda: keys.path.stat().st_uid + 1)
    if keys.path.stat().st_uid == 0:  # what belongs to root may be used by anybody who can read it
        os.chown(keys.path, 4, -1)
    with pytest.raises(KeysError, match="belongs to another user"):
        keys.pair()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        'public = "1a"\n',
        f'public = "{FIRST.public}"\n',
        f'public = "{FIRST.public}"\nsecret = 7\n',
        f'public = "{FIRST.public}"\nsecret = "{FIRST.secret}"\nmore = "x"\n',
        f'public = "{FIRST.public}"\nsecret = "{FIRST.secret[:-1]}"\n',
        f'public = "{FIRST.public[:-1]}\u00e9"\nsecret = "{FIRST.secret}"\n',
        "public = " + "[" * 4000,
    ],
)
def test_a_damaged_file_is_one_error_that_does_not_tell_the_secret(keys, text):
    keys.add(FIRST)
    (keys.path / OWN_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(KeysError, match="damaged") as caught:
        keys.pair()
    assert FIRST.secret[:-1] not in str(caught.value)
    assert caught.value.cure


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysError, match="cannot be written"):
        KeyFolder(tmp_path / "file" / "keys", renew="x").add(FIRST)
