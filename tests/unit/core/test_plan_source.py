from __future__ import annotations

import importlib
import linecache
import subprocess
import sys
import textwrap
from functools import wraps
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.class_source import free_names
from fedplug.core.errors import PlanSourceError
from fedplug.core.plan_source import MAX_SOURCE, PlanBundle, bundle_plan, load_plan, plan_file

PLAN = '''
class Plan(NumpyTrainingPlan):
    """A plan.

    With a docstring of several lines.
    """

    class Net:
        def __init__(self):
            super().__init__()
            self.size = 3

    def init_model(self, model_args):
        net = self.Net()
        return {"w": np.zeros(net.size)}

    def training_data(self):
        return DataManager(np.zeros((4, 3)), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(3)}
'''.lstrip()
HEAD = "import numpy as np\nfrom fedplug import DataManager, NumpyTrainingPlan\n\n\n"


class Minimal(NumpyTrainingPlan):
    def init_model(self):
        return {"w": np.zeros(1)}

    def training_data(self):
        return DataManager(np.zeros(4), np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {"w": np.zeros(1)}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that imports a text as a module of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(text: str, name: str = ""):
        name = name or f"plan_module_{tmp_path.name}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def run_python(*args: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *args], input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# where a class may stand -----------------------------------------------------------------------------------


def test_a_class_of_a_module_travels(module):
    bundle = bundle_plan(module(HEAD + PLAN).Plan)
    assert bundle.source == PLAN
    assert bundle.class_name == "Plan"
    line = "from fedplug import DataManager, NumpyTrainingPlan, ProcessTypes"
    assert bundle.dependencies == ("import numpy as np", line)
    loaded = load_plan(PlanBundle.decode(bundle.encode()))
    assert loaded().init_model({})["w"].shape == (3,)


def test_a_class_of_a_script_has_the_same_hash(module, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "# a comment that moves the class\n" + HEAD + PLAN + "\nif __name__ == '__main__':\n"
        "    from fedplug.core.plan_source import bundle_plan\n    print(bundle_plan(Plan).hash)\n"
    )
    assert run_python(str(script)).strip() == bundle_plan(module(HEAD + PLAN).Plan).hash


def test_a_class_nested_in_a_function_has_the_same_hash(module):
    nested = HEAD + "def make():\n    if True:\n" + textwrap.indent(PLAN, " " * 8) + "    return Plan\n"
    assert bundle_plan(module(nested).make()).hash == bundle_plan(module(HEAD + PLAN).Plan).hash


def test_the_inside_of_strings_survives_dedenting(module):
    body = PLAN + (
        "    def text(self):\n"
        "        return '''one\n"
        "            two\n"
        "three'''\n"
        "    def joined(self):\n"
        "        return ('a'\n"
        "                'b')\n"
    )
    nested = HEAD + "def make():\n" + textwrap.indent(body, " " * 4, lambda line: line != "three'''\n")
    made = module(nested + "    return Plan\n").make()
    loaded = load_plan(bundle_plan(made))
    assert loaded().text() == made().text() == "one\n                two\nthree"
    assert loaded().joined() == "ab"


def test_a_notebook_cell_travels_and_the_newest_definition_wins(module):
    out = run_python(
        "-W", "ignore::DeprecationWarning", "-",
        text=textwrap.dedent("""
            from IPython.core.interactiveshell import InteractiveShell
            from fedplug.core.plan_source import bundle_plan
            shell = InteractiveShell.instance()
            HEAD, PLAN = {!r}, {!r}
            assert shell.run_cell("%config Application.log_level='WARN'\\n" + HEAD + PLAN + "\\nPlan").success
            print(bundle_plan(shell.user_ns["Plan"]).hash)
            edited = PLAN.replace("size = 3", "size = 5")
            assert shell.run_cell("# edited\\n" + edited).success
            newest = bundle_plan(shell.user_ns["Plan"])
            print(newest.source == edited)
            assert shell.run_cell(PLAN.replace("np.zeros(4))", "display(4))")).success
            try:
                bundle_plan(shell.user_ns["Plan"])
            except Exception as error:
                print(error.message)
        """).format(HEAD, PLAN),
    ).splitlines()  # fmt: skip
    lines = [line for line in out if "Plan" not in line or line.startswith("Training")]
    assert lines[0] == bundle_plan(module(HEAD + PLAN).Plan).hash
    assert lines[1] == "True"
    assert "uses 'display'" in lines[2]


def test_a_class_typed_at_a_prompt_is_refused_with_the_cure():
    out = run_python(
        "-",
        text=HEAD
        + PLAN
        + textwrap.dedent("""
        from fedplug.core.plan_source import bundle_plan
        try:
            bundle_plan(Plan)
        except Exception as error:
            print(type(error).__name__, error)
    """),
    )
    assert "PlanSourceError" in out
    assert "typed at a prompt" in out
    assert "or in a notebook cell" in out


def test_two_classes_of_one_name_in_a_file_are_told_apart(module):
    text = HEAD + PLAN + "First = Plan\n\n" + PLAN.replace("size = 3", "size = 4")
    found = module(text)
    assert "size = 3" in bundle_plan(found.First).source
    assert "size = 4" in bundle_plan(found.Plan).source


def test_an_inner_class_of_the_same_name_does_not_confuse(module):
    text = HEAD + PLAN.replace("class Net:", "class Plan:").replace("self.Net()", "self.Plan()")
    bundle = bundle_plan(module(text).Plan)
    assert bundle.source.startswith("class Plan(NumpyTrainingPlan)")
    assert load_plan(bundle)().init_model({})["w"].shape == (3,)


def test_a_loaded_plan_can_be_bundled_again():
    bundle = bundle_plan(Minimal)
    assert bundle_plan(load_plan(bundle)) == bundle


def test_decorators_travel(module):
    text = HEAD + (
        "import functools\n\n\n"
        "@functools.total_ordering\n"
        + PLAN
        + "    def __lt__(self, other):\n        return True\n\n"
        + "    @functools.lru_cache\n    def cached(self):\n        return 7\n\n"
        + "    @staticmethod\n    def static():\n        return 8\n\n"
        + "    @property\n    def prop(self):\n        return 9\n\n"
        + "    def init_dependencies(self):\n        return ['import functools']\n"
    )
    bundle = bundle_plan(module(text).Plan)
    assert bundle.source.startswith("@functools.total_ordering\nclass Plan")
    plan = load_plan(bundle)()
    assert (plan.cached(), plan.static(), plan.prop) == (7, 8, 9)
    assert plan <= plan  # noqa: PLR0124 - made by the decorator of the class


def test_a_first_method_that_was_wrapped_elsewhere_does_not_mislead(module):
    def outside(function):
        @wraps(function)
        def inner(*args):
            return function(*args)

        return inner

    found = module(HEAD + PLAN)
    found.Plan.Net.__init__ = outside(found.Plan.Net.__init__)
    found.Plan.init_model = outside(found.Plan.init_model)
    assert bundle_plan(found.Plan).source == PLAN


def test_a_class_in_a_module_with_other_future_flags_compiles_the_same(module):
    text = "from __future__ import annotations\n" + HEAD + PLAN.replace("(self, data,", "(self, data: Unknown,")
    assert load_plan(bundle_plan(module(text).Plan))


# edited files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("size = 3", "size = 4"),
        lambda text: "# a new first line\n" + text,
        lambda text: text.replace("class Plan", "class Other"),
        lambda text: text.replace("def training_step", "def training_stop"),
        lambda text: text + "\n  this is not Python",
    ],
)
def test_an_edited_file_is_noticed(module, edit):
    found = module(HEAD + PLAN)
    path = Path(found.__file__)
    path.write_text(edit(HEAD + PLAN))
    linecache.clearcache()
    with pytest.raises(PlanSourceError, match="is not the one that is running") as caught:
        bundle_plan(found.Plan)
    assert "start Python again" in caught.value.cure


