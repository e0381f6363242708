"""Adding and opening data sets: the table of types, the checks when one is added, the cache of open ones."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedplug.core.dataset_type import DatasetRecord, DatasetType, StoredDataset
from fedplug.core.errors import DatasetError, FedplugError, UnknownNameError, UsageError
from fedplug.core.plugins import default_host
from fedplug.node.datasets.fingerprint import fingerprint_of, stamp_of
from fedplug.node.datasets.freshness import verify
from fedplug.node.datasets.paths import check_source, real_path
from fedplug.node.datasets.plan_names import PlanNames

_TO_CSV = "Convert it to .csv, e.g. with pandas: {}(path).to_csv(...)."
_NOT_YET = {
    ".feather": _TO_CSV.format("read_feather"),
    ".xlsx": _TO_CSV.format("read_excel"),
    ".xls": _TO_CSV.format("read_excel"),
    ".json": _TO_CSV.format("read_json"),
    ".npy": 'Convert it to .npz, e.g. with NumPy: savez("data.npz", x=load(path)).',
}


def type_names() -> list[str]:
    """The names of all types that this node knows, those of plugins among them."""
    return [offer.component.name for offer in default_host().components("dataset_type")]


def dataset_type(name: str) -> DatasetType:
    """The type called ``name``.

    Raises:
        UnknownNameError: There is none.
        PluginError: The plugin that offers it is at fault.
    """
    found: DatasetType = default_host().component("dataset_type", name)()
    return found


def types_for(path: Path) -> dict[str, str]:
    """The types that a path may be of, as it is a file or a folder: names, each with its title."""
    fitting = ("folder", "both") if path.is_dir() else ("file", "both")
    kinds = [dataset_type(name) for name in type_names()]
    return {kind.name: kind.title or kind.name for kind in kinds if kind.takes in fitting}


def guess_type(path: Path) -> str:
    """The type that a path looks like.

    Raises:
        UsageError: It looks like none, or like one that cannot be read yet.
    """
    for offer in default_host().components("dataset_type"):
        if offer.load()().fits(path):
            return offer.component.name
    cure = f"Say which type it is (--type): {', '.join(type_names())}."
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and what kind of data it holds cannot be told.", cure=cure)
    ending = path.suffix.lower()
    if ending in _NOT_YET:
        raise UsageError(f"{ending} files ({path.name}) are not supported yet.", cure=_NOT_YET[ending])
    raise UsageError(f"The type of {path.name!r} cannot be told from its ending.", cure=cure)


def inspect_file(
    path: str | Path,
    *,
    name: str = "",
    type: str = "",
    tags: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    target: str = "",
    description: str = "",
    mapping: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
) -> tuple[DatasetRecord, tuple[str, ...]]:
    """Check a file or a folder that is to become a data set of this node.

    Args:
        path: The file or folder.
        name: Its name on this node; by default that of the file, without ending.
        type: One of `type_names`; by default the first that the path looks like.
        tags: Words under which researchers find it; at least one.
        columns: Columns or arrays that plans may see; all by default. The target is always among them.
        target: Column or array that is to be predicted.
        description: Free text for researchers.
        mapping: Names that plans use → names in the file. Where columns or the target are named, either will do.
        options: What the type wants to know, by name.
        roots: Folders below which data must lie; none: no such limit.

    Returns:
        The record, and notes for the owner.

    Raises:
        UsageError: There is no such file, it lies where it must not, the name or a tag cannot be used, or the type or
            an option is not known.
        DatasetError: The file is not what it should be.
    """
    real = real_path(path, roots)
    check_source(real, "both")
    kind = dataset_type(type or guess_type(real))
    check_source(real, kind.takes)
    for option in options or {}:
        if option not in kind.options:
            raise UnknownNameError(f"option of type {kind.name!r}", option, kind.options)
    name, words = checked_name(name or real.stem), checked_tags(tags)
    label = f"Data set {name!r}"
    names = PlanNames(label, mapping or {})
    target = names.plan(target) if target else ""
    picked = [names.plan(column) for column in columns] if columns else None
    if picked is not None and target and target not in picked:
        picked.append(target)
    before = stamp_of([real])
    found = kind.inspect(real, label, None if picked is None else list(map(names.source, picked)), dict(options or {}))
    for more in found.more_paths:
        check_source(real_path(more, roots), "both")
    everything = [real, *(real_path(more, roots) for more in found.more_paths)]
    fingerprint = fingerprint_of(everything)
    if stamp_of([real]) != before:
        raise DatasetError(f"{label} was changed while it was read.", cure="Wait until it is complete, and try again.")
    shown = names.plan_all(found.columns)
    target = target or names.plan(found.target)
    if target and target not in shown:
        raise DatasetError(f"{label} has no column {target!r} to be its target.", cure=f"It has: {', '.join(shown)}.")
    stamp = stamp_of(everything)
    record = DatasetRecord(
        dataset_id=new_id(),
        name=name,
        type=kind.name,
        path=str(real),
        tags=words,
        target=target,
        description=description,
        shape=found.shape,
        columns=shown,
        dtypes=found.dtypes,
        missing={names.plan(column): count for column, count in found.missing.items() if count},
        mapping={plan: source for plan, source in names.mapping.items() if plan in shown},
        options=dict(options or {}),
        more_paths=tuple(map(str, everything[1:])),
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        stamp=stamp.text,
        fingerprint=fingerprint,
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return record, found.notes


def names_here(path: Path, kind: DatasetType) -> dict[str, tuple[str, ...]]:
    """For each loading plan that a type takes as an option, the names in the files that it may give other names.

    Args:
        path: The file or folder.
        kind: Its type.

    Returns:
        Names by option; none where the files are not of this type, which `inspect_file` tells.
    """
    found: dict[str, tuple[str, ...]] = {}
    for option, about in kind.options.items():
        if about.renames:
            try:
                found[option] = tuple(kind.names_here(path, f"Data set {path.stem!r}", option))
            except FedplugError:
                found[option] = ()
    return found


def new_id() -> str:
    """A new id of a data set."""
    return f"ds-{secrets.token_hex(6)}"


def checked_name(name: str) -> str:
    """A name of a data set, without blanks around it.

    Raises:
        UsageError: It cannot be one.
    """
    name = name.strip()
    if not name or not name.isprintable() or len(name) > 100:
        raise UsageError(f"{name!r} cannot be the name of a data set.", cure="Use 1 to 100 printable characters.")
    return name


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of a data set, each once.

    Raises:
        UsageError: There is none, or one cannot be used.
    """
    words = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if not words:
        raise UsageError(
            "A data set needs at least one tag: researchers search by tags.", cure="E.g. breast,demo (--tags)."
        )
    if any(not word.isprintable() or len(word) > 100 for word in words):
        raise UsageError("A tag must be a word of at most 100 printable characters.", cure="E.g. breast,demo (--tags).")
    return words


