"""What the scan sees in a plan's text, and that no text can harm the one who scans it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.line_ends import as_python_reads
from fedplug.core.plan_source import PlanBundle
from fedplug.node.approval.review import MOST_COMPARED, changed, review, visible
from fedplug.node.approval.scan import MOST_FINDINGS, imported_packages, is_unread, scan

HONEST = PlanBundle(
    "Net",
    '''class Net(TorchTrainingPlan):
    """Réseau de neurones — for the patients of Lyon."""

    def init_model(self, model_args):
        return nn.Linear(model_args["n"], 2)

    def training_data(self):
        return DataManager(self.dataset.column("x"), self.dataset.column("y"), batch_size=8)

    def training_step(self, data, target):
        if hasattr(self, "extra"):
            data = getattr(self, "extra")(data)
        return F.cross_entropy(self.model()(data), target)
''',
    ("import torch", "from torch import nn", "import torch.nn.functional as F"),
)


def places(source, dependencies=("import os",), **helpers):
    return {(f.module, f.line, f.name) for f in scan(PlanBundle("P", source, dependencies, helpers)) if f.remark}


def test_an_honest_plan_has_imports_and_nothing_to_remark():
    found = scan(HONEST)
    assert [f.name for f in found if f.kind == "import"] == ["torch", "torch.nn", "torch.nn.functional"]
    assert [f for f in found if f.remark] == []
    assert set(imported_packages(HONEST)) == {"torch"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("x = open('/etc/passwd').read()", "open"),
        ("x = os.system('id')", "os.system"),
        ("import os as o; x = o.system('id')", "os.system"),
        ("from os import system as s; x = s('id')", "os.system"),
        ("import subprocess as sp; x = sp.run(['id'])", "subprocess.run"),
        ("import socket; s = socket.socket()", "socket.socket"),
        ("import urllib.request as u; u.urlopen('http://x')", "urllib.request.urlopen"),
        ("import ctypes; ctypes.CDLL(None)", "ctypes.CDLL"),
        ("x = eval('1')", "eval"),
        ("run = exec", "exec"),
        ("x = __import__('os')", "__import__"),
        ("import importlib; importlib.import_module('os')", "importlib.import_module"),
        ("import pickle; pickle.loads(b'')", "pickle.loads"),
        ("import torch; torch.load('f')", "torch.load"),
        ("x = os.environ", "os.environ"),
        ("x = getattr(os, 'sys' + 'tem')", "getattr"),
        ("x = getattr(os, '__globals__')", "getattr"),
        ("x = getattr(os, 'system')('id')", "getattr"),
        ("import torch; x = getattr(torch, 'load')('f')", "getattr"),
        ("f = open", "open"),
        ("x = ().__class__.__bases__[0].__subclasses__()", "__subclasses__"),
        ("import base64; base64.b64decode('')", "base64.b64decode"),
        ("import time; time.sleep(1)", "time.sleep"),
        ("import threading; threading.Thread()", "threading.Thread"),
        ("import pathlib; pathlib.Path('x').write_text('y')", "write_text"),
        ("self.path.unlink()", "unlink"),
        (f"x = {'a' * 600!r}", "literal of 600 characters"),
        ("x = 1" + " " * 400 + "; y = 2", "line of 420 characters"),
        ("x = 'a\u202eb'", "RIGHT-TO-LEFT OVERRIDE"),
        ("x = 'a\u200bb'", "ZERO WIDTH SPACE"),
        ("\u0455elf = 1", "\u0455elf"),
        ("x = 1  # fine \r        y = 2", "CARRIAGE RETURN"),
        ("x = 1\u2028", "LINE SEPARATOR"),
        ("x = 1\x0c", "U+000C"),
    ],
)
def test_what_deserves_a_look_is_found_on_its_line(line, name):
    source = f"class P:\n    def f(self):\n        {line}\n"
    assert ("", 6, name) in places(source)  # one import line and two empty ones stand above the class


def test_a_place_is_named_once():
    assert places("class P:\n    x = eval('1'); y = os.system('id')\n", ()) == {("", 5, "eval"), ("", 5, "os.system")}


def test_what_stands_behind_a_lone_carriage_return_is_shown_as_the_line_that_it_is():
    """For Python the comment ends there, so what a reader would take for a part of it runs."""
    bundle = PlanBundle("P", "class P:\n    x = 1  # fine \r    import os as o\r\n    y = o.getcwd()\n", ())
    scope = {}
    exec(bundle.code, scope)
    assert scope["P"].y
    lines = visible(bundle.text).split("\n")
    assert "    import os as o" in lines
    for finding in scan(bundle):
        assert finding.name == "CARRIAGE RETURN" or finding.name.partition(".")[2] in lines[finding.line - 1]
    assert "+    import os as o" in changed(PlanBundle("P", "class P:\n    x = 1  # fine \n"), bundle)


def test_nothing_but_a_line_end_looks_like_one_in_a_diff():
    before, after = PlanBundle("P", "x = 1\n"), PlanBundle("P", "x = 1\n# fine \u2028 evil()\x0b evil()\n")
    assert [line for line in changed(before, after) if line.startswith("+#")] == ["+# fine \u2028 evil()\x0b evil()"]


def test_a_list_without_end_is_cut_and_says_so_but_names_every_import():
    source = "eval('1')\n" * (2 * MOST_FINDINGS) + "import pickle\n"
    found = scan(PlanBundle("P", source, ("import os",), {"last": "import socket\nsocket.socket()\n"}))
    assert len(found) == MOST_FINDINGS + 4
    assert [finding.name for finding in found if finding.kind == "import"] == ["os", "pickle", "socket"]
    (rest,) = [finding for finding in found if is_unread(finding)]
    assert "more than 1,000 places" in rest.remark
    assert not any(map(is_unread, scan(HONEST)))
    assert any(map(is_unread, scan(PlanBundle("P", "class P: ("))))


def test_texts_made_to_be_slow_to_compare_are_not_compared():
    many = "".join(f"x = {number % 97}\n" for number in range(MOST_COMPARED))
    (line,) = changed(PlanBundle("P", many), PlanBundle("P", many[::-1]))
    assert "too long to be compared" in line
    assert changed(PlanBundle("P", many), PlanBundle("P", many)) == []


def test_helpers_are_looked_at_under_their_names():
    assert ("mine", 2, "os.fork") in places("class P: pass", mine="import os\nos.fork()\n")
    bundle = PlanBundle("P", "class P: import mine.x", (), {"mine": "import mine.b, numpy"})
    assert set(imported_packages(bundle)) == {"numpy"}


@pytest.mark.parametrize(
    "source",
    [
        "class P: (",
        "\x00",
        "x = " + "(" * 5000 + ")" * 5000,
        "x = " + "-" * 100_000 + "1",
        "x = " + "9" * 10_000,
        "class P:\n\tx=1\n        y=2",
        "\ud800",
        "x = f'{" * 50,
        "",
    ],
    ids=range(9),
)
def test_a_text_that_cannot_be_parsed_is_said_to_be_so_and_never_raises(source):
    bundle = PlanBundle("P", source)
    found = scan(bundle)
    assert all(finding.line >= 1 for finding in found)
    if source.startswith(("class P: (", "\x00")):
        assert any("cannot be parsed" in finding.remark for finding in found)


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_raises_and_what_is_shown_cannot_move_the_cursor(source, other):
    found = review(PlanBundle("P", source), PlanBundle("P", other))
    shown = visible("\n".join([source, *found.changes, *(f"{f.name} {f.remark}" for f in found.findings)]))
    assert all(sign.isprintable() or sign in "\n\t" for sign in shown)
    assert (found.changes == ()) == (as_python_reads(source) == as_python_reads(other))


def test_scanning_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    scan(PlanBundle("P", f"open({str(mark)!r}, 'w')\nclass P: open({str(mark)!r}, 'w')"))
    assert not mark.exists()


def test_a_change_is_shown_as_a_diff_of_all_that_is_executed():
    before = PlanBundle("P", "class P:\n    a = 1\n", ("import os",), {"m": "x = 1\n"})
    after = PlanBundle("P", "class P:\n    a = 2\n", ("import os",), {"m": "x = 2\n"})
    lines = changed(before, after)
    assert lines[0].startswith("--- P ")
    assert {"-    a = 1", "+    a = 2", "-x = 1", "+x = 2"} <= set(lines)


def test_visible_escapes_what_a_terminal_obeys_and_leaves_letters_alone():
    assert visible("é\t\n") == "é\t\n"
    assert visible("\x1b[2J\u202e\U000e0001") == "\\x1b[2J\\u202e\\U000e0001"