def test_a_file_that_is_gone_is_named(module):
    found = module(HEAD + PLAN)
    Path(found.__file__).unlink()
    found.__loader__ = None
    found.__spec__.loader = None
    linecache.clearcache()
    with pytest.raises(PlanSourceError, match="cannot be found"):
        bundle_plan(found.Plan)


# names from outside ----------------------------------------------------------------------------------------


def test_names_from_outside_are_named_with_the_cure(module):
    text = HEAD + "import math\nHELPER = 2\n\n" + PLAN.replace("return 0.0", "return math.sqrt(HELPER)")
    with pytest.raises(PlanSourceError, match="uses 'HELPER', 'math'") as caught:
        bundle_plan(module(text).Plan)
    assert caught.value.cure == (
        "Define it inside the class and write self.HELPER, or pass it in model_args and read "
        'self.model_args()["HELPER"].'
    )


@pytest.mark.parametrize(
    ("imported", "line"),
    [
        ("import math", "import math"),
        ("import os.path as place", "import posixpath as place"),
        ("from fedplug import MetricTypes", "from fedplug import MetricTypes"),
        ("from email.mime.text import MIMEText", "from email.mime.text import MIMEText"),
        ("from concurrent.futures import Future", "from concurrent.futures import Future"),  # lies in _base below it
        ("from functools import partial as part", "from functools import partial as part"),
    ],
)
def test_the_import_of_what_is_installed_is_given_word_for_word(module, imported, line):
    name = imported.split()[-1]
    text = HEAD + imported + "\n\n" + PLAN.replace("return 0.0", f"return {name}")
    with pytest.raises(PlanSourceError) as caught:
        bundle_plan(module(text).Plan)
    assert caught.value.cure == f'Return its import from init_dependencies: ["{line}"].'