def tag_notes(record: DatasetRecord, others: Iterable[DatasetRecord]) -> list[str]:
    """Warnings for the owner of a new data set whose tags do not tell it apart from another one of this node.

    A search finds every data set that carries all its tags, and an experiment refuses to choose between two. So a
    data set can be asked for alone only if none of the others carries all its tags. Owners may mean it nevertheless
    (they may be about to remove the other one), so it is told and not refused.

    Args:
        record: The new data set.
        others: Those that the node has already.

    Returns:
        One sentence or two for each data set in conflict.
    """
    notes = []
    for other in others:
        if set(record.tags) <= set(other.tags):
            found = f"A search for {','.join(record.tags)} finds data set {other.name!r} too"
        elif set(other.tags) <= set(record.tags):
            found = f"A search for {','.join(other.tags)}, the tags of data set {other.name!r}, finds this one too"
        else:
            continue
        notes.append(
            f"{found}, and is refused as ambiguous: an experiment uses one data set per node. "
            "Give each a tag that the other does not carry."
        )
    return notes


def missing_notes(record: DatasetRecord) -> list[str]:
    """For the owner: what is missing, in one sentence, if anything is."""
    if not record.missing:
        return []
    told = [f"{column} ({count:,})" for column, count in record.missing.items()]
    more = f", and {len(told) - 10} columns more" if len(told) > 10 else ""
    return [f"Values are missing in {', '.join(told[:10])}{more}. Researchers do not see this."]


class DatasetCache:
    """Data sets that have been opened, kept between tasks. One that was changed and accepted takes its old place."""

    def __init__(self) -> None:
        self._open: dict[str, StoredDataset] = {}

    def get(self, record: DatasetRecord) -> StoredDataset:
        """The data set of ``record``.

        Raises:
            DatasetError: A file is gone, broken or not the one that was registered, or has lost a column.
        """
        known = self._open.pop(record.name, None)
        if known is None or known.record != record:
            verify(record)
            known = dataset_type(record.type).open(record)
            known.prepare()
        self._open[record.name] = known
        return known
