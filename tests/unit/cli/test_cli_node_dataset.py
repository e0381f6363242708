from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from fedplug.cli import main
from fedplug.cli.node import app, dataset
from fedplug.node.datasets.registry import dataset_type
from fedplug.node.store import NodeStore


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs ``fedplug node dataset ...`` at a node in the current folder; returns (exit code, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPLUG_NODE", raising=False)
    assert main(["node", "init", "--name", "clinic"]) == 0
    capsys.readouterr()

    def run(*words):
        code = main(["node", "dataset", *words])
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return run


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "wards.csv"
    path.write_text("AlterJahre,Groesse,befund\n61,1.5,1\n47,,0\n35,2.25,1\n")
    return path


def records():
    with NodeStore.open("fedplug-node") as store:
        return store.datasets()


def test_plans_see_the_names_of_the_mapping_and_the_owner_those_of_the_file(cli, table):
    code, out, err = cli(
        "add", str(table), "--tags", "x", "--map", "age=AlterJahre", "--map", "size=Groesse", "--target", "befund"
    )
    assert code == 0, err
    assert "Values are missing in size (1)" in out
    (record,) = records()
    assert record.columns == ("age", "size", "befund")
    assert record.card().columns == record.columns
    assert "AlterJahre" not in repr(record.card())
    _, out, _ = cli("show", "wards")
    assert "AlterJahre" in out
    assert "sha256:" in out


def test_what_cannot_be_written_into_the_audit_log_is_not_done(cli, table):
    cli("add", str(table), "--tags", "x")
    before = records()
    assert len(before) == 1
    with NodeStore.open("fedplug-node") as store, store.transaction() as db:
        db.execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(FAIL, 'it cannot be written'); END")
    for words in (
        ("remove", "wards"),
        ("edit", "wards", "--tags", "y"),
        ("add", str(table), "--tags", "z", "--name", "b"),
    ):
        assert cli(*words)[0] != 0
        assert records() == before


def test_a_json_file_describes_a_data_set_and_options_win_over_it(cli, table, tmp_path):
    described = {"path": "wards.csv", "tags": "x, y", "target": "befund", "mapping": {"age": "AlterJahre"}, "name": "a"}
    (tmp_path / "d.json").write_text(json.dumps(described))
    assert cli("add", "--file", "d.json", "--name", "b")[0] == 0
    (record,) = records()
    assert (record.name, record.tags, record.target, record.mapping) == (
        "b",
        ("x", "y"),
        "befund",
        {"age": "AlterJahre"},
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "no valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"path": "wards.csv", "tag": "x"}', "named 'tag'"),
        ('{"path": "wards.csv", "tags": [1]}', "tags must be a list of words"),
        ('{"path": "wards.csv", "tags": "x", "mapping": ["a"]}', "mapping must be an object"),
        ('{"path": 3}', "path must be text"),
    ],
)
def test_a_description_that_is_wrong_is_refused_and_nothing_registered(cli, table, tmp_path, content, said):
    (tmp_path / "d.json").write_text(content)
    code, _, err = cli("add", "--file", "d.json")
    assert code == 2
    assert said in err
    assert records() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--map", "age"], "is no pair"),
        (["--map", "age=Alter"], "no column 'Alter', which 'age' is to stand for"),
        (["--map", "a=befund", "--map", "b=befund"], "mapped to two names"),
        (["--map", "befund=AlterJahre"], "a column 'befund' of its own"),
        (["--option", "sep=;"], "named 'sep'"),
    ],
)
def test_a_mapping_or_an_option_that_cannot_be_is_refused_and_nothing_registered(cli, table, words, said):
    code, _, err = cli("add", str(table), "--tags", "x", *words)
    assert code != 0
    assert said in err
    assert records() == []


def test_a_dry_run_registers_nothing(cli, table):
    code, out, _ = cli("add", str(table), "--tags", "x", "--dry-run")
    assert code == 0
    assert "would be registered: 3 x 3" in out
    assert records() == []


def test_what_is_only_said_of_a_data_set_is_edited_without_a_new_id(cli, table):
    cli("add", str(table), "--tags", "x")
    (before,) = records()
    table.unlink()  # the files are not even looked at
    assert cli("edit", "wards", "--tags", "y,z", "--name", "w", "--description", "of 2024")[0] == 0
    (after,) = records()
    assert (after.dataset_id, after.tags, after.name) == (before.dataset_id, ("y", "z"), "w")


def test_what_trainings_see_is_edited_with_a_new_id(cli, table):
    cli("add", str(table), "--tags", "x", "--target", "befund")
    (before,) = records()
    code, out, err = cli("edit", "wards", "--map", "age=AlterJahre", "--columns", "AlterJahre", "--target", "befund")
    assert code == 0, err
    assert "must search again" in out
    (after,) = records()
    assert (after.columns, after.target) == (("age", "befund"), "befund")
    with NodeStore.open("fedplug-node") as store:
        assert store.former_dataset(before.dataset_id).reason == "changed"
    assert cli("edit", "wards", "--columns", "*")[0] == 0
    assert records()[0].columns == ("age", "Groesse", "befund")


