"""Data sets: the list, one data set, and taking one back. Adding one is the business of `fedplug.node.web.adding`."""

from __future__ import annotations

from starlette.responses import Response

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import DatasetError
from fedplug.node.datasets.freshness import verify
from fedplug.node.web import adding
from fedplug.node.web.site import ACTOR, Handler, Visit


def list_(visit: Visit) -> Response:
    """All data sets."""
    wanted = [word.strip() for word in visit.asked("tags").split(",") if word.strip()]
    records = visit.store.datasets(wanted)
    return visit.page("datasets.html", "datasets", records=records, tags=",".join(wanted))


def show(visit: Visit) -> Response:
    """One data set."""
    record = visit.store.dataset(visit.part("dataset_id"))
    return visit.page("dataset.html", "datasets", record=record, state=file_state(record))


def ask_removal(visit: Visit) -> Response:
    """Ask whether a data set is really to be taken back."""
    record = visit.store.dataset(visit.part("dataset_id"))
    return visit.page("dataset_remove.html", "datasets", record=record)


def remove(visit: Visit) -> Response:
    """Offer a data set no longer."""
    record = visit.store.remove_dataset(visit.part("dataset_id"))
    visit.site.audit.note("dataset-removed", actor=ACTOR, dataset=record.name, dataset_id=record.dataset_id)
    return visit.go("/data-sets", f"Data set {record.name!r} is not offered any more. Its files stay where they are.")


def file_state(record: DatasetRecord) -> tuple[str, str]:
    """What became of the file: a kind of pill, and words."""
    for path in record.paths:
        try:
            path.stat()
        except OSError as error:
            return "bad", f"cannot be opened: {error.strerror}"
    try:
        verify(record)
    except DatasetError:
        return "wait", "changed since it was added"
    return "good", "unchanged"


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/data-sets", list_),
    *adding.ROUTES,
    ("GET", "/data-sets/{dataset_id}", show),
    ("GET", "/data-sets/{dataset_id}/remove", ask_removal),
    ("POST", "/data-sets/{dataset_id}/remove", remove),
)
