"""Which display fits where the program runs."""

from __future__ import annotations

import codecs
import os
import sys
from typing import IO

from fedplug.core.errors import UnknownNameError
from fedplug.core.monitor import Monitor
from fedplug.researcher.shown import shown

MODES = ("auto", "live", "notebook", "plain", "json", "quiet")
"""What ``make_progress`` and the environment variable ``FEDPLUG_PROGRESS`` understand."""


def make_progress(mode: str = "auto", *, file: IO[str] | None = None) -> Monitor:
    """A monitor that shows a running experiment.

    Args:
        mode: ``"live"`` (a table that is redrawn in a terminal), ``"notebook"`` (the same in a Jupyter cell),
            ``"plain"`` (lines), ``"json"`` (one object a line), ``"quiet"`` (only what goes wrong), or
            ``"auto"``: what ``FEDPLUG_PROGRESS`` says, else what fits: notebook, terminal, or lines.
        file: Where to write. None: standard output for ``"json"``; else standard error, and for ``"live"``
            standard output if that alone is a terminal. ``"notebook"`` writes into its cell.

    Raises:
        UnknownNameError: There is no such mode.
        UsageError: ``"notebook"`` is asked for where IPython is not installed.
    """
    chosen = _known(mode, "progress mode")
    if chosen == "auto":
        chosen = _known(os.environ.get("FEDPLUG_PROGRESS", "").strip() or "auto", "progress mode (FEDPLUG_PROGRESS)")
    if chosen == "auto" and file is None and _in_notebook():
        chosen = "notebook"
    if chosen == "notebook":
        from fedplug.researcher.progress.notebook import NotebookProgress

        return NotebookProgress()
    if chosen == "json":
        from fedplug.researcher.progress.json_lines import JsonProgress

        return JsonProgress(file)
    if chosen == "quiet":
        from fedplug.researcher.progress.plain import QuietProgress

        return QuietProgress(file)
    terminal = _terminal(file) if chosen in ("auto", "live") else None
    if terminal is not None:
        from fedplug.researcher.progress.live import LiveProgress

        return LiveProgress(terminal)
    # "live" ends here too where nothing can be redrawn: lines are what such a place can show.
    from fedplug.researcher.progress.plain import PlainProgress

    return PlainProgress(file)


def _known(mode: object, kind: str) -> str:
    if not isinstance(mode, str) or mode not in MODES:
        raise UnknownNameError(kind, mode if isinstance(mode, str) else shown(mode), MODES)
    return mode


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel (an IPython shell in a terminal is a terminal)."""
    ipython = sys.modules.get("IPython")  # a program that runs in a kernel has it loaded already
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _terminal(file: IO[str] | None) -> IO[str] | None:
    """The first of ``file``, or of standard error and standard output, that can be redrawn."""
    streams = (sys.stderr, sys.stdout) if file is None else (file,)
    return next((stream for stream in streams if stream is not None and _redrawable(stream)), None)


def _redrawable(stream: IO[str]) -> bool:
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    try:  # bars and ellipses need Unicode
        return codecs.lookup(getattr(stream, "encoding", None) or "").name.startswith("utf")
    except LookupError:
        return False
