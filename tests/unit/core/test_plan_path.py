"""`load_plan_class`: a training plan from a Python file."""

from __future__ import annotations

import os
import sys

import pytest

from fedplug.core.errors import PlanSourceError, UnknownNameError, UsageError
from fedplug.core.plan_path import load_plan_class
from fedplug.core.plan_source import bundle_plan, load_plan
from fedplug.core.training_plan import PlanSetup

HEAD = "import numpy as np\nfrom fedplug import DataManager, NumpyTrainingPlan\n"
PLAN = """

class {name}(NumpyTrainingPlan):
    def init_model(self):
        return {{"w": np.full(2, {value})}}

    def training_data(self):
        return DataManager(np.zeros((4, 2)), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {{"w": np.zeros(2)}}
"""


def write(path, *plans, head=HEAD, tail=""):
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + "".join(PLAN.format(name=name, value=value) for name, value in plans) + tail)
    return path


def value_of(plan_class) -> float:
    plan = load_plan(bundle_plan(plan_class))()
    plan.setup(PlanSetup())
    return plan.model()["w"][0]


def test_the_only_plan_needs_no_name(tmp_path):
    path = write(tmp_path / "plans.py", ("Mine", 3.0), tail="\n\nclass Other:\n    pass\n\n\nAgain = Mine\n")
    for given in (path, str(path)):
        assert load_plan_class(given).__name__ == "Mine"
    assert value_of(load_plan_class(path)) == 3.0
    assert load_plan_class(path, "Other").__name__ == "Other", "a bare model class may be named too"


def test_one_of_several_is_picked_by_name(tmp_path):
    path = write(tmp_path / "plans.py", ("One", 1.0), ("Two", 2.0))
    assert [value_of(load_plan_class(path, name)) for name in ("One", "Two")] == [1.0, 2.0]
    with pytest.raises(UsageError, match="defines 2 training plans: One, Two") as caught:
        load_plan_class(path)
    assert "name of the class" in caught.value.cure
    with pytest.raises(UnknownNameError, match="named 'Tow'") as unknown:
        load_plan_class(path, "Tow")
    assert "Did you mean 'Two'?" in unknown.value.cure


def test_two_files_of_one_name_do_not_disturb_each_other(tmp_path):
    paths = [write(tmp_path / folder / "plan.py", ("Plan", value)) for folder, value in (("a", 1.0), ("b", 2.0))]
    classes = [load_plan_class(path) for path in paths]
    assert [value_of(each) for each in classes] == [1.0, 2.0]


def test_an_edited_file_gives_the_new_class(tmp_path):
    path = write(tmp_path / "plan.py", ("Plan", 1.0))
    first = load_plan_class(path)
    status = path.stat()
    write(path, ("Plan", 2.0))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so fast that the clock has not moved
    second = load_plan_class(path)
    assert value_of(second) == 2.0
    with pytest.raises(PlanSourceError, match="is not the one that is running"):
        bundle_plan(first)


def test_helpers_are_found_beside_the_file_and_not_mixed_up(tmp_path):
    tail = '\n    def init_helpers(self):\n        return ["width"]\n'
    paths = []
    for folder, value in (("a", 1.0), ("b", 2.0)):
        path = write(tmp_path / folder / "plan.py", ("Plan", "width.w"), head=HEAD + "import width\n", tail=tail)
        (path.parent / "width.py").write_text(f"w = {value}\n")
        paths.append(path)
    classes = [load_plan_class(path) for path in paths]
    assert [value_of(each) for each in classes] == [1.0, 2.0]
    assert "width" not in sys.modules
    assert not {str(path.parent) for path in paths} & set(sys.path)


def test_a_module_of_the_same_name_is_put_back(tmp_path, monkeypatch):
    mine = type(sys)("width")
    monkeypatch.setitem(sys.modules, "width", mine)
    path = write(tmp_path / "plan.py", ("Plan", 1.0), head=HEAD + "import width\nassert width.w == 1\n")
    (tmp_path / "width.py").write_text("w = 1\n")
    load_plan_class(path)
    assert sys.modules["width"] is mine


