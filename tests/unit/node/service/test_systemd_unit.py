"""The systemd unit of a node: systemd understands it, and finds little to object to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedplug.core.errors import UsageError
from fedplug.node.policy.schema import DataRules, Policy, ResourceRules
from fedplug.node.service import unit as module
from fedplug.node.service.unit import unit_text
from fedplug.node.store import NodeStore

ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture
def store(tmp_path):
    with NodeStore.create(tmp_path / "a node", name="100 % clinic", node_id="clinic-1") as store:
        yield store


def lines(text, key):
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_it_is_for_this_installation_this_user_and_this_folder(store):
    text = unit_text(store, Policy(), ["--researcher", "zmq://127.0.0.1:7400"])
    (start,) = lines(text, "ExecStart")
    folder = store.folder
    assert start == (f'{sys.executable} -m fedplug node --folder "{folder}" start --researcher zmq://127.0.0.1:7400')
    assert lines(text, "ReadWritePaths") == [f'"{folder}"']
    assert lines(text, "User") == [Path(folder).owner()]
    assert lines(text, "Description") == ["FedPlug node 100 %% clinic"]
    assert "fedplug-clinic-1.service" in text


def test_memory_and_devices_follow_the_rules(store):
    text = unit_text(store, Policy(resources=ResourceRules(memory=2**30, gpu=False)))
    assert lines(text, "MemoryMax") == [str(3 * 2**30)]
    assert lines(text, "PrivateDevices") == ["yes"]
    text = unit_text(store, Policy())
    assert lines(text, "MemoryMax") == lines(text, "PrivateDevices") == []


def test_homes_are_closed_but_for_what_the_node_needs(store, tmp_path, monkeypatch):
    (tmp_path / "home" / "me" / "data").mkdir(parents=True)
    monkeypatch.setattr(module, "_HOMES", (tmp_path / "home",))
    text = unit_text(store, Policy())
    assert lines(text, "ProtectHome") == ["yes"]
    data = tmp_path / "home" / "me" / "data"
    text = unit_text(store, replace(Policy(), data=DataRules(roots=(data,))))
    assert lines(text, "ProtectHome") == ["tmpfs"]
    assert lines(text, "BindReadOnlyPaths") == [str(data)]
    monkeypatch.setattr(module, "_HOMES", (tmp_path,))
    assert lines(unit_text(store, Policy()), "BindPaths") == [f'"{store.folder}"']


@pytest.mark.parametrize("bad", ["a\nExecStartPre=/bin/sh", "a\x1b", "a\rb"])
def test_a_sign_that_could_end_a_line_is_refused(store, bad):
    with pytest.raises(UsageError, match="cannot stand in a systemd unit"):
        unit_text(store, Policy(), ["--researcher", bad])


def test_words_keep_what_systemd_would_replace(store):
    (start,) = lines(unit_text(store, Policy(), ["--researcher", 'a "b" $HOME %h\\']), "ExecStart")
    assert start.endswith('"a \\"b\\" $$HOME %%h\\\\"')


def test_systemd_understands_it_and_finds_it_hardened(store, tmp_path):
    if ANALYZE is None:
        assert sys.platform != "linux" or not Path("/run/systemd/system").exists()
        return
    file = tmp_path / "fedplug-clinic-1.service"
    file.write_text(unit_text(store, Policy(resources=ResourceRules(memory=2**30))))
    verified = subprocess.run([ANALYZE, "verify", str(file)], capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in verified.stderr.splitlines() if file.name in line]
    assert (verified.returncode, said) == (0, [])
    rated = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", str(file)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    exposure = float(re.search(r"exposure level .*: ([\d.]+)", rated.stdout)[1])
    assert exposure < 3.5, rated.stdout
