"""examples/fedplug-personal as a package from outside: installed with pip, listed, used, its own tests run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedplug-personal"


class Site:
    """A folder that pip installed the package into, and Python processes that see it."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name != "FEDPLUG_PLUGINS"}
        path = os.pathsep.join(part for part in (str(folder / "site"), os.environ.get("PYTHONPATH", "")) if part)
        self.environment["PYTHONPATH"] = path

    def install(self):
        source = self.folder / "source"
        shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build"))
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        done = self.python("-m", "pip", "install", *options, "--target", str(self.folder / "site"), str(source))
        assert done.returncode == 0, done.stderr
        return self

    def python(self, *args):
        return subprocess.run(
            [sys.executable, *args], env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("personal")).install()


def test_it_is_listed_with_its_bases_of_plans(site):
    done = site.python("-m", "fedplug", "plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    entry = next(each for each in json.loads(done.stdout) if each["plugin"] == "personal")
    assert (entry["dist"], entry["version"], entry["api"], entry["status"]) == ("fedplug-personal", "0.1.0", 1, "ok")
    assert [each["name"] for each in entry["provides"]["training plans"]] == ["ditto", "fedem", "fine-tuning"]


def test_it_is_loaded_without_torch(site):
    code = (
        "import sys; from fedplug.core.plugins import default_host; h = default_host(); "
        "print(h.component('training_plan', 'ditto'), 'torch' in sys.modules)"
    )
    done = site.python("-c", code)
    assert done.stdout.strip() == "<class 'fedplug_personal.ditto.Ditto'> False", done.stderr


@pytest.mark.slow
def test_its_own_tests_pass_outside_of_the_tree(site):
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(site.folder)]
    done = site.python("-m", "pytest", *options, str(site.folder / "source" / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "35 passed" in done.stdout