def test_a_name_that_stands_for_something_else_gets_general_advice(module):
    text = HEAD + "WEIGHTS = np.zeros(2)\n\n" + PLAN.replace("return 0.0", "return WEIGHTS")
    with pytest.raises(PlanSourceError) as caught:
        bundle_plan(module(text).Plan)
    assert '"import numpy as np"), or define it inside the class and write self.WEIGHTS' in caught.value.cure


def test_the_way_that_is_told_for_a_base_class_of_another_file_works(module):
    module(HEAD + PLAN.replace("class Plan", "class Base"), "base_of_plans")
    text = HEAD + "from base_of_plans import Base\n\nclass Own(Base):\n    def training_data(self):\n        return 1\n"
    with pytest.raises(PlanSourceError, match="uses 'Base'") as caught:
        bundle_plan(module(text).Own)
    helpers, imports = '["base_of_plans"]', '["from base_of_plans import Base"]'
    assert caught.value.cure == (
        f"It is defined in base_of_plans, which does not travel by itself: name that in init_helpers: "
        f"return {helpers}, and import it in init_dependencies: {imports}."
    )
    text += f"    def init_helpers(self):\n        return {helpers}\n"
    text += f"    def init_dependencies(self):\n        return {imports}\n"
    assert load_plan(bundle_plan(module(text).Own))().init_model({})["w"].shape == (3,)


def test_a_name_of_the_class_body_is_answered_with_self(module):
    text = HEAD + PLAN.replace("self.Net()", "Net()")
    with pytest.raises(PlanSourceError, match="'Net'") as caught:
        bundle_plan(module(text).Plan)
    assert "write self.Net." in caught.value.cure


def test_a_base_class_from_outside_is_named(module):
    text = HEAD + "class Base(NumpyTrainingPlan):\n    pass\n\n" + PLAN.replace("(NumpyTrainingPlan)", "(Base)")
    with pytest.raises(PlanSourceError, match="uses 'Base'") as caught:
        bundle_plan(module(text).Plan)
    assert "move Base into a file beside it" in caught.value.cure
    assert '["my_parts"], and import it in init_dependencies: ["from my_parts import Base"]' in caught.value.cure


def test_a_closure_is_named():
    factor = 3

    class Plan(Minimal):
        def training_step(self, data, target):
            return factor, {}

    with pytest.raises(PlanSourceError, match="uses 'Minimal', 'factor'"):
        bundle_plan(Plan)


@pytest.mark.parametrize(
    "body",
    [
        "def f(self): return [x for x in range(3) if x]",
        "def f(self): return {k: v for k, v in {}.items()}",
        "def f(self):\n        y = 1\n        def g():\n            nonlocal y\n            y = 2\n        return g",
        "def f(self): return __class__, super().__init__, len, NotImplemented, __name__",
        "def f(self):\n        import os\n        return os",
        "def f(self):\n        try:\n            pass\n        except ValueError as e:\n            return e",
        "def f(self):\n        with open('x') as h:\n            return h",
        "def f(self): return (lambda a, *b, c=1, **d: (a, b, c, d))",
        "def f(self):\n        if (n := 3):\n            return n",
        "def f(self):\n        global counter\n        counter = 1\n    def g(self): return counter",
        "def f(self, a: Unknown, *b: Unknown) -> Unknown: return a",
        "async def f(self, a: Unknown) -> Unknown: return a",
        "x: Unknown = 3",
        "def f(self):\n        y: Unknown\n        y = 3\n        return y",
        "def f(self):\n        y: Unknown = 3\n        return y",
        "where = __qualname__ + __module__",
        "a = 1\n    b = [i for i in range(a)]",
        "def f(self): return type(self), Plan",
        "class In: pass",
        "def f(self, v):\n        match v:\n            case [a, *b]: return a, b",
        "def f(self, v):\n        match v:\n            case {'k': c, **d}: return c, d",
    ],
)
def test_no_false_alarm(body):
    assert free_names(f"class Plan:\n    {body}\n", "Plan") == set()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def f(self): return [helper(x) for x in y]", {"helper", "y"}),
        ("def f(self, a=helper): pass", {"helper"}),
        ("@helper\n    def f(self): pass", {"helper"}),
        ("x = helper", {"helper"}),
        ("class In(helper): pass", {"helper"}),
        ("def f(self): return f'{helper}'", {"helper"}),
        ("def f(self): helper.x = 1", {"helper"}),
        ("def f(self): return display, get_ipython", {"display", "get_ipython"}),
        ("def f(self):\n        global counter\n        return counter", {"counter"}),
    ],
)
def test_names_from_outside_are_found(body, expected):
    assert free_names(f"class Plan:\n    {body}\n", "Plan") == expected


def test_annotations_need_not_travel(module):
    method = "def init_model(self, model_args)"
    text = HEAD + "Wanted = int\n\n" + PLAN.replace(method, method.replace("args", "args: Wanted") + " -> Wanted")
    assert load_plan(bundle_plan(module(text).Plan))().init_model({})["w"].shape == (3,)


# dependencies ----------------------------------------------------------------------------------------------


def plan_with(dependencies: object) -> type:
    class Plan(Minimal):
        def init_dependencies(self):
            return dependencies

    return Plan


@pytest.mark.parametrize(
    ("dependencies", "words"),
    [
        ("import os", "must return a list of import statements"),
        (None, "must return a list of import statements"),
        ([1], "must return a list of import statements"),
        (["import"], "is not Python"),
        (["x = 1"], "is not an import statement"),
        (["import os; x = 1"], "is not an import statement"),
        (["from . import x"], "relative to a package"),
    ],
)
def test_a_wrong_dependency_is_named(dependencies, words):
    with pytest.raises(PlanSourceError, match=words):
        bundle_plan(plan_with(dependencies))


def test_init_dependencies_that_raises_is_named():
    class Plan(Minimal):
        def init_dependencies(self):
            raise KeyError("oops")

    with pytest.raises(PlanSourceError, match="init_dependencies of 'Plan' failed: KeyError"):
        bundle_plan(Plan)


def test_a_package_that_is_missing_is_named(module):
    text = HEAD + PLAN + "    def init_dependencies(self):\n        return ['import no_such_package_here']\n"
    with pytest.raises(PlanSourceError, match="No module named 'no_such_package_here'") as caught:
        bundle_plan(module(text).Plan)
    assert "installed on the nodes" in caught.value.cure


def test_dependencies_bind_names_star_imports_included(module):
    text = HEAD + "from math import *\n\n" + PLAN.replace("return 0.0", "return sqrt(4)")
    text += "    def init_dependencies(self):\n        return ['from math import *']\n"
    assert load_plan(bundle_plan(module(text).Plan))().training_step(None, None)[0] == 2


def test_a_plan_that_lacks_a_method_is_named():
    class Plan(NumpyTrainingPlan):
        def init_model(self):
            return {}

    with pytest.raises(PlanSourceError, match="'Plan' lacks training_data, training_step"):
        bundle_plan(Plan)


