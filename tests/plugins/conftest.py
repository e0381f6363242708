"""Plugins that exist for one test only: a module and a ``dist-info`` folder in a temporary directory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import distributions

import pytest

from fedplug.core.plugins import PluginHost

HEADER = "from fedplug import Component, hookimpl\n"


class FakePlugins:
    """Writes fake distributions, and loads a host or runs the command line with them."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, name, source, *, dist=None, version="1.0"):
        dist = dist or f"fake-{name}"
        module = dist.replace("-", "_")
        self.folder.joinpath(f"{module}.py").write_text(HEADER + textwrap.dedent(source))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        info.joinpath("entry_points.txt").write_text(f"[fedplug]\n{name} = {module}\n")
        return module

    def aggregators(self, name, *components, **options):
        listed = ", ".join(f"Component({each!r}, 'builtins:object')" for each in components)
        source = f"@hookimpl\ndef fedplug_register_aggregators():\n    return [{listed}]\n"
        return self.add(name, source, **options)

    @property
    def entry_points(self):
        return [point for dist in distributions(path=[str(self.folder)]) for point in dist.entry_points]

    def host(self, only=None):
        return PluginHost.discover(only, found=self.entry_points)

    def run(self, *args, **environment):
        """``python -m fedplug ARGS`` in a process of its own that sees these plugins and the installed ones."""
        path = os.pathsep.join(part for part in (str(self.folder), os.environ.get("PYTHONPATH", "")) if part)
        return subprocess.run(
            [sys.executable, "-m", "fedplug", *args],
            env=os.environ | {"PYTHONPATH": path} | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def fake_plugins(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("FEDPLUG_PLUGINS", raising=False)
    monkeypatch.delenv("FEDPLUG_TRACE", raising=False)
    before = set(sys.modules)
    yield FakePlugins(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]
