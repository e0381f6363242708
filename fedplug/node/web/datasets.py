"""Data sets: the list, and taking one back. The rest is in `fedplug.node.web.adding` and `fedplug.node.web.editing`."""

from __future__ import annotations

from starlette.responses import Response

from fedplug.node.web import adding, editing
from fedplug.node.web.site import ACTOR, Handler, Visit


def list_(visit: Visit) -> Response:
    """All data sets."""
    wanted = [word.strip() for word in visit.asked("tags").split(",") if word.strip()]
    records = visit.store.datasets(wanted)
    return visit.page("datasets.html", "datasets", records=records, tags=",".join(wanted))


def ask_removal(visit: Visit) -> Response:
    """Ask whether a data set is really to be taken back."""
    record = visit.store.dataset(visit.part("dataset_id"))
    return visit.page("dataset_remove.html", "datasets", record=record)


def remove(visit: Visit) -> Response:
    """Offer a data set no longer."""
    with visit.store.transaction():
        record = visit.store.remove_dataset(visit.part("dataset_id"))
        visit.site.audit.note("dataset-removed", actor=ACTOR, dataset=record.name, dataset_id=record.dataset_id)
    return visit.go("/data-sets", f"Data set {record.name!r} is not offered any more. Its files stay where they are.")


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/data-sets", list_),
    *adding.ROUTES,
    *editing.ROUTES,
    ("GET", "/data-sets/{dataset_id}/remove", ask_removal),
    ("POST", "/data-sets/{dataset_id}/remove", remove),
)
