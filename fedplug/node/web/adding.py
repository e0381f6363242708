"""Adding a data set: choose a file, see what is in it, say what it is called and what plans may see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import RedirectResponse, Response

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import FedplugError
from fedplug.node.datasets.registry import inspect_file, tag_notes, type_names
from fedplug.node.web import browse
from fedplug.node.web.forms import Form
from fedplug.node.web.site import ACTOR, Handler, Visit, link

_FIELD_OF = (
    (r"\btags?\b", "tags"),
    (r"name of a data set|data set named", "name"),
    (r"to be its target|target", "target"),
    (r"has no (column|array)|asked for twice", "columns"),
)
"""Beside which field of the form a problem is shown, by what it is about."""


@dataclass(frozen=True)
class Filled:
    """What the form says, as its fields show it."""

    path: str
    type: str = ""
    name: str = ""
    tags: str = ""
    description: str = ""
    columns: tuple[str, ...] = ()
    target: str = ""

    @classmethod
    def of(cls, form: Form) -> Filled:
        """What somebody has filled in."""
        fields = ("path", "type", "name", "tags", "description", "target")
        return cls(**{name: form.text(name) for name in fields}, columns=tuple(form.all("column")))


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
    """Show what is in a file, and ask for the rest."""
    filled = Filled(path=visit.asked("path"), type=visit.asked("type"))
    try:
        path = browse.allowed(filled.path, browse.roots_of(visit.site.policy()))
        found, notes = _look(path, filled.type)
    except FedplugError as error:
        return _form(visit, filled, problem=error)
    filled = Filled(path=str(path), type=filled.type, name=found.name, columns=found.columns)
    return _form(visit, filled, found=found, notes=notes)


def add(visit: Visit) -> Response:
    """Register it, or say what is wrong beside the field."""
    filled = Filled.of(visit.form)
    try:
        path = browse.allowed(filled.path, browse.roots_of(visit.site.policy()))
        record, notes = inspect_file(
            path,
            name=filled.name,
            type=filled.type,
            tags=visit.form.words("tags"),
            columns=_columns(filled),
            target=filled.target,
            description=filled.description,
        )
        notes = (*notes, *tag_notes(record, visit.store.datasets()))
        visit.store.add_dataset(record)
    except FedplugError as error:
        return _again(visit, filled, error)
    visit.site.audit.note("dataset-added", actor=ACTOR, dataset=record.name, dataset_id=record.dataset_id)
    return visit.go(f"/data-sets/{record.dataset_id}", f"Data set {record.name!r} is registered.", more=notes)


def _again(visit: Visit, filled: Filled, error: FedplugError) -> Response:
    """The form once more, as it was filled in."""
    try:
        path = browse.allowed(filled.path, browse.roots_of(visit.site.policy()))
        found, notes = _look(path, filled.type)
    except FedplugError as worse:
        return _form(visit, filled, problem=worse)
    return _form(visit, filled, found=found, notes=notes, problem=error)


def _form(
    visit: Visit,
    filled: Filled,
    *,
    found: DatasetRecord | None = None,
    notes: tuple[str, ...] = (),
    problem: FedplugError | None = None,
) -> Response:
    return visit.page(
        "dataset_describe.html", "datasets", status=400 if problem else 200, form=filled, found=found, notes=notes,
        problem=problem, wrong=_beside(problem, filled), types=sorted(type_names()), folder=Path(filled.path).parent,
    )  # fmt: skip


def _look(path: Path, kind: str) -> tuple[DatasetRecord, tuple[str, ...]]:
    """What a file holds. The tag is nobody's: nothing is registered yet."""
    return inspect_file(path, type=kind, tags=("none yet",))


def _columns(filled: Filled) -> list[str] | None:
    return list(filled.columns) or None


def _beside(problem: FedplugError | None, filled: Filled) -> Mapping[str, str]:
    if problem is None:
        return {}
    if filled.target and repr(filled.target) in problem.message and repr(filled.name) != repr(filled.target):
        return {"target": str(problem)}
    for pattern, field in _FIELD_OF:
        if re.search(pattern, problem.message):
            return {field: str(problem)}
    return {}


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/data-sets/add", choose),
    ("GET", "/data-sets/add/describe", describe),
    ("POST", "/data-sets/add", add),
)