def test_a_changed_file_is_found_and_accepted(cli, table):
    cli("add", str(table), "--tags", "x")
    assert cli("check")[0] == 0
    (before,) = records()
    os.utime(table, ns=(1, 1))
    assert cli("check", "wards")[0] == 0  # touched, but the same
    table.write_text(table.read_text() + "9,9,0\n")
    code, out, _ = cli("check")
    assert code == 1
    assert "changed since it was added" in out
    assert "3 x 3, and is 4 x 3 now" in out
    code, _, err = cli("edit", "wards", "--target", "befund")
    assert code == 1
    assert "--accept-changes" in err
    assert records() == [before]
    code, out, _ = cli("edit", "wards", "--accept-changes")
    assert code == 0
    (after,) = records()
    assert after.dataset_id != before.dataset_id
    assert (after.shape, after.added) == ((4, 3), before.added)
    assert json.loads(cli("check", "--json")[1]) == {"wards": []}


def test_accepting_what_is_broken_is_refused_and_the_record_stays(cli, table):
    cli("add", str(table), "--tags", "x")
    before = records()
    table.write_text("AlterJahre,Groesse,befund\n1,2\n")
    code, _, err = cli("edit", "wards", "--accept-changes")
    assert code == 1
    assert "row 2 has 2 cells" in err
    assert records() == before


def test_a_data_set_outside_the_roots_is_refused_when_it_is_added_and_found_when_it_is_checked(cli, table, tmp_path):
    cli("add", str(table), "--tags", "x")
    (tmp_path / "allowed").mkdir()
    rules = tmp_path / "fedplug-node" / "node.toml"
    rules.write_text(f'[data]\nroots = ["{tmp_path / "allowed"}"]\n')
    code, out, _ = cli("check")
    assert code == 1
    assert "not lie in a folder that this node may use" in out
    (tmp_path / "allowed" / "link.csv").symlink_to(table)
    for wanted in (table, tmp_path / "allowed" / "link.csv", tmp_path / "allowed" / ".." / "wards.csv"):
        code, _, err = cli("add", str(wanted), "--tags", "y", "--name", "n")
        assert code == 2
        assert "does not lie below a folder that this node may use" in err
    assert len(records()) == 1


def ask(answers, monkeypatch, words=()):
    monkeypatch.setattr(dataset, "_can_ask", lambda: True)
    return CliRunner().invoke(app, ["dataset", "add", *words], input="\n".join(answers) + "\n")


def test_what_is_missing_is_asked_and_every_wrong_answer_asked_again(cli, table, monkeypatch):
    answers = [
        "nothing.csv", str(table), "nonsense", "csv", "age", "age=Alter", "age=AlterJahre", "", "", "x, y", "weight",
        "befund", "of 2024", "y",
    ]  # fmt: skip
    done = ask(answers, monkeypatch)
    assert done.exit_code == 0, done.output
    for said in (
        "There is no file or folder nothing.csv",
        "named 'nonsense'",
        "no column 'weight'",
        "1 missing",
        "'age' does not say which name stands for which",
        "no column 'Alter'",
    ):
        assert said in done.output
    (record,) = records()
    assert (record.name, record.type, record.tags, record.target) == ("wards", "csv", ("x", "y"), "befund")
    assert record.description == "of 2024"
    assert record.mapping == {"age": "AlterJahre"}


def test_what_a_type_wants_to_know_is_asked_until_its_files_can_be_read(cli, tmp_path, monkeypatch):
    scans = tmp_path / "scans"
    scans.mkdir()
    dataset_type("medical").example(scans)
    (scans / "demographics.csv").rename(scans / "a.csv")
    (scans / "b.csv").write_text("x,y\n1,2\n")
    first = ["medical", "T=T1|", "-", "-"]  # which table it is has not been said
    second = ["medical", "T1", "T1w=T1; T1w=T2", "T1w=T1", "a.csv", "subject"]
    done = ask([str(scans), *first, *second, "", "", "mri", "", "", "y"], monkeypatch)
    assert done.exit_code == 0, done.output
    for said in ("several tables in its folder", "Modalities: T1.", "cannot be understood", "Without it: demographics"):
        assert said in done.output
    (record,) = records()
    assert record.options == {"modalities": "T1w=T1", "demographics": "a.csv", "index": "subject"}
    assert record.columns == ("T1w", "age")


def test_what_was_said_on_the_command_line_is_not_asked_for_again(cli, table, monkeypatch):
    words = [str(table), "--type", "csv", "--map", "age=AlterJahre"]
    done = ask(["", "x", "age", "", "y"], monkeypatch, words)
    assert done.exit_code == 0, done.output
    (record,) = records()
    assert (record.mapping, record.target) == ({"age": "AlterJahre"}, "age")


def test_a_file_that_cannot_be_read_as_was_said_is_refused_and_not_asked_about_for_ever(cli, table, monkeypatch):
    table.write_text("a,b\n1\n")
    done = ask([], monkeypatch, [str(table), "--type", "csv"])
    assert done.exit_code == 1
    assert "row 2 has 1 cell" in str(done.exception)


@pytest.mark.parametrize("answers", [["{table}"], ["{table}", "csv", "", "", "x", "-", "-", "n"]])
def test_who_breaks_off_registers_nothing(cli, table, monkeypatch, answers):
    done = ask([answer.format(table=table) for answer in answers], monkeypatch)
    assert done.exit_code == 1
    assert records() == []
