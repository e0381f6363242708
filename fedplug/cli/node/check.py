"""``fedplug node check``: whether the rules of a node can be used, and what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedplug.cli.node.common import AsJson, open_store
from fedplug.cli.output import EXIT_FAILED, say, say_json, say_table
from fedplug.node.policy.lines import dotted

if TYPE_CHECKING:
    from fedplug.node.policy.schema import Policy


def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check the rules in node.toml, and show those in force.

    All that is wrong is listed with its line, and so is what looks as if it were not meant. The exit code is 1 if the
    rules cannot be used.

    \b
    Example:
      fedplug node check
    """  # noqa: D301
    from fedplug.node.policy.budget import Budget
    from fedplug.node.policy.file import POLICY_FILE, parse_policy, read_text
    from fedplug.node.policy.remarks import remarks
    from fedplug.node.policy.schema import Policy

    with open_store(ctx) as store:
        assert store.folder is not None
        file = store.folder / POLICY_FILE
        policy, problems = parse_policy(read_text(file), file) if file.exists() else (Policy(), [])
        notes = [] if problems else remarks(policy, store.datasets())
        accounts = Budget(store, policy).report()
    rows = list(_rows(policy))
    if as_json:
        say_json(
            {
                "file": str(file) if file.exists() else None,
                "problems": [{"line": p.line, "key": p.key, "text": p.text} for p in problems],
                "remarks": notes,
                "rules": {key: value for key, value, _ in rows},
                "budgets": [account.plain() for account in accounts],
            }
        )
    else:
        if not file.exists():
            say(f"There is no {file}: the defaults are in force.")
        for problem in problems:
            say(f"Wrong: {problem}")
        for note in notes:
            say(f"Note: {note}")
        if not problems:
            say_table(("rule", "value", "from"), rows)
            if accounts:
                say()
                say_table(("data set", "rounds given", "epsilon spent"), [account.cells() for account in accounts])
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _rows(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Every rule with its value and where it stands."""
    parts = {name: getattr(policy, name) for name in ("approval", "data", "training", "privacy", "resources")}
    parts |= {dotted(("datasets", name)): rules for name, rules in policy.datasets.items()}
    for section, rules in parts.items():
        for field in fields(rules):
            key = f"{section}.{field.name}"
            value = getattr(rules, field.name)
            if section.startswith("datasets.") and key not in policy.lines:
                continue  # decided under [training]
            line = policy.lines.get(key)
            yield key, _words(value), f"line {line}" if line else "default"


def _words(value: Any) -> str:
    if value is None:
        return "any"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(str(each) if isinstance(each, Path) else repr(each) for each in value) or "none"
    if hasattr(value, "items"):
        return "; ".join(f"{name} {allowed.text}" for name, allowed in value.items()) or "none"
    return str(value)
