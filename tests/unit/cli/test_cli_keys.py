"""The commands about keys, as two people type them: the owner of a node, and a researcher."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from fedplug.cli import main
from fedplug.core.keys import fingerprint
from fedplug.node.audit.log import AuditLog
from fedplug.node.keys import NodeKeys
from fedplug.node.lock import FolderLock
from fedplug.node.store import NodeStore
from fedplug.researcher.keys import ResearcherKeys

KEY = "5a" * 32
OTHER = "6b" * 32


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Returns ``typed(who, line, code=0)``: runs a line as that person, in their folder, and returns what it prints."""
    monkeypatch.delenv("FEDPLUG_NODE", raising=False)

    def run(who, line, code=0):
        folder = tmp_path / who
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("FEDPLUG_DIR", str(folder / "home"))
        command, *words = shlex.split(line)
        assert command == "fedplug"
        got = main(words)
        caught = capsys.readouterr()
        text = caught.out + caught.err
        assert got == code, f"{line}\n{text}"
        assert "Traceback" not in text
        return text

    return run


def line_of(text, beginning):
    """The command in a text that begins so."""
    (found,) = re.findall(rf"^.*?({re.escape(beginning)}.*)$", text, re.MULTILINE)
    return found


def public_of(text):
    return re.search(r"\b[0-9a-f]{64}\b", text)[0]


@pytest.fixture
def enrolled(typed):
    """A researcher and a node that know each other; returns their public keys."""
    researcher = public_of(typed("lab", "fedplug researcher init"))
    node = public_of(typed("clinic", f"fedplug node init --name clinic --id clinic-1 --trust {researcher}"))
    typed("lab", f"fedplug researcher allow clinic-1 {node}")
    return researcher, node


def test_two_people_get_to_know_each_other_by_typing_the_lines_that_the_other_one_was_shown(typed, tmp_path):
    made = typed("lab", "fedplug researcher init")
    for_the_clinic = line_of(made, "fedplug node trust").replace("ADDRESS:7400", "lab.example:7411")
    made = typed("clinic", "fedplug node init --name clinic")
    for_the_lab = line_of(made, "fedplug researcher allow clinic-")
    allowed = typed("lab", for_the_lab)
    assert "may connect, by the key" in allowed
    trusted = typed("clinic", for_the_clinic)
    assert "trusts the researcher at zmq://lab.example:7411" in trusted
    assert line_of(trusted, "fedplug researcher allow") == for_the_lab, "for who has lost the mail"
    assert line_of(allowed, "fedplug node trust").split()[3] == for_the_clinic.split()[3]

    node, lab = NodeKeys(tmp_path / "clinic" / "fedplug-node"), ResearcherKeys(tmp_path / "lab" / "home")
    pair = node.own.pair()
    assert lab.nodes.name_of(pair.public) == for_the_lab.split()[3]
    assert node.trusted("zmq://lab.example:7411") == (lab.own.pair().public,)
    for keys in (node.own, lab.own):
        assert keys.path.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in keys.path.iterdir()} == {0o600}
    # Each compares on the telephone what the other one sees.
    assert fingerprint(lab.own.pair().public) in trusted
    assert fingerprint(lab.own.pair().public) in typed("lab", "fedplug keys show")
    assert fingerprint(pair.public) in allowed
    assert fingerprint(pair.public) in typed("clinic", "fedplug keys show")
    assert fingerprint(pair.public) in typed("lab", "fedplug researcher list")
    for who in ("lab", "clinic"):
        printed = typed(who, "fedplug keys show") + typed(who, "fedplug keys show --json")
        assert pair.secret not in printed
        assert lab.own.pair().secret not in printed
    # It connects there from now on, and not any more to the address that every node begins with.
    with NodeStore.open(tmp_path / "clinic" / "fedplug-node") as store:
        assert store.identity.researchers == ("zmq://lab.example:7411",)
        (entry,) = AuditLog(store).entries(events=["researcher-trusted"])
        assert entry.data == {"key": lab.own.pair().public, "researcher": "zmq://lab.example:7411"}


