"""The pages are true where a machine can tell: links lead somewhere, code is code, commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import textwrap
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
_COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?fedplug ([a-z][a-z -]*)", re.MULTILINE)


@cache
def pages() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file()]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{page.relative_to(ROOT)}:{line}", textwrap.dedent(match["code"])))
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors that a forge makes from the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    dead = []
    for page in pages():
        for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            goal = (page.parent / name).resolve() if name else page
            if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_python_blocks_are_python():
    broken = []
    for place, code in blocks("python"):
        try:
            ast.parse(code)
        except SyntaxError as error:
            broken.append(f"{place}: {error}")
    assert broken == []


def test_commands_of_the_pages_exist(typed):
    mentioned: dict[tuple[str, ...], str] = {}
    for language in ("", "bash", "console", "sh", "shell"):
        for place, code in blocks(language):
            for words in _COMMAND.findall(code):
                mentioned.setdefault(tuple(words.split(" -")[0].split()[:2]), place)
    wrong = []
    for words, place in mentioned.items():
        # `fedplug demo` has no second word that is a command; what does not begin a command is an argument.
        tries = [words, words[:1]]
        if not any(typed(*attempt, "--help")[0] == 0 for attempt in tries):
            wrong.append(f"{place}: fedplug {' '.join(words)}")
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("# A b, c!\n", {"a-b-c"}), ("```\n# no heading\n```\n## Two-part `x`\n", {"two-part-x"})],
    ids=["punctuation", "fences"],
)
def test_anchor_rule(text, expected, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert anchors(page) == expected
