"""Adding a data set: choose a file or a folder, see what is in it, say what it is called and what plans may see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.responses import RedirectResponse, Response

from fedplug.core.dataset_type import DatasetRecord, DatasetType
from fedplug.core.errors import FedplugError, UsageError
from fedplug.node.datasets.registry import (
    dataset_type,
    guess_type,
    inspect_file,
    missing_notes,
    tag_notes,
    type_names,
    types_for,
)
from fedplug.node.web import browse
from fedplug.node.web.columns import MOST_COLUMNS, ColumnChoice
from fedplug.node.web.forms import Form, beside
from fedplug.node.web.options import OptionField, option_fields, option_values
from fedplug.node.web.site import ACTOR, Handler, Visit, link

FIELD_OF = (
    (r"\btags?\b", "tags"),
    (r"name of a data set|data set named", "name"),
    (r"to be its target", "target"),
    (r"has no (column|array)|asked for twice|is chosen|called|of its own|name of a column|mapped to", "columns"),
)
"""Beside which field of the form a problem is shown, by what it is about."""


@dataclass(frozen=True)
class Filled:
    """What the form says, as its fields show it. What belongs to a type is read when the type is known.

    Attributes:
        form: All fields.
        columns: Those of the columns.
    """

    path: str
    type: str = ""
    name: str = ""
    tags: str = ""
    description: str = ""
    columns: ColumnChoice = field(default_factory=ColumnChoice)
    form: Form = field(default_factory=Form)

    @classmethod
    def of(cls, form: Form) -> Filled:
        """What somebody has filled in."""
        texts = {name: form.text(name) for name in ("path", "type", "name", "tags", "description")}
        return cls(**texts, columns=ColumnChoice.of(form), form=form)


def choose(visit: Visit) -> Response:
    """Look for a file. A path that was typed may be a folder, which is shown, or a file, which is described."""
    policy = visit.site.policy()
    roots, problem = browse.roots_of(policy), None
    folder: str | Path | None = visit.asked("folder") or browse.start_of(policy)
    listing = None
    if folder is not None:
        try:
            if browse.allowed(folder, roots).is_file():
                return RedirectResponse(link("/data-sets/add/describe", path=folder), status_code=303)
            listing = browse.list_folder(folder, roots)
        except FedplugError as error:
            problem = error
    return visit.page(
        "dataset_browse.html", "datasets", status=400 if problem else 200, listing=listing, roots=roots,
        problem=problem, open=not policy.data.roots, typed=listing.folder if listing else folder or "",
    )  # fmt: skip


def describe(visit: Visit) -> Response:
    """Show what is in a file or a folder, and ask for the rest."""
    return _page(visit, Filled(path=visit.asked("path"), type=visit.asked("type")))


def add(visit: Visit) -> Response:
    """Register it, or say what is wrong beside the field; or look again at what is there, and keep what was typed."""
    filled = Filled.of(visit.form)
    if filled.form.text("action") == "look":
        return _page(visit, filled)
    try:
        policy = visit.site.policy()
        path = browse.allowed(filled.path, browse.roots_of(policy))
        kind, said = _type_of(path, filled.type), filled.columns.said()
        record, notes = inspect_file(
            path,
            name=filled.name,
            type=kind.name,
            tags=filled.form.words("tags"),
            columns=said.columns,
            target=said.target,
            description=filled.description,
            mapping=said.mapping,
            options=option_values(kind, filled.form),
            roots=policy.data.roots,
        )
        notes = (*notes, *tag_notes(record, visit.store.datasets()), *missing_notes(record))
        with visit.store.transaction():
            visit.store.add_dataset(record)
            visit.site.audit.note("dataset-added", actor=ACTOR, dataset=record.name, dataset_id=record.dataset_id)
    except FedplugError as error:
        return _page(visit, filled, problem=error)
    return visit.go(f"/data-sets/{record.dataset_id}", f"Data set {record.name!r} is registered.", more=notes)


def _page(visit: Visit, filled: Filled, *, problem: FedplugError | None = None) -> Response:
    """The form, with what a look at the files has found, and what somebody has filled in."""
    options: list[OptionField] = []
    types = dict.fromkeys(type_names(), "")
    found: DatasetRecord | None = None
    notes: tuple[str, ...] = ()
    try:
        policy = visit.site.policy()
        path = browse.allowed(filled.path, browse.roots_of(policy))
        types = types_for(path)
        if path.is_dir() and not filled.type and not _looks_like_a_type(path):
            return _show(visit, filled, types=types, ask=True)
        kind = _type_of(path, filled.type)
        options = option_fields(kind, path, filled.form)
        values = option_values(kind, filled.form)
        # The tag is nobody's: nothing is registered yet.
        found, notes = inspect_file(path, type=kind.name, tags=("none yet",), options=values, roots=policy.data.roots)
    except FedplugError as worse:
        problem = worse
    return _show(visit, filled, types=types, options=options, found=found, notes=notes, problem=problem)


def _show(
    visit: Visit,
    filled: Filled,
    *,
    types: Mapping[str, str],
    options: Sequence[OptionField] = (),
    found: DatasetRecord | None = None,
    notes: Sequence[str] = (),
    problem: FedplugError | None = None,
    ask: bool = False,
) -> Response:
    return visit.page(
        "dataset_describe.html", "datasets", status=400 if problem else 200, filled=filled, found=found, notes=notes,
        problem=problem, wrong=_beside(problem, filled, options), types=types, options=options, most=MOST_COLUMNS,
        ask=ask, folder=Path(filled.path).parent,
    )  # fmt: skip


def _looks_like_a_type(path: Path) -> bool:
    try:
        guess_type(path)
    except UsageError:
        return False
    return True


def _type_of(path: Path, said: str) -> DatasetType:
    return dataset_type(said or guess_type(path))


def _beside(problem: FedplugError | None, filled: Filled, options: Sequence[OptionField]) -> dict[str, str]:
    target = filled.columns.target
    fields = [(rf"\boption '{re.escape(each.name)}'", f"option-{each.name}") for each in options]
    fields += [(rf"name of a {re.escape(each.about.renames)}\b", f"option-{each.name}") for each in options
               if each.about.renames]  # fmt: skip
    if target and target != filled.name:
        fields.append((re.escape(repr(target)), "target"))
    return beside(problem, [*fields, *FIELD_OF])


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/data-sets/add", choose),
    ("GET", "/data-sets/add/describe", describe),
    ("POST", "/data-sets/add", add),
)
