"""node.toml: what it may say, and how each mistake is named with its line."""

from __future__ import annotations

import logging
import os
import tomllib
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug.core.errors import PolicyError, StoreError
from fedplug.node.policy import in_force
from fedplug.node.policy.file import POLICY_FILE, check_text, parse_policy, read_policy, save_policy
from fedplug.node.policy.in_force import PolicyInForce
from fedplug.node.policy.lines import dotted, key_lines
from fedplug.node.policy.schema import Policy, Range
from fedplug.node.policy.template import policy_text


def test_the_text_of_a_new_node_is_right_and_means_the_defaults():
    policy, problems = parse_policy(policy_text(roots=[Path("/srv/data")]))
    assert problems == []
    assert policy.data.roots == (Path("/srv/data"),)
    assert (policy.approval, policy.training, policy.privacy, policy.resources) == (
        Policy().approval, Policy().training, Policy().privacy, Policy().resources,
    )  # fmt: skip
    assert parse_policy(policy_text(approval="off"))[0].approval.mode == "off"


def test_every_rule_that_the_text_shows_as_a_comment_can_be_used():
    lines = []
    for line in policy_text().splitlines():
        bare = line.removeprefix("# ")
        lines.append(bare if (" = " in bare and bare[0].islower()) or bare.startswith("[") else line)
    policy, problems = parse_policy("\n".join(lines))
    assert problems == []
    assert policy.training.arguments["batch_size"] == Range(8, 1024)
    assert policy.training.rounds == 1000
    assert policy.privacy.epsilon == 8
    assert policy.resources.memory == 8 * 2**30
    assert policy.datasets["patients"].minimum_rows == 100


@pytest.mark.parametrize("root", ['/da"ta', "/data\\x", "/d\n", "/ü"])
def test_any_folder_can_stand_in_the_text(root):
    assert parse_policy(policy_text(roots=[Path(root)]))[0].data.roots == (Path(root),)


WRONG = """\
[approval]
mode = "yes"
defualt_plans = true

[data]
roots = ["data"]
[training]
rounds = -1
minimum_rows = 2.5
plugins = "torch"
[training.arguments]
batch_size = { min = 9, max = 8 }
epochs = { low = 1 }
[privacy]
epsilon = 0
delta = 1
[resources]
memory = "8 gigs"
progress_silence = "0 s"
isolation = true
[datasets]
a = 3
[datasets."with blank"]
round = 1
[aproval]
mode = "on"
"""


def test_all_mistakes_are_named_with_their_lines():
    problems = {problem.line: str(problem) for problem in check_text(WRONG)}
    assert sorted(problems) == list(problems)
    for line, words in {
        2: "approval.mode must be 'on' or 'off', not 'yes'",
        3: "there is no key approval.defualt_plans. Did you mean 'default_plans'?",
        6: "must name folders from the root on",
        8: "training.rounds must be a whole number of at least 0, not -1",
        9: "training.minimum_rows must be a whole number",
        10: "training.plugins must be a list of words",
        15: "privacy.epsilon must be a number greater than 0",
        16: "greater than 0 and less than 1",
        18: '"512 MiB" or "8 GiB", not \'8 gigs\'',
        19: "must be longer than nothing",
        20: "in quotation marks",
        22: "datasets.a must be a section",
        24: "there is no key datasets.\"with blank\".round. Did you mean 'rounds'?",
        25: "there is no section aproval. Did you mean 'approval'?",
    }.items():
        assert words in problems[line], problems
    # What is wrong inside one table is told at the table.
    assert "batch_size: nothing is at least 9 and at most 8" in str(problems)


@pytest.mark.parametrize("text", ["[a", "x = ", 'x = "', "[a]\nx = 1\nx = 2", "\x00", "a = [1,\n2", "=" * 5])
def test_what_is_no_toml_is_one_problem_with_a_line(text):
    (problem,) = check_text(text)
    assert problem.line >= 1
    assert "not TOML" in problem.text