def test_what_is_guarded_for_scripts_is_not_executed(tmp_path):
    assert load_plan_class(
        write(tmp_path / "plan.py", ("Plan", 1.0), tail="\n\nif __name__ == '__main__':\n    raise SystemExit(1)\n")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Plan(:\n", "has a syntax error in line 1"),
        ("x = 1\n\n1 / 0\n", "failed in line 3: ZeroDivisionError"),
        ("import no_such_package\n", "failed in line 1: ModuleNotFoundError"),
        ("x = '\0'", "null bytes|syntax error"),
    ],
)
def test_a_file_that_cannot_be_executed_says_where(tmp_path, text, words):
    path = tmp_path / "plan.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(PlanSourceError, match=words) as caught:
        load_plan_class(path)
    assert str(path) in caught.value.message
    assert not [name for name in set(sys.modules) - before if "plan_file" in name]


def test_a_file_that_lacks_an_import_is_told_that_it_must_import_what_it_uses(tmp_path):
    for name, line in {
        "TorchTrainingPlan": ": from fedplug_torch import TorchTrainingPlan",
        "NumpyTrainingPlan": ": from fedplug import NumpyTrainingPlan",
        "Unheard": ", e.g. from fedplug_torch import TorchTrainingPlan",
    }.items():
        (tmp_path / "plan.py").write_text(f"class Plan({name}):\n    pass\n")
        with pytest.raises(PlanSourceError, match=f"failed in line 1: NameError: name '{name}'") as caught:
            load_plan_class(tmp_path / "plan.py")
        assert caught.value.cure == f"The file is executed here as it stands, so it must import what it uses{line}"


def test_a_base_class_of_a_file_beside_it_is_told_to_be_a_helper(tmp_path):
    write(tmp_path / "base_beside.py", ("Base", 1.0))
    own = "from base_beside import Base\n\n\nclass Own(Base):\n    def init_optimizer(self):\n        return None\n"
    (tmp_path / "plan.py").write_text(own)
    with pytest.raises(PlanSourceError, match="uses 'Base'") as caught:
        bundle_plan(load_plan_class(tmp_path / "plan.py"))
    assert 'return ["base_beside"], and import it in init_dependencies: ["from base_beside import Base"]' in str(
        caught.value
    )


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n")
    with pytest.raises(UsageError, match=r"data\.csv is no Python file: its name does not end in \.py"):
        load_plan_class(tmp_path / "data.csv")
    with pytest.raises(UsageError, match=r"nothing\.py, is not there"):
        load_plan_class(tmp_path / "nothing.py")
    with pytest.raises(UsageError, match="is a folder"):
        load_plan_class(tmp_path)
    (tmp_path / "empty.py").write_text("from fedplug import NumpyTrainingPlan\n")
    with pytest.raises(UsageError, match="defines no training plan"):
        load_plan_class(tmp_path / "empty.py")


def test_the_code_of_a_plan_can_be_saved_and_loaded_again(tmp_path):
    tail = '\n    def init_helpers(self):\n        return ["width", "deep"]\n'
    path = write(
        tmp_path / "a" / "plan.py", ("Plan", "width.w + deep.inner.x"), head=HEAD + "import width\n", tail=tail
    )
    (path.parent / "width.py").write_text("import deep.inner\nw = 1.0\n")
    (path.parent / "deep").mkdir()
    (path.parent / "deep" / "inner.py").write_text("x = 4.0\n")
    plan = load_plan(bundle_plan(load_plan_class(path)))()
    assert "# helper module width" in plan.source()
    (tmp_path / "b").mkdir()
    saved = plan.save_code(tmp_path / "b" / "copy.py")
    assert plan.save_code(saved) == saved
    again = load_plan_class(saved)
    assert bundle_plan(again).hash == bundle_plan(type(plan)).hash
    assert value_of(again) == 5.0
    (tmp_path / "b" / "width.py").write_text("somebody else's")
    with pytest.raises(UsageError, match="'width' would replace"):
        plan.save_code(saved)
    for wrong in (tmp_path / "b" / "copy.txt", tmp_path / "nothing" / "copy.py"):
        with pytest.raises(UsageError, match="cannot be written to"):
            plan.save_code(wrong)
