"""Ending a process with all that it has started."""

from __future__ import annotations

import subprocess
from typing import Any

import psutil


def end_family(process: subprocess.Popen[Any], patience: float = 10.0) -> None:
    """End a process and its descendants: ask, and after ``patience`` seconds insist.

    Descendants that a process of the family has given away (by a second fork) before this are not found.
    """
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=patience)
    for each in alive:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