def test_the_file_is_refused_as_a_whole_and_what_was_saved_stays(tmp_path):
    save_policy(tmp_path, policy_text())
    before = (tmp_path / POLICY_FILE).read_bytes()
    with pytest.raises(PolicyError, match="line 2") as caught:
        save_policy(tmp_path, '[approval]\nmode = "of"\n')
    assert "fedplug node check" in str(caught.value)
    assert (tmp_path / POLICY_FILE).read_bytes() == before
    assert (tmp_path / POLICY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [POLICY_FILE]


def test_a_file_that_is_no_file_of_rules_is_refused(tmp_path):
    file = tmp_path / POLICY_FILE
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="UTF-8"):
        read_policy(tmp_path)
    file.write_text("#" * 300_000)
    with pytest.raises(PolicyError, match="more than"):
        read_policy(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(StoreError):
        read_policy(tmp_path)


def test_a_node_without_the_file_has_the_defaults_and_approval_is_on(tmp_path):
    assert read_policy(tmp_path) == Policy()
    assert Policy().approval.mode == "on"


def test_a_change_is_in_force_at_the_next_look_and_a_mistake_changes_nothing(tmp_path, caplog):
    caplog.set_level("INFO", "fedplug.node")
    save_policy(tmp_path, policy_text())
    policy = PolicyInForce.of(tmp_path)
    assert policy().approval.mode == "on"
    save_policy(tmp_path, policy_text(approval="off"))
    assert policy().approval.mode == "off"
    (tmp_path / POLICY_FILE).write_text("[approval]\nmode = 1")
    assert policy().approval.mode == "off"
    assert "line 2" in caplog.text
    (tmp_path / POLICY_FILE).unlink()
    assert policy().approval.mode == "off"
    assert "is gone" in caplog.text


KEYS = st.text("abz_-9", min_size=1, max_size=4) | st.text("a .\"'#=[]\\é", min_size=1, max_size=4)
LEAVES = (
    st.integers(-9, 9) | st.booleans() | st.text("ab\"'#=[]\n\\é", max_size=8) | st.lists(st.text("a]#", max_size=3))
)


def _quoted(text: str) -> str:
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    return '"' + "".join(signs.get(sign, sign) for sign in text) + '"'


def _value(value, style) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if style and "'''" not in value and not value.endswith("'") and "\r" not in value:
            return f"'''\n{value}'''"
        return _quoted(value)
    inner = [_quoted(each) for each in value]
    return "[\n" + ",\n".join(inner) + ("\n# ]\n" if style else "") + "]"


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, LEAVES, max_size=4), max_size=4), st.booleans())
def test_every_key_is_found_on_its_line_whatever_stands_around_it(tables, style):
    lines: list[str] = []
    expected: dict[str, int] = {}
    for table, values in tables.items():
        lines += ["", f"# {table!r} = 1", f"[{_quoted(table)}]"]
        expected[dotted((table,))] = sum(line.count("\n") + 1 for line in lines)
        for key, value in values.items():
            expected[dotted((table, key))] = sum(line.count("\n") + 1 for line in lines) + 1
            lines.append(f"{_quoted(key)} = {_value(value, style)}  # a = 1")
    text = "\n".join(lines)
    tomllib.loads(text)
    assert key_lines(text) == expected


def test_lines_of_dotted_keys_and_inline_tables():
    found = key_lines('a.b = 1\n[t]\nx = { y = { z = 1 } }\n[[many]]\nk = 1\n[t."u v"]\nw = """\n[no]\nn = 1\n"""\n')
    assert found == {
        "a": 1, "a.b": 1, "t": 2, "t.x": 3, "t.x.y": 3, "t.x.y.z": 3, "many": 4, "many.k": 5, 't."u v"': 6,
        't."u v".w': 7,
    }  # fmt: skip


def test_only_what_ends_a_line_in_toml_counts_as_one():
    text = '# a\u2028b = 1\nx = "\u2028\x85"\r\ny = 2\n'
    assert set(tomllib.loads(text)) == {"x", "y"}
    assert key_lines(text) == {"x": 2, "y": 3}


@pytest.mark.parametrize(
    ("allowed", "yes", "no"),
    [
        (Range(1, 3), [1, 2.5, 3], [0, 4, "2", True, None, float("nan")]),
        (Range(min=1), [1, 1e9, float("inf")], [0.5]),
        (Range(only=(True,)), [True], [1, False]),
        (Range(only=(1, "a")), [1, 1.0, "a"], [True, "b", 2]),
    ],
)
def test_what_a_range_allows(allowed, yes, no):
    assert all(allowed.allows(value) for value in yes)
    assert not any(allowed.allows(value) for value in no)


def test_a_change_that_the_time_of_the_file_does_not_tell_from_the_one_before_is_in_force_too(
    tmp_path, caplog, monkeypatch
):
    file, now = tmp_path / POLICY_FILE, 10**18
    monkeypatch.setattr(in_force, "time", types.SimpleNamespace(time=lambda: now / 1e9), raising=False)

    def write(rounds):
        file.write_text(f"[training]\nrounds = {rounds}\n")
        os.utime(file, ns=(now, now))

    write(1)
    policy = PolicyInForce.of(tmp_path)
    write(2)
    caplog.set_level(logging.INFO, "fedplug.node")
    assert [policy().training.rounds for _ in range(3)] == [2, 2, 2]
    assert caplog.text.count("are in force") == 1
    write("x")
    assert [policy().training.rounds for _ in range(3)] == [2, 2, 2]
    assert caplog.text.count("stay in force") == 1
    write(3)
    os.utime(file, ns=(0, 0))
    assert policy().training.rounds == 3
    assert caplog.text.count("are in force") == 2
    monkeypatch.setattr(in_force, "read_policy", None)  # it has settled, and is not read again
    assert policy().training.rounds == 3