# what arrives ----------------------------------------------------------------------------------------------


def received(source: str, **fields) -> PlanBundle:
    return PlanBundle("Plan", source, ("from fedplug import DataManager, NumpyTrainingPlan",), **fields)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("class Plan(:\n    pass", r"syntax error in line 4: invalid syntax: class Plan\(:"),
        ("class Plan:\n  x = (\n", "syntax error in line 5"),
        ("x = '\0'", "null bytes"),
        ("x = " + "(" * 5000, "Plan"),
        ("class Plan: pass", "defines no training plan named 'Plan'"),
        ("Plan = 3", "defines no training plan named 'Plan'"),
        ("class Other(NumpyTrainingPlan): pass", "defines no training plan named 'Plan'"),
        ("class Plan(NumpyTrainingPlan): pass", "lacks init_model, training_data, training_step"),
        ("class Plan(NumpyTrainingPlan):\n    x = 1 / 0", "cannot be set up: ZeroDivisionError"),
        ("raise SystemExit(3)", "cannot be set up: SystemExit: 3"),
        ("import no_such_package_here", "cannot be set up: ModuleNotFoundError"),
    ],
)
def test_a_received_source_that_is_wrong_ends_in_one_error(source, words):
    for _ in range(2):  # nothing of the first attempt may be left over
        with pytest.raises(PlanSourceError, match=words):
            load_plan(received(source))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"nonsense", msgspec.msgpack.encode({"class_name": "x"}),
                                  msgspec.msgpack.encode({"class_name": "x", "source": "", "more": 1})])  # fmt: skip
def test_bytes_that_are_no_bundle_are_refused(data):
    with pytest.raises(PlanSourceError, match="not a training plan"):
        PlanBundle.decode(data)


def test_a_bundle_that_is_too_large_is_refused():
    with pytest.raises(PlanSourceError, match="at most"):
        PlanBundle.decode(bytes(MAX_SOURCE + 1))


# identity --------------------------------------------------------------------------------------------------


def test_the_hash_covers_everything_and_nothing_else():
    base = PlanBundle("Plan", PLAN, ("import os",), {"a": "1", "b": "2"})
    same = PlanBundle("Plan", PLAN, ("import os",), {"b": "2", "a": "1"})
    others = [
        PlanBundle("Plan2", PLAN, ("import os",), {"a": "1", "b": "2"}),
        PlanBundle("Plan", PLAN + "#", ("import os",), {"a": "1", "b": "2"}),
        PlanBundle("Plan", PLAN, ("import sys",), {"a": "1", "b": "2"}),
        PlanBundle("Plan", PLAN, ("import os",), {"a": "1", "b": "3"}),
    ]
    assert base.hash == same.hash
    assert len({base.hash, *(other.hash for other in others)}) == 5


def test_the_hash_is_the_same_on_every_machine():
    bundle = PlanBundle("Plan", "class Plan: pass\n", ("import os",))
    assert bundle.hash == "9da8bc5de8979d60a2794e48541aebd5fb5c68d258e7ad7456ffda2550cf6571"


def test_one_bundle_is_one_class_and_tracebacks_know_its_text():
    bundle = bundle_plan(Minimal)
    assert load_plan(bundle) is load_plan(PlanBundle.decode(bundle.encode()))
    assert "class Minimal(NumpyTrainingPlan):\n" in linecache.getlines(plan_file(bundle))
    linecache.checkcache()
    assert linecache.getlines(plan_file(bundle))


def test_two_plans_of_one_name_keep_their_own_text():
    one, two = received(PLAN.replace("\n    class Net", "\n    import numpy as np\n    class Net")), received(PLAN)
    assert plan_file(one) != plan_file(two)


@pytest.mark.parametrize("name", ["", "a b", "x\x1b[2J", "one\ntwo", "../up", "x" * 257])
def test_a_class_name_that_is_none_is_refused(name):
    """It comes from the network, and is written into logs before anything is executed."""
    with pytest.raises(PlanSourceError, match="name of its class"):
        PlanBundle.decode(PlanBundle(name, "class A: ...").encode())
