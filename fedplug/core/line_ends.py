"""Where the lines of a program end."""

from __future__ import annotations


def as_python_reads(text: str) -> str:
    """``text`` with a line feed, and nothing else, at the end of all that Python takes for a line.

    A carriage return ends a line too, and with it a comment. Whoever was shown the text without that break would read
    another program than the one that runs.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n")
