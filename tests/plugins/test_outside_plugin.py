"""A plugin package from outside the repository: installed with pip, listed, checked, and told which law it breaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedplug-median"


class Site:
    """A folder that pip installed packages into, and Python processes that see it."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name != "FEDPLUG_PLUGINS"}
        path = os.pathsep.join(part for part in (str(folder / "site"), os.environ.get("PYTHONPATH", "")) if part)
        self.environment["PYTHONPATH"] = path

    def install(self, change=lambda text: text):
        source = self.folder / "source"
        shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build"))
        module = source / "fedplug_median.py"
        module.write_text(change(module.read_text()))
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        self.python("-m", "pip", "install", *options, "--target", str(self.folder / "site"), str(source), check=True)
        return self

    def python(self, *args, check=False):
        return subprocess.run(
            [sys.executable, *args],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
        )

    def fedplug(self, *args):
        return self.python("-m", "fedplug", *args)


@pytest.fixture(scope="module")
def median(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("median")).install()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    def first_update_wins(text):
        changed = text.replace("Params.stack_reduce([u.params for u in updates], lambda x: np.median(x, axis=0))",
                               "updates[0].params")  # fmt: skip
        assert changed != text
        return changed

    return Site(tmp_path_factory.mktemp("broken")).install(first_update_wins)


def test_it_is_under_40_lines():
    assert len(EXAMPLE.joinpath("fedplug_median.py").read_text().splitlines()) < 40


def test_it_is_listed(median):
    done = median.fedplug("plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    entry = next(each for each in json.loads(done.stdout) if each["plugin"] == "median")
    assert (entry["dist"], entry["version"], entry["api"], entry["status"]) == ("fedplug-median", "0.1.0", 1, "ok")
    assert [each["name"] for each in entry["provides"]["aggregators"]] == ["median"]


def test_it_passes_the_laws_it_claims(median):
    done = median.fedplug("plugins", "check", "median")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (EXAMPLE.parents[1] / "docs" / "writing-a-plugin.md").read_text()
    assert f"$ fedplug plugins check median\n{done.stdout}```\n" in page
    assert done.stdout.splitlines()[-1] == "1 component, 15 passed, 9 skipped, 0 failed"


@pytest.mark.slow  # the profile has its own tests
def test_it_passes_them_on_many_more_cases(median):
    done = median.fedplug("plugins", "check", "median", "--full")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == "1 component, 15 passed, 9 skipped, 0 failed (profile full, cases drawn by Hypothesis)"


def test_its_own_tests_pass_outside_of_the_tree(median):
    test = str(median.folder / "source" / "test_median.py")
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(median.folder)]
    done = median.python("-m", "pytest", *options, test)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout


def test_it_is_found_by_name(median):
    code = "from fedplug.core.plugins import default_host; print(default_host().component('aggregator', 'median'))"
    assert median.python("-c", code, check=True).stdout.strip() == "<class 'fedplug_median.Median'>"


def test_a_rule_that_breaks_a_law_is_told_which(broken):
    done = broken.fedplug("plugins", "check", "median")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "\n  fail   few, symmetric, finite\n" in done.stdout
    assert "Nodes have swapped their updates, so the result must stay" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 component, 12 passed, 9 skipped, 3 failed"


def test_the_broken_law_is_in_the_json_too(broken):
    done = broken.fedplug("plugins", "check", "median", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    failed = [each["check"] for each in report["results"] if each["outcome"] == "fail"]
    assert failed == ["few", "symmetric", "finite"]
    assert (report["pass"], report["skip"], report["fail"], report["xfail"]) == (12, 9, 3, 0)
