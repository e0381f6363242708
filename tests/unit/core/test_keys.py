from __future__ import annotations

import pytest

from fedplug.core.errors import KeysError
from fedplug.core.keys import Doorkeeper, KeyPair, Refusal, allow_command, check_public, fingerprint
from fedplug.core.transport import Transport
from fedplug.transports.inproc import InprocTransport

PUBLIC = "90ab66cd78ae316b16d0b94938f14076866ec28e1d6106f9bccef8f311abb304"
SECRET = "0123456789abcdef" * 4


def test_a_secret_never_shows():
    keys = KeyPair(PUBLIC, SECRET)
    assert SECRET not in f"{keys} {keys!r} {[keys]}"
    assert keys.secret == SECRET


@pytest.mark.parametrize("public", ["", PUBLIC[1:], PUBLIC + "0", PUBLIC.upper(), f" {PUBLIC}", "g" * 64])
def test_the_public_key_of_a_pair_is_in_its_one_form(public):
    with pytest.raises(KeysError, match=r"public key of a pair of keys is damaged.*\n.*make new keys"):
        KeyPair(public, SECRET)


@pytest.mark.parametrize("secret", ["", SECRET[1:], SECRET + "0", SECRET.upper(), "g" * 64])
def test_a_damaged_secret_is_named_by_its_public_key_and_not_shown(secret):
    with pytest.raises(KeysError) as caught:
        KeyPair(PUBLIC, secret)
    assert fingerprint(PUBLIC) in str(caught.value)
    assert not secret or secret not in str(caught.value)


def test_a_public_key_is_tidied():
    assert check_public(f"  {PUBLIC.upper()}\n") == PUBLIC


@pytest.mark.parametrize("text", ["", "x", PUBLIC[1:], PUBLIC + "0", "ü" * 64, "0" * 32 + "\n" + "0" * 31])
def test_what_is_no_public_key_is_refused_with_the_way_to_see_it(text):
    with pytest.raises(KeysError, match=r"The key of hospital-a is no public key.*\n.*fedplug keys show") as caught:
        check_public(text, "The key of hospital-a")
    assert len(str(caught.value)) < 250


def test_fingerprints_tell_keys_apart_and_stay():
    assert fingerprint(PUBLIC) == "fa16-b53b-0fb1-1e44-6719"
    assert fingerprint(PUBLIC[:-1] + "5") != fingerprint(PUBLIC)


def test_a_transport_without_keys_says_so():
    with pytest.raises(KeysError, match="InprocTransport knows no keys"):
        Transport.new_keys(InprocTransport())


def test_the_command_that_lets_a_node_in_can_be_pasted_into_a_shell():
    assert allow_command("hospital-a-01", PUBLIC) == f"fedplug researcher allow hospital-a-01 {PUBLIC}"
    assert allow_command("a; reboot", PUBLIC) == f"fedplug researcher allow 'a; reboot' {PUBLIC}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeysError("Others can write it.", cure="chmod 600 it"), "enrolled: Others can write it. chmod 600 it"),
        (ZeroDivisionError("oops"), "enrolled: ZeroDivisionError: oops"),
    ],
)
def test_nobody_gets_in_while_it_cannot_be_looked_up_whose_key_it_is_and_the_log_says_why_once(error, told, caplog):
    answers = [error, error, "hospital-a", error]

    def enrolled(key):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    door = Doorkeeper(enrolled)
    assert [door.refuses(PUBLIC) for _ in range(4)] == [Refusal.NO_ANSWER, Refusal.NO_ANSWER, None, Refusal.NO_ANSWER]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2
    assert lines[0].endswith(told)
