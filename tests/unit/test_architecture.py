"""The shape of the code base: who may import whom, what an import may cost, and what no file may contain."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch", "sklearn", "scipy", "zmq", "ray", "pandas", "tensorboard", "declearn", "matplotlib", "IPython", "opacus",
}  # fmt: skip
MAX_LINES = 350
LONGER_FOR_A_REASON: dict[str, str] = {}  # module -> why it must not be split; meant to stay empty


@cache
def files_of_the_project() -> list[Path]:
    """List what a commit would hold: tracked files and new ones that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in sorted(set(listing.split("\0"))) if name and (ROOT / name).is_file()]


def modules() -> list[Path]:
    parts = [ROOT / "fedplug", *(ROOT / "plugins").glob("*/src")]
    return [path for path in files_of_the_project() if path.suffix == ".py" and any(p in path.parents for p in parts)]


def loaded_by(code: str, tmp_path: Path, *argv: str) -> set[str]:
    """Run ``code`` in a fresh interpreter; return the top-level packages that it imported."""
    target = tmp_path / "modules.json"
    probe = (
        "import atexit, json, sys\n"
        f"sys.argv = {['fedplug', *argv]!r}\n"
        f"atexit.register(lambda: open({str(target)!r}, 'w').write(json.dumps([*sys.modules])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe + code], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name.partition(".")[0] for name in json.loads(target.read_text())}


def test_rooms_import_in_one_direction_only():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_fedplug_loads_no_framework(tmp_path):
    loaded = loaded_by("import fedplug", tmp_path)
    assert "fedplug" in loaded
    assert not loaded & (HEAVY | {"rich", "typer"})


@pytest.mark.parametrize("argv", [["--help"], ["plugins", "list"], ["node", "--help"]], ids=" ".join)
def test_command_line_loads_no_framework(argv, tmp_path, fedplug_dir):
    loaded = loaded_by("import runpy; runpy.run_module('fedplug', run_name='__main__')", tmp_path, *argv)
    assert "fedplug" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("plugin", ["fedplug_torch", "fedplug_scaffold", "fedplug_ray", "fedplug_zmq"])
def test_top_module_of_a_plugin_loads_no_framework(plugin, tmp_path):
    loaded = loaded_by(f"import {plugin}", tmp_path)
    assert plugin in loaded
    assert not loaded & HEAVY


def test_modules_stay_short():
    found = {}
    for path in modules():
        name, lines = path.relative_to(ROOT).as_posix(), len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES and name not in LONGER_FOR_A_REASON:
            found[name] = lines
    assert found == {}


def test_public_modules_say_what_they_are():
    public = [path for path in modules() if not path.name.startswith("_") or path.name == "__init__.py"]
    assert public
    bare = [path for path in public if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert bare == []


def test_distributions_are_in_lockstep():
    script = runpy.run_path(str(ROOT / "scripts" / "check_versions.py"))
    assert script["findings"]() == []


def test_version_check_sees_a_plugin_that_lags_behind(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "check_versions.py"))
    for path in files_of_the_project():
        if path.name == "pyproject.toml" or path.parent.name == "constraints":
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    lagging = tmp_path / "plugins" / "fedplug-zmq" / "pyproject.toml"
    text = lagging.read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]
    lagging.write_text(text.replace(f'version = "{version}"', 'version = "0.0.9"'), encoding="utf-8")
    assert script["findings"](tmp_path) == [f"fedplug-zmq is 0.0.9, but fedplug is {version}."]


def test_no_file_names_a_package_registry_or_a_path_of_one_machine():
    # Put together from parts, or this file would find itself.
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "conda." + "anaconda.org"]
    folders = ["/" + "root/", "/" + "work/", "/" + "opt/", r"/" + r"home/(?!you/|alice/)\w+/", "/" + "Users/"]
    forbidden = re.compile("|".join([*map(re.escape, hosts), *(rf"(?<![\w.$~}}-]){folder}" for folder in folders)]))
    found = []
    for path in files_of_the_project():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            if forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []
