"""How an experiment shows itself to people and to scripts: terminal, notebook, plain lines, JSON, or hardly at all."""

from __future__ import annotations

from fedplug.researcher.progress.choose import MODES, make_progress

__all__ = ["MODES", "make_progress"]
