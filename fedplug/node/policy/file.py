"""Reading ``node.toml``."""

from __future__ import annotations

from pathlib import Path

from fedplug.node.policy.schema import Policy

POLICY_FILE = "node.toml"


def read_policy(folder: Path) -> Policy:
    """The rules of the node in ``folder``; the defaults if it has no file of rules."""
    return Policy(file=None if not (folder / POLICY_FILE).exists() else folder / POLICY_FILE)
