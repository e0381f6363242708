"""A stranger's way: the core from a wheel, a plugin from the template, its tests, and its name in an experiment."""

from __future__ import annotations

import json
import os
import sys

import pytest

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.slow  # test_outside_plugin.py has one beside the tree
def test_a_new_plugin_passes_its_own_tests_where_only_the_core_is_installed(core_env, tmp_path):
    assert core_env.ours == {"fedplug"}
    done = core_env.run(core_env.fedplug, "plugins", "new", "aggregator", "my-mean", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source = tmp_path / "fedplug-my-mean"
    pip = [sys.executable, "-m", "pip", "--python", core_env.python, "-q"]
    quiet = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = core_env.run(*pip, "install", "--no-index", "--no-build-isolation", f"{source}[test]", cwd=tmp_path, **quiet)
    assert done.returncode == 0, done.stdout + done.stderr

    done = core_env.run(core_env.python, "-m", "pytest", "-q", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout

    done = core_env.run(core_env.fedplug, "plugins", "list", "--json", cwd=tmp_path)
    found = {record["plugin"]: record for record in json.loads(done.stdout)}
    assert found.keys() == {"builtin", "my-mean"}
    assert found["my-mean"]["status"] == "ok"
    assert [each["name"] for each in found["my-mean"]["provides"]["aggregators"]] == ["my-mean"]

    done = core_env.run(core_env.fedplug, "plugins", "check", "my-mean", "--full", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
