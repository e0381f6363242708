"""docs/node-web-page.md: what it prints, its options, its promises, its pictures."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedplug.node import NodeStore
from fedplug.node.web.auth import IDLE_SECONDS, LINK_SECONDS, SESSION_SECONDS
from fedplug.node.web.columns import MOST_COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEMPLATES = DOCS.parent / "fedplug" / "node" / "web" / "templates"


@pytest.fixture(scope="module")
def page():
    return (DOCS / "node-web-page.md").read_text(encoding="utf-8")


def test_the_command_prints_what_the_page_shows(page, tmp_path):
    (block,) = re.findall(r"^```console\n\$ fedplug (node ui .*?)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    command, printed = block
    NodeStore.create(tmp_path / "fedplug-node", name="hospital-a").close()
    # As printed, but on a free port: 8800 may be taken on the machine that tests.
    words = command.replace("8800", "0").split()
    process = subprocess.Popen(
        [sys.executable, "-m", "fedplug", *words], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    shown = re.sub(r"token=\S+", "token=…", re.sub(r"(?<=127\.0\.0\.1:)\d+", "8800", "".join(lines)))
    assert printed.startswith(shown)


def test_the_options_are_those_of_the_command(page, cli):
    text = cli("node", "ui", "--help").stdout
    named = set(re.findall(r"`(--[a-z-]+)", page)) - {"--no-open"}
    assert named == set(re.findall(r"(?<!\w)(--[a-z]+)", text)) - {"--help", "--no"}
    assert "--no-open" in page


def test_the_times_are_those_of_the_code(page):
    assert (LINK_SECONDS, IDLE_SECONDS, SESSION_SECONDS) == (5 * 60, 3600, 12 * 3600)
    assert "within 5 minutes" in page
    assert "after an hour in which nobody uses it, after twelve\nhours" in page


def test_its_limits_and_buttons_are_those_of_the_page(page):
    assert f"more than {MOST_COLUMNS} columns" in page
    shown = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html"))
    for name in ("Add a data set", "Change", "Check the files", "Accept the change", "Approve", "Reject", "Log in"):
        assert f"*{name}*" in page
        assert f">{name}<" in shown


def test_its_pictures_are_there_and_small(page):
    pictures = re.findall(r"!\[[^\]]+\]\((images/[^)]+\.png)\)", page)
    assert len(pictures) == 2
    for name in pictures:
        data = (DOCS / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 150_000
