"""What owners may tell a type of data sets, as the fields of a form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedplug.core.dataset_option import DatasetOption
from fedplug.core.dataset_type import DatasetType
from fedplug.node.datasets.loading_plan import loading_text
from fedplug.node.datasets.registry import names_here
from fedplug.node.web.forms import Form

_FREE_ROWS = 2
_MOST_ROWS = 100


@dataclass(frozen=True)
class OptionField:
    """A field, or the rows of one for a loading plan.

    Attributes:
        name: The option.
        about: What it is.
        value: What was filled in.
        rows: Of a loading plan: names that plans use, each with its names here.
        here: Of a loading plan: the names that there are here.
    """

    name: str
    about: DatasetOption
    value: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    here: tuple[str, ...] = ()


def option_fields(kind: DatasetType, path: Path, form: Form) -> list[OptionField]:
    """The fields for a type, as somebody has filled them in. Each name here has a row to begin with.

    Args:
        kind: The type.
        path: The file or folder.
        form: What was filled in; empty at first.
    """
    here = names_here(path, kind)
    return [
        OptionField(
            name, about, form.text(f"option-{name}").strip(), tuple(_rows(form, name, here.get(name, ()))),
            here.get(name, ()),
        )
        if about.renames
        else OptionField(name, about, form.text(f"option-{name}").strip())
        for name, about in kind.options.items()
    ]  # fmt: skip


def option_values(kind: DatasetType, form: Form) -> dict[str, str]:
    """The options that somebody has filled in, as ``inspect_file`` takes them; those left empty are left out.

    Raises:
        UsageError: A name in a loading plan cannot be used.
    """
    found = {
        name: loading_text(_filled(form, name), about.renames) if about.renames else form.text(f"option-{name}").strip()
        for name, about in kind.options.items()
    }
    return {name: value for name, value in found.items() if value}


def _filled(form: Form, name: str) -> list[tuple[str, str]]:
    """The rows that were filled in."""
    rows = zip(form.all(f"plan-{name}"), form.all(f"here-{name}"), strict=False)
    return [(plan.strip(), here.strip()) for plan, here in rows if plan.strip() or here.strip()]


def _rows(form: Form, name: str, here: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Those rows, one for each name that stands in none, and empty ones for more."""
    filled = _filled(form, name)
    yield from filled
    known = {each.strip() for _, names in filled for each in names.split("|")}
    if len(here) <= _MOST_ROWS:
        yield from ((each, each) for each in here if each not in known)
    yield from [("", "")] * _FREE_ROWS
