"""Loading plans in one line: what plans call a modality, a channel or a class, and its names in a node's folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from fedplug.core.errors import UsageError

LoadingPlan = Mapping[str, tuple[str, ...]]
"""The names here for each name that plans use, in the order of preference."""


def loading_plan(text: str, option: str, label: str) -> dict[str, tuple[str, ...]]:
    """Read a loading plan as owners write it: ``T1=T1_philips|T1_siemens; T2=T2_tse``.

    Args:
        text: The plan; empty: nothing has another name.
        option: The option that it is the value of.
        label: How messages call the data set.

    Raises:
        UsageError: It is not written so, or a name stands twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, names = part.partition("=")
        name = name.strip()
        if not equals or not name or name in found or not name.isprintable():
            raise UsageError(
                f"{label}: {part!r} in the option {option!r} cannot be understood.",
                cure=f'Write NAME=NAME_HERE|OTHER_NAME_HERE; NAME=...: --option {option}="T1=T1_philips|T1_siemens"',
            )
        found[name] = tuple(filter(None, map(str.strip, names.split("|"))))
    claimed = [name for names in found.values() for name in names]
    twice = next((name for name in claimed if claimed.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{label}: {twice!r} stands for two names in the option {option!r}.", cure="Use it once.")
    return found


def loading_text(rows: Iterable[tuple[str, str]], what: str) -> str:
    """Write a loading plan as `loading_plan` reads it.

    Args:
        rows: Names that plans use, each with its names here (``T1_philips|T1_siemens``). Several rows for one name are
            joined; those that are empty, or say that something keeps its name, are left out.
        what: What has these names, for messages: ``"modality"``.

    Raises:
        UsageError: A name cannot be written so.
    """
    found: dict[str, list[str]] = {}
    for wanted, text in rows:
        here = [name.strip() for name in text.split("|") if name.strip()]
        name = wanted.strip() or (here[0] if len(here) == 1 else "")
        if not name and here:
            raise UsageError(f"{text.strip()!r} has no name for plans.", cure="Give it one, or leave both out.")
        if name:
            found.setdefault(name, []).extend(here)
    plan = {name: here for name, here in found.items() if here != [name]}
    for name in (*plan, *(each for here in plan.values() for each in here)):
        if not name.isprintable() or any(sign in name for sign in ";|" + ("=" if name in plan else "")):
            raise UsageError(f"{name!r} cannot be the name of a {what}.", cure="Leave out the signs ; | and =.")
    return "; ".join(f"{name}={'|'.join(here)}" for name, here in plan.items())


def renamed(here: Collection[str], plan: LoadingPlan) -> dict[str, str]:
    """Names that plans use → names here, for what one subject or recording has.

    A name of the plan stands for the first of its names that is there, itself the last of them. What no plan names
    keeps its name.
    """
    claimed = {name for names in plan.values() for name in names}
    found = {name: name for name in here if name not in claimed and name not in plan}
    for wanted, names in plan.items():
        local = next((name for name in (*names, wanted) if name in here), None)
        if local is not None:
            found[wanted] = local
    return found