LACKING = [
    ("lab", "researcher allow", "Say which node may connect", "fedplug researcher allow NODE KEY"),
    ("lab", "researcher allow clinic-2", "By which public key may clinic-2", "fedplug researcher allow clinic-2 KEY"),
    ("lab", f"researcher allow {KEY} clinic-2", "comes first", f"fedplug researcher allow clinic-2 {KEY}"),
    ("lab", "researcher deny", "Say which node may connect no more", "These may connect now: clinic-1."),
    ("lab", "researcher deny clinic", "no node that may connect named 'clinic'", "Did you mean 'clinic-1'?"),
    ("lab", "researcher init", "You have keys already", "fedplug researcher rotate"),
    ("lab", "researcher rotate --finish", "No new keys wait", "fedplug researcher rotate"),
    ("lab", "keys new", "There is no node in", "fedplug researcher init"),
    ("stranger", "researcher allow a1 " + KEY, "You have no keys yet", "fedplug researcher init"),
    ("stranger", "researcher rotate", "You have no keys yet", "fedplug researcher init"),
    ("stranger", "keys fingerprint", "There are no keys here", "fedplug keys fingerprint KEY"),
    ("clinic", "node trust", "Say which public key", "fedplug node trust KEY"),
    ("clinic", "node untrust", "Say which key", "It trusts now: zmq://127.0.0.1:7400 ("),
    ("clinic", "node untrust " + KEY, "no trusted researcher named", "Known: "),
    ("clinic", "node rotate --finish", "No new keys wait", "fedplug node rotate"),
    ("clinic", "keys new", "has keys already", "fedplug node rotate"),
    (
        "clinic",
        "node init other --trust " + KEY + " --researcher zmq://a:1 --researcher zmq://b:1",
        "only for one",
        "fedplug node trust KEY --researcher ADDRESS",
    ),
]
WRONG = [
    ("lab", "researcher allow clinic-2 12345", "The key of clinic-2 is no public key", "fedplug keys show"),
    ("lab", "researcher allow clinic-2 {lab}", "your own public key", "fedplug keys show"),
    ("lab", "researcher allow clinic-2 {clinic}", "that of the node clinic-1", "fedplug researcher deny clinic-1"),
    ("clinic", "node trust zmq://127.0.0.1:7400", "The researcher's key is no public key", "fedplug keys show"),
    ("clinic", "node trust {clinic}", "the node's own public key", "fedplug keys show"),
    ("clinic", "node trust {lab} --researcher lab.example", "not an address", "zmq://"),
    ("clinic", "node init other --trust 12345", "The key after --trust is no public key", "fedplug keys show"),
    (
        "clinic",
        "node start --researcher zmq://lab.example:7400",
        "trusts no key of a researcher at zmq://lab.example",
        "fedplug node trust KEY --researcher zmq://lab.example:7400",
    ),
    (
        "clinic",
        "node start --researcher zmq://127.0.0.1:1 --insecure-plaintext",
        "trusts no key of a researcher",
        "fedplug node trust KEY --researcher zmq://127.0.0.1:1",
    ),
]


def test_a_command_that_lacks_something_or_has_a_wrong_key_says_what_to_type(typed, enrolled):
    for code, table in ((2, LACKING), (1, WRONG)):
        for who, line, cause, cure in table:
            told = typed(who, "fedplug " + line.format(lab=enrolled[0], clinic=enrolled[1]), code)
            assert "Error: " in told, line
            assert cause in told, line
            assert cure in told, line


def test_keys_that_others_can_read_are_used_by_no_command(typed, enrolled, tmp_path):
    for who, file, line in (
        ("lab", "home/keys/own.key", "researcher allow x2 " + KEY),
        ("clinic", "fedplug-node/keys/own.key", "node start"),
    ):
        (tmp_path / who / file).chmod(0o644)
        told = typed(who, f"fedplug {line}", code=1)
        assert "Others can read" in told
        assert f"chmod 600 '{tmp_path / who / file}'" in told
        assert "rotate" in told


