"""Changing what is said of a data set, looking whether its files are well, and accepting that they have changed."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import FedplugError
from fedplug.node.datasets.editing import edited, problems_of
from fedplug.node.datasets.freshness import state_of
from fedplug.node.datasets.registry import inspect_file, missing_notes, tag_notes
from fedplug.node.web.adding import FIELD_OF
from fedplug.node.web.columns import MOST_COLUMNS, ColumnChoice
from fedplug.node.web.forms import Form, beside, check_mark, mark_of
from fedplug.node.web.site import ACTOR, Handler, Visit


def show(visit: Visit) -> Response:
    """One data set."""
    return _one(visit, visit.store.dataset(visit.part("dataset_id")))


def check(visit: Visit) -> Response:
    """Read its files again, and say what is wrong."""
    record = visit.store.dataset(visit.part("dataset_id"))
    return _one(visit, record, found=problems_of(record, visit.site.policy()))


def accept(visit: Visit) -> Response:
    """Take its files as they are now."""
    record = visit.store.dataset(visit.part("dataset_id"))
    try:
        return _replace(visit, record, accept_changes=True)
    except FedplugError as error:
        return _one(visit, record, problem=error)


def ask(visit: Visit) -> Response:
    """The form. Files are looked at only if columns are to be changed; the rest can be even if they are gone."""
    return _form(visit, visit.store.dataset(visit.part("dataset_id")), look=visit.asked("columns") == "yes")


def save(visit: Visit) -> Response:
    """Change it, or say what is wrong beside the field; or show its columns too, and keep what was typed."""
    record, form = visit.store.dataset(visit.part("dataset_id")), visit.form
    if form.text("action") == "columns":
        return _form(visit, record, look=True)
    look = form.text("columns") == "yes"
    try:
        check_mark(form, _text(record), f"Data set {record.name!r}", page="the data set")
        said = {"name": form.text("name"), "tags": form.words("tags"), "description": form.text("description")}
        return _replace(visit, record, **said, **(_changed_columns(record, form) if look else {}))
    except FedplugError as error:
        return _form(visit, record, look=look, problem=error)


def _changed_columns(record: DatasetRecord, form: Form) -> dict[str, Any]:
    """What a form changes of the columns; nothing that stays: then the files are not even read."""
    choice = ColumnChoice.of(form)
    said = choice.said()
    found: dict[str, Any] = {"accept_changes": True} if form.text("accept") == "yes" else {}
    if said.target != record.target:
        found["target"] = said.target
    if choice.called:
        seen = {*(said.columns or ()), *([said.target] if said.target else [])}
        if seen != set(record.columns) or said.mapping != record.mapping:
            found |= {"columns": said.columns, "mapping": said.mapping, "target": said.target}
    return found


def _replace(visit: Visit, old: DatasetRecord, **said: Any) -> Response:
    record, notes = edited(old, visit.site.policy(), **said)
    if record == old:
        return visit.go(f"/data-sets/{old.dataset_id}", "Nothing is different.")
    others = [each for each in visit.store.datasets() if each.dataset_id != old.dataset_id]
    notes = (*notes, *tag_notes(record, others), *missing_notes(record))
    with visit.store.transaction():
        visit.store.replace_dataset(old, record)
        visit.site.audit.note(
            "dataset-edited", actor=ACTOR, dataset=record.name, dataset_id=record.dataset_id, former_id=old.dataset_id
        )
    if record.dataset_id != old.dataset_id:
        notes = ("It has a new id, so researchers must search again (Experiment.set_tags).", *notes)
    return visit.go(f"/data-sets/{record.dataset_id}", f"Data set {record.name!r} is changed.", more=notes)


def _one(
    visit: Visit, record: DatasetRecord, *, found: list[str] | None = None, problem: FedplugError | None = None
) -> Response:
    return visit.page(
        "dataset.html", "datasets", status=400 if problem else 200, record=record, state=state_of(record), found=found,
        problem=problem, most=MOST_COLUMNS,
    )  # fmt: skip


def _form(visit: Visit, record: DatasetRecord, *, look: bool = False, problem: FedplugError | None = None) -> Response:
    found: DatasetRecord | None = None
    form = visit.form
    choice = ColumnChoice()
    if look:
        try:
            roots = visit.site.policy().data.roots
            found, _ = inspect_file(
                record.path, name=record.name, type=record.type, tags=record.tags, options=record.options, roots=roots
            )
            choice = ColumnChoice.of(form) if "columns" in form else ColumnChoice.of_record(record, found)
        except FedplugError as error:
            problem = problem or error
    return visit.page(
        "dataset_edit.html", "datasets", status=400 if problem else 200, record=record, found=found, choice=choice,
        mark=form.text("mark") or mark_of(_text(record)),
        name=form.text("name", record.name), tags=form.text("tags", ", ".join(record.tags)),
        description=form.text("description", record.description), accept=form.text("accept") == "yes",
        problem=problem, wrong=beside(problem, FIELD_OF), most=MOST_COLUMNS,
    )  # fmt: skip


def _text(record: DatasetRecord) -> str:
    return msgspec.json.encode(record).decode()


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/data-sets/{dataset_id}", show),
    ("GET", "/data-sets/{dataset_id}/edit", ask),
    ("POST", "/data-sets/{dataset_id}/edit", save),
    ("POST", "/data-sets/{dataset_id}/check", check),
    ("POST", "/data-sets/{dataset_id}/accept", accept),
)
