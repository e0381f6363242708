"""What is imported when: plugins are listed without their frameworks, and ``import fedplug`` without NumPy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "declearn", "scipy", "zmq", "pandas", "tensorboard")


def modules_after(code):
    script = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_fedplug_imports_next_to_nothing():
    assert not modules_after("import fedplug") & {*HEAVY, "numpy", "pluggy", "typer", "msgspec"}


@pytest.mark.parametrize(
    "command", [["--help"], ["plugins", "--help"], ["plugins", "list"], ["plugins", "list", "--json"]]
)
def test_these_commands_import_no_framework(command):
    assert not modules_after(f"from fedplug.cli import main\nmain({command!r})") & set(HEAVY)


def test_help_imports_neither_the_groups_nor_numpy():
    loaded = modules_after("from fedplug.cli import main\nmain(['--help'])")
    assert not loaded & {"numpy", "pluggy", "fedplug.cli.node", "fedplug.cli.plugins", "fedplug.cli.demo"}


def test_every_public_name_is_there():
    import fedplug

    assert sorted(fedplug.__all__) == sorted(fedplug._HOMES)
    for name in fedplug.__all__:
        assert getattr(fedplug, name) is not None
    assert fedplug.__version__
    assert {*fedplug.__all__, "__version__"} <= set(dir(fedplug))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = fedplug.Nonsense