def test_a_researcher_changes_their_keys_without_losing_a_node(typed, enrolled, tmp_path):
    old, _ = enrolled
    first = typed("lab", "fedplug researcher rotate")
    assert typed("lab", "fedplug researcher rotate") == first, "the same keys wait"
    trusted = typed("clinic", line_of(first, "fedplug node trust"))
    assert line_of(trusted, "fedplug node untrust") == f"fedplug node untrust {old}"
    node = NodeKeys(tmp_path / "clinic" / "fedplug-node")
    new = public_of(first)
    assert node.trusted("zmq://127.0.0.1:7400") == (old, new)
    assert "new keys that wait" in typed("lab", "fedplug keys show")
    finished = typed("lab", line_of(first, "fedplug researcher rotate --finish"))
    assert fingerprint(new) in finished
    typed("clinic", line_of(finished, "fedplug node untrust"))
    assert node.trusted("zmq://127.0.0.1:7400") == (new,)
    assert ResearcherKeys(tmp_path / "lab" / "home").own.pair().public == new


def test_a_node_changes_its_keys_without_being_locked_out(typed, enrolled, tmp_path):
    _, old = enrolled
    first = typed("clinic", "fedplug node rotate")
    new = public_of(first)
    allowed = typed("lab", line_of(first, "fedplug researcher allow"))
    assert line_of(allowed, "fedplug researcher deny") == f"fedplug researcher deny {old}"
    nodes = ResearcherKeys(tmp_path / "lab" / "home").nodes
    assert nodes.name_of(old) == nodes.name_of(new) == "clinic-1"
    typed("clinic", line_of(first, "fedplug node rotate --finish"))
    assert NodeKeys(tmp_path / "clinic" / "fedplug-node").own.pair().public == new
    denied = typed("lab", line_of(allowed, "fedplug researcher deny"))
    assert "clinic-1 may still connect by another key" in denied
    assert (nodes.name_of(old), nodes.name_of(new)) == ("", "clinic-1")


def test_only_one_key_is_left_where_it_is_asked_for(typed, enrolled, tmp_path):
    typed("lab", f"fedplug researcher allow --only clinic-1 {KEY}")
    assert [entry["key"] for entry in json.loads(typed("lab", "fedplug researcher list --json"))] == [KEY]
    typed("clinic", f"fedplug node trust --only {OTHER}")
    assert NodeKeys(tmp_path / "clinic" / "fedplug-node").trusted("zmq://127.0.0.1:7400") == (OTHER,)


def test_a_node_with_several_researchers_knows_whose_key_is_whose(typed, tmp_path):
    typed("clinic", "fedplug node init --researcher zmq://a.example:7400 --researcher zmq://b.example:7400")
    told = typed("clinic", f"fedplug node trust {KEY}", code=2)
    assert "fedplug node trust KEY --researcher ADDRESS" in told
    typed("clinic", f"fedplug node trust {KEY} --researcher ZMQ://A.example:7400/")
    keys = NodeKeys(tmp_path / "clinic" / "fedplug-node")
    assert keys.trusted("zmq://a.example:7400") == (KEY,)
    assert keys.trusted("zmq://b.example:7400") == ()
    told = typed("clinic", "fedplug node start", code=1)
    assert "trusts no key of a researcher at zmq://b.example:7400" in told
    told = typed("clinic", line_of(told, "fedplug node untrust zmq://b.example:7400"))
    assert "does not connect to zmq://b.example:7400 any more" in told
    with NodeStore.open(tmp_path / "clinic" / "fedplug-node") as store:
        assert store.identity.researchers == ("zmq://a.example:7400",)
    typed("clinic", f"fedplug node trust {OTHER} --researcher zmq://c.example:7400")
    told = typed("clinic", "fedplug node untrust " + OTHER)
    assert "does not connect to zmq://c.example:7400 any more" in told
    told = typed("clinic", "fedplug node untrust zmq://a.example:7400")
    assert "It trusts no key now" in told
    with NodeStore.open(tmp_path / "clinic" / "fedplug-node") as store:
        assert store.identity.researchers == ("zmq://a.example:7400",), "a node that connects nowhere is of no use"
        events = [entry.event for entry in AuditLog(store).entries(limit=10)]
    assert events.count("researcher-trusted") == events.count("researcher-untrusted") == 2


