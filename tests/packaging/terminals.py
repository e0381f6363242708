"""The console blocks of a page, typed into real shells, and what they print compared with what the page shows.

A block ```` ```console hospital ```` is typed into the shell of that name, command by command, in the order of the
page. Below a command stand the lines that it prints, or some of them, in their order: ``…`` stands for whatever may
differ from machine to machine, and blanks may be of any width.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```console (\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```\w+ ([\w.-]+\.\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DONE = "=== done"


class Command(NamedTuple):
    """One command of a page: the shell that it is typed into, its text, and the lines that the page shows below it."""

    shell: str
    text: str
    shown: tuple[str, ...]


def commands_of(page: str) -> Iterator[Command]:
    """The commands of a page's console blocks, in order."""
    for shell, block in _BLOCK.findall(page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            text = [lines.pop(0)]
            while text[-1].endswith("\\"):
                text.append(lines.pop(0).removeprefix("> "))
            yield Command(shell, "\n".join(text), tuple(line for line in lines if line.strip()))


def files_of(page: str) -> dict[str, str]:
    """The files that a page gives in full, by name."""
    return dict(_FILE.findall(page))


def missing(shown: tuple[str, ...], printed: str) -> str:
    """The first line of ``shown`` that does not stand in ``printed`` below the one before; empty if all do."""
    rest = iter(printed.splitlines())
    for line in shown:
        words = [".*".join(map(re.escape, word.split("…"))) for word in line.split()]
        pattern = re.compile(r"\s*" + r"\s+".join(words) + r"\s*")
        if not any(pattern.fullmatch(candidate) for candidate in rest):
            return line
    return ""


class Terminal:
    """A shell that stays open, as a person's does.

    Args:
        folder: Where it stands at first.
        env: Its environment.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def type(self, command: str) -> tuple[int, str]:
        """Type a command, wait for its end, and return its exit code and all that was printed meanwhile."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # Programs must not read the commands that follow.
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null\necho; echo '{_DONE}' $?\n")
        self._shell.stdin.flush()
        printed: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(_DONE):
                return int(line.removeprefix(_DONE)), "".join(printed)
            printed.append(line)
        raise AssertionError(f"The shell ended while it ran: {command}\n{''.join(printed)}")

    def close(self) -> None:
        """Close the shell; what it started in the background gets the signal of a closed terminal."""
        assert self._shell.stdin is not None
        self._shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
        self._shell.stdin.close()
        assert self._shell.stdout is not None
        self._shell.stdout.read()
        self._shell.stdout.close()
        self._shell.wait(60)
