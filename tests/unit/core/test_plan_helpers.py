"""Helper modules: they travel with the plan, and are there for this plan alone."""

from __future__ import annotations

import importlib
import itertools
import linecache
import pickle
import sys
import traceback
import types
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from fedplug.core import class_source, helper_source
from fedplug.core.errors import FedplugWarning, PlanSourceError
from fedplug.core.helper_import import forget
from fedplug.core.plan_source import MAX_SOURCE, PlanBundle, bundle_plan, load_plan
from fedplug.core.syntax import parse

PLAN = """
import numpy as np
from fedplug import DataManager, NumpyTrainingPlan


class Plan(NumpyTrainingPlan):
    def init_helpers(self):
        return {helpers}

    def init_dependencies(self):
        return {lines}

    def init_model(self):
        return {{"w": np.zeros(2)}}

    def training_data(self):
        return DataManager(np.zeros((4, 2)), np.zeros(4))

    def training_step(self, data, target):
        {body}
"""
_numbers = itertools.count()


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Return a function that writes files and imports the plan among them; nothing of them stays importable."""
    before = set(sys.modules)

    def make(helpers="[]", lines="[]", body="return 0.0, {}", plan=PLAN, head="", **files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__in__")[::-1]).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        name = f"plan_with_helpers_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(head + plan.format(helpers=helpers, lines=lines, body=body))
        importlib.invalidate_caches()
        return importlib.import_module(name).Plan

    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        yield make
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def elsewhere(bundle: PlanBundle, tmp_path, monkeypatch) -> type:
    """Load the plan as a node would that has none of the files."""
    arrived = PlanBundle.decode(bundle.encode())
    for name in [name for name in sys.modules if name.startswith(f"fedplug_plan_{bundle.hash}")]:
        del sys.modules[name]
    for path in tmp_path.glob("*.py"):
        path.unlink()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    importlib.invalidate_caches()
    return load_plan(arrived)


def test_a_helper_is_found_by_every_kind_of_import(local, tmp_path, monkeypatch):
    plan = local(
        '["my_layers", "my_maths"]',
        '["from my_layers import Block as B", "import my_maths as mm"]',
        "from my_layers import x\n        import my_layers\n        return B().area(), x, my_layers.size, mm.half(6)",
        my_layers="import my_maths\nsize = x = 3\nclass Block:\n    def area(self):\n        return my_maths.half(x)\n",
        my_maths="import math\ndef half(x):\n    from my_layers import size\n    return math.floor(x / 2), size\n",
    )
    bundle = bundle_plan(plan)
    assert sorted(bundle.helpers) == ["my_layers", "my_maths"]
    assert bundle.dependencies[-4:] == (
        "import my_layers", "import my_maths", "from my_layers import Block as B", "import my_maths as mm",
    )  # fmt: skip
    found = elsewhere(bundle, tmp_path, monkeypatch)
    assert "my_layers" not in sys.modules
    assert found().training_step(None, None) == ((1, 3), 3, 3, (3, 3))


def test_the_files_text_is_part_of_the_plans_identity(local):
    plan = local('["my_layers"]', body="return my_layers.x, {}", my_layers="x = 1\n")
    first = bundle_plan(plan)
    assert bundle_plan(plan) == first
    plan = local('["my_layers"]', body="return my_layers.x, {}", my_layers="x = 2\n")
    second = bundle_plan(plan)
    assert first.source == second.source
    assert first.hash != second.hash
    assert "# helper module my_layers\n\nx = 2\n" in second.text
    assert "x = 2" not in second.code


def test_two_plans_have_helpers_of_one_name_side_by_side(local):
    classes = []
    for value in (1, 2):
        plan = local('["my_layers"]', body="import my_layers\n        return my_layers.x", my_layers=f"x = {value}\n")
        classes.append(load_plan(bundle_plan(plan)))
    mine = sys.modules["my_layers"] = types.ModuleType("my_layers")
    assert [found().training_step(None, None) for found in classes] == [1, 2]
    assert sys.modules["my_layers"] is mine
    assert not hasattr(mine, "x")
    del sys.modules["my_layers"]


def test_a_package_travels_with_its_modules_and_their_relative_imports(local, tmp_path, monkeypatch):
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    (tmp_path / "nets" / "__init__.py").write_text("from .base import width\n__all__ = ['base', 'width']\n")
    (tmp_path / "nets" / "base.py").write_text("width = 7\n")
    (tmp_path / "nets" / "__main__.py").write_text("raise SystemExit\n")
    (tmp_path / "nets" / "deep" / "tall.py").write_text(
        "from ..base import width\nfrom .. import base\nx = width + base.width\n"
    )
    plan = local(
        '["nets"]',
        '["from nets.deep import tall", "from nets import *"]',
        "import nets.deep.tall as t\n        return nets.width, tall.x, t is tall, width, base.width",
    )
    bundle = bundle_plan(plan)
    assert sorted(bundle.helpers) == ["nets", "nets.base", "nets.deep", "nets.deep.tall"]
    assert elsewhere(bundle, tmp_path, monkeypatch)().training_step(None, None) == (7, 14, True, 7, 7)
    assert not [name for name in sys.modules if name.startswith("nets")]


def test_modules_may_be_given_as_objects(local):
    plan = local(
        "[my_layers]", head="import my_layers\n", body="return my_layers.x", my_layers="x = 5\n",
    )  # fmt: skip
    assert load_plan(bundle_plan(plan))().training_step(None, None) == 5


def test_a_loaded_plan_gives_its_bundle_again(local, tmp_path, monkeypatch):
    bundle = bundle_plan(local('["my_layers"]', my_layers="x = 5\n"))
    assert bundle_plan(elsewhere(bundle, tmp_path, monkeypatch)) == bundle


def test_objects_of_helpers_can_be_pickled(local):
    plan = local('["my_layers"]', body="return my_layers.Block()", my_layers="class Block:\n    pass\n")
    made = load_plan(bundle_plan(plan))().training_step(None, None)
    assert type(pickle.loads(pickle.dumps(made))) is type(made)


def test_tracebacks_show_the_lines_of_helpers(local):
    plan = local('["my_layers"]', body="return my_layers.fail()", my_layers="def fail():\n    return 1 / 0  # here\n")
    found = load_plan(bundle_plan(plan))()
    with pytest.raises(ZeroDivisionError) as caught:
        found.training_step(None, None)
    shown = "".join(traceback.format_exception(caught.value))
    assert "helper my_layers>" in shown
    assert "return 1 / 0  # here" in shown


def test_names_from_outside_are_still_found(local):
    with pytest.raises(PlanSourceError, match="uses 'ml', not defined"):
        bundle_plan(local('["my_layers"]', body="return ml.x, my_layers.x", my_layers="x = 5\n"))


def test_a_name_that_a_helper_lacks_is_told_without_its_private_name(local):
    with pytest.raises(PlanSourceError, match=r"cannot import name 'y' from 'my_layers'"):
        bundle_plan(local('["my_layers"]', '["from my_layers import y"]', my_layers="x = 5\n"))
    with pytest.raises(PlanSourceError, match=r"No module named 'my_layers.deep' among the plan's helpers"):
        bundle_plan(local('["my_layers"]', '["import my_layers.deep"]', my_layers="x = 5\n"))


def test_an_import_in_a_helper_that_fails_is_pythons_own_error(local):
    with pytest.raises(PlanSourceError, match=r"ModuleNotFoundError: No module named 'no_such_package'"):
        bundle_plan(local('["my_layers"]', my_layers="import no_such_package\n"))


@pytest.mark.parametrize(
    ("helpers", "text", "words", "cure"),
    [
        ('["my_layers"]', "def f(:\n", r"'my_layers' has a syntax error in line 1", ""),
        ('["my_layers"]', "from . import x\n", r"imports relatively in line 1 \(from \. import", "init_helpers"),
        ('["my_layers"]', "from ..a.b import x\n", r"\(from \.\.a\.b import", "by the full name"),
        ('["json"]', "", "'json' shadows 'json' of Python's standard library", "another name"),
        ('["numpy"]', "", "'numpy' shadows a package that every plan of this framework needs", "another name"),
        ('["fedplug_mine"]', "", "shadows a package of FedPlug", "another name"),
        ('["sklearn"]', "", "'sklearn' has the name of an installed package", '"import sklearn"'),
        ('["no_such_helper"]', "", "'no_such_helper' cannot be found", "no_such_helper.py beside the plan"),
        ('["not a name"]', "", "is no name of a module", ""),
        ('["../up"]', "", "is no name of a module", ""),
        ('"my_layers"', "", "must return a list of modules", "my_layers.py beside the plan"),
        ("[3]", "", "must return a list of modules", ""),
        ("None", "", "must return a list of modules", ""),
        ("1 / 0", "", "init_helpers of 'Plan' failed: ZeroDivisionError", ""),
    ],
)
def test_what_cannot_travel_is_refused_with_the_cure(local, helpers, text, words, cure):
    plan = local(helpers, my_layers=text)
    with pytest.raises(PlanSourceError, match=words) as caught:
        bundle_plan(plan)
    assert cure in caught.value.cure


def test_compiled_modules_are_refused(local, tmp_path):
    (tmp_path / f"fast{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF")
    with pytest.raises(PlanSourceError, match="'fast' is no Python source but fast") as caught:
        bundle_plan(local('["fast"]'))
    assert "installed on the nodes" in caught.value.cure
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "__init__.py").touch()
    (tmp_path / "mixed" / f"inner{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF")
    with pytest.raises(PlanSourceError, match="'mixed' has a compiled part, inner"):
        bundle_plan(local('["mixed"]'))


def test_a_bundle_that_is_too_large_names_its_largest_part(local):
    plan = local('["my_layers", "weights"]', my_layers="x = 1\n", weights=f"w = '{'0' * MAX_SOURCE}'\n")
    with pytest.raises(PlanSourceError, match=r"Most of it, 4,194,\d+ characters, is weights") as caught:
        bundle_plan(plan)
    assert "name fewer modules" in caught.value.cure


def test_a_relative_import_in_the_plan_is_refused(local):
    with pytest.raises(PlanSourceError, match=r"imports relatively \(from \. import x\)"):
        bundle_plan(local(body="from . import x"))


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        ('["import forgotten"]', "The plan imports 'forgotten' in line 4"),
        ("[]", "Helper module 'my_layers' imports .* 2"),
    ],
)
def test_a_module_beside_the_plan_that_does_not_travel_is_told(local, lines, who):
    plan = local(
        '["my_layers"]', lines, my_layers="def f():\n    import forgotten\n" if lines == "[]" else "", forgotten=""
    )
    with pytest.warns(FedplugWarning, match=rf"{who}, a module beside it") as caught:
        bundle_plan(plan)
    assert "return ['forgotten']" in str(caught[0].message)


@pytest.mark.parametrize("name", ["", ".", "a b", "a..b", "x\x1b[2J", "../up", "class", "x" * 300, "json", "sys", "a.b",
                                  "fedplug", "fedplug_torch.plan"])  # fmt: skip
def test_a_helpers_name_from_the_network_is_checked(name):
    data = PlanBundle("Plan", "class Plan: ...", (), {name: "x = 1"}).encode()
    with pytest.raises(PlanSourceError, match="name of a helper module"):
        PlanBundle.decode(data)


def test_a_helper_from_the_network_that_is_wrong_ends_in_one_error():
    source = "class Plan(NumpyTrainingPlan): pass"
    for text in ("def f(:", "x = '\0'", "1 / 0", "raise SystemExit(3)"):
        bundle = PlanBundle("Plan", source, ("from fedplug import NumpyTrainingPlan", "import bad"), {"bad": text})
        for _ in range(2):
            with pytest.raises(PlanSourceError, match="cannot be set up"):
                load_plan(bundle)
        assert not [name for name in sys.modules if name.startswith(f"fedplug_plan_{bundle.hash}")]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("__init__(self)", "'Plan' overrides __init__, which is reserved for the library: you do it at your own risk"),
        ("training_routine(self)", "overrides training_routine, which is never called"),
        ("testing_routine(self)", "overrides testing_routine, which is never called: write testing_step"),
    ],
)
def test_overriding_what_belongs_to_the_library_is_told(local, method, words):
    plan = local(plan=PLAN + f"\n    def {method}:\n        super().__init__()\n")
    with pytest.warns(FedplugWarning, match=words):
        bundle = bundle_plan(plan)
    assert load_plan(bundle)
    with warnings.catch_warnings(record=True) as silent:
        bundle_plan(load_plan(bundle))
    assert not silent, "a node is not told"


def test_a_plan_is_forgotten_with_its_helpers_and_nothing_else_is(local):
    body = "import my_layers\n        return 0.0, {}"
    found = load_plan(bundle_plan(local('["my_layers"]', body=body, my_layers="x = 1\n")))
    found().training_step(None, None)
    before, root = set(sys.modules), found.__module__
    forget(root)
    assert before - set(sys.modules) == {root, f"{root}.my_layers"}


def test_a_file_is_read_once_however_often_its_plan_is_bundled(local, monkeypatch):
    plan = local('["my_layers"]', my_layers="x = 1\n")
    bundle, read = bundle_plan(plan), []
    forget(load_plan(bundle).__module__)
    for module in (class_source, helper_source):
        monkeypatch.setattr(module, "parse", lambda text: read.append(text) or parse(text))
    assert bundle_plan(plan) == bundle
    file = Path(sys.modules[plan.__module__].__file__)
    assert read, "its class is still looked at"
    assert not {file.read_text(), "x = 1\n"} & set(read)
    file.write_text(file.read_text().replace("0.0", "1.0"))
    linecache.checkcache()
    with pytest.raises(PlanSourceError, match="has changed"):
        bundle_plan(plan)
