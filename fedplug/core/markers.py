"""The two decorators of FedPlug's hooks, and the version of their contract."""

from __future__ import annotations

import pluggy

PROJECT = "fedplug"
"""Name of the project, of its entry-point group, and the prefix of its hooks."""

API_VERSION = 1
"""Version of the hooks. A plugin states the one it was written for as ``__fedplug_api__``."""

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks a function of `fedplug.core.hookspecs` as a hook."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as its answer to the hook of the same name."""