def test_a_running_node_that_trusts_nobody_any_more_is_to_be_started_again(typed, enrolled, tmp_path):
    typed("clinic", f"fedplug node trust {KEY}")
    lock = FolderLock(tmp_path / "clinic" / "fedplug-node")
    assert "started again" not in typed("clinic", f"fedplug node untrust {KEY}")
    assert "started again: fedplug node stop\n" in typed("clinic", f"fedplug node untrust {enrolled[0]}")
    lock.release()


def test_who_is_denied_is_not_in_the_list_any_more(typed, enrolled):
    assert "clinic-1" in typed("lab", "fedplug researcher list")
    assert "clinic-1 may not connect any more" in typed("lab", "fedplug researcher deny clinic-1")
    assert "No node may connect yet" in typed("lab", "fedplug researcher list")
    assert "You have no keys yet" in typed("stranger", "fedplug researcher list")


def test_a_node_of_an_earlier_version_gets_its_keys_when_they_are_needed(typed, tmp_path):
    for name, line in (("one", "fedplug keys new"), ("two", f"fedplug node trust {KEY}")):
        NodeStore.create(tmp_path / name / "fedplug-node", name=name, node_id=name).close()
        keys = NodeKeys(tmp_path / name / "fedplug-node").own
        assert keys.pair() is None
        told = typed(name, line)
        assert f"fedplug researcher allow {name} {keys.pair().public}" in told


def test_a_node_whose_transport_is_not_installed_is_made_without_keys_and_says_how_it_gets_them(cli, typed, tmp_path):
    made = cli("node", "init", "--name", "a", "--id", "a-1", cwd=tmp_path, env={"FEDPLUG_PLUGINS": "sklearn"})
    assert made.returncode == 0, made.stderr
    assert "It has no keys yet: There is no transport for zmq://" in made.stdout
    assert NodeKeys(tmp_path / "fedplug-node").own.pair() is None
    (tmp_path / "fedplug-node").rename(tmp_path / "a")
    later = line_of(made.stdout, "fedplug keys new")
    assert "fedplug researcher allow a-1" in typed(".", later.replace("keys new", "keys -C a new"))


def test_lines_repeat_the_folder(typed, tmp_path):
    made = typed("lab", "fedplug researcher -C mine init")
    mine = f"fedplug researcher --folder {tmp_path / 'lab' / 'mine'}"
    assert f"\n  {mine} allow NODE KEY\n" in made
    node = typed("lab", "fedplug node -C n init --id a-1")
    assert ": fedplug node --folder n trust KEY\n" in node
    typed("lab", f"fedplug node -C n trust {public_of(made)}")
    typed("lab", f"fedplug researcher -C mine allow a-1 {public_of(node)}")
    assert f"No new keys wait in {tmp_path / 'lab' / 'mine' / 'keys'}" in typed("lab", f"{mine} rotate --finish", 2)
    assert ": fedplug node --folder n rotate --finish\n" in typed("lab", "fedplug node -C n rotate")
    (shown,) = [each for each in json.loads(typed("lab", "fedplug keys -C n show --json")) if each["in_use"]]
    assert (shown["folder"], shown["public"]) == (str(tmp_path / "lab" / "n"), public_of(node))


def test_a_fingerprint_is_that_of_the_key(typed, enrolled):
    assert typed("lab", f"fedplug keys fingerprint {KEY.upper()}") == f"{fingerprint(KEY)}\n"
    assert typed("lab", "fedplug keys fingerprint") == f"{fingerprint(enrolled[0])}  researcher you\n"
    shown = json.loads(typed("clinic", "fedplug keys show --json"))
    assert [(each["side"], each["id"], each["public"], each["in_use"]) for each in shown] == [
        ("node", "clinic-1", enrolled[1], True)
    ]
    assert "There are no keys here" in typed("stranger", "fedplug keys show")


@pytest.mark.parametrize(
    "command",
    ["researcher init", "researcher allow", "researcher deny", "researcher list", "researcher rotate", "keys show",
     "keys new", "keys fingerprint", "node trust", "node untrust", "node rotate"],
)  # fmt: skip
def test_every_help_text_teaches_with_an_example(typed, command):
    told = typed("lab", f"fedplug {command} --help")
    assert "Example" in told
    assert f"\n    fedplug {command}" in told
