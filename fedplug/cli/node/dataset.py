"""``fedplug node dataset``: register data under tags, look at them, change what is said of them, take them back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedplug.cli.node.common import AsJson, next_command, node_group, open_store
from fedplug.cli.output import EXIT_FAILED, say, say_json, say_table, words

if TYPE_CHECKING:
    from fedplug.core.dataset_type import DatasetRecord
    from fedplug.node.policy.schema import Policy
    from fedplug.node.store import NodeStore

app = node_group("Register data under tags, by which researchers find them.")

_Tags = Annotated[str, typer.Option(help="Words under which researchers find it, separated by commas.")]
_Columns = Annotated[str, typer.Option(help="Columns that plans may see, separated by commas; default: all.")]
_Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="PLAN_NAME=FILE_NAME: plans call this column otherwise. May be repeated."),
]
_MapFile = Annotated[Path | None, typer.Option(help="JSON file with such names: {plan name: file name}.")]


@app.command("add")
def add(
    ctx: typer.Context,
    path_given: Annotated[Path | None, typer.Argument(metavar="PATH", help="The file or folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="The same, if it is not given as argument.")] = None,
    tags: _Tags = "",
    name: Annotated[str, typer.Option(help="Its name here; by default that of the file.")] = "",
    kind: Annotated[
        str, typer.Option("--type", help="E.g. csv or arrays; by default by what the path looks like.")
    ] = "",
    columns: _Columns = "",
    target: Annotated[str, typer.Option(help="Column that is to be predicted.")] = "",
    description: Annotated[str, typer.Option(help="What researchers should know about it.")] = "",
    mapped: _Map = None,
    map_file: _MapFile = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the type. May be repeated.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON file that says all this, by the names of the options.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show, but register nothing.")] = False,
) -> None:
    """Check a file or folder and register it under tags. Asks for what is missing.

    The data stay where they are; researchers see their shape and the names of their columns.

    \b
    Examples:
      fedplug node dataset add patients.csv --tags breast,2024 --target diagnosis
      fedplug node dataset add patients.csv --tags breast --columns age,size,diagnosis --target diagnosis
      fedplug node dataset add patients.csv --tags breast --map age=AlterJahre --map size=Groesse
      fedplug node dataset add scans.npz --name scans --tags mri
    """  # noqa: D301
    from fedplug.cli.node.dataset_file import Wanted, pairs, read_mapping
    from fedplug.core.errors import UsageError
    from fedplug.node.datasets.registry import inspect_file, missing_notes, tag_notes

    if path_given is not None and path is not None:
        raise UsageError("Two files were named.", cure="E.g. fedplug node dataset add patients.csv --tags breast,2024")
    given = Wanted(
        path=str(path_given or path or ""),
        name=name,
        type=kind,
        tags=tuple(words(tags)),
        columns=tuple(words(columns)),
        target=target,
        description=description,
        mapping={**read_mapping(map_file), **pairs(mapped, "--map")},
        options=pairs(option, "--option"),
    )
    wanted = given if file is None else Wanted.read(file).overridden(given)
    with open_store(ctx) as store:
        policy = _policy(store)
        if (not wanted.path or not wanted.tags) and _can_ask():
            from fedplug.cli.node.dataset_questions import ask

            wanted = ask(wanted, policy.data.roots, [record.name for record in store.datasets()])
        if not wanted.path:
            raise UsageError("Name one file.", cure="E.g. fedplug node dataset add patients.csv --tags breast,2024")
        record, notes = inspect_file(wanted.path, **wanted.facts(), roots=policy.data.roots)
        notes = (*notes, *tag_notes(record, store.datasets()))
        if not dry_run:
            with store.transaction():
                store.add_dataset(record)
                _note(store, "dataset-added", record)
    what = "would be registered" if dry_run else "is registered"
    say(f"Data set {record.name!r} {what}: {shape_words(record.shape)}, tags {', '.join(record.tags)}.")
    for note in (*notes, *missing_notes(record)):
        say(f"Note: {note}")
    if not dry_run:
        next_command("start the node", ctx.obj, "start")


@app.command("list")
def list_(
    ctx: typer.Context,
    tags: Annotated[str, typer.Option(help="Only those that carry all these words, separated by commas.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the data sets of this node.

    \b
    Example:
      fedplug node dataset list --tags breast
    """  # noqa: D301
    with open_store(ctx) as store:
        records = store.datasets(words(tags))
    if as_json:
        say_json([_plain(record) for record in records])
    elif records:
        rows = [(r.name, r.type, shape_words(r.shape), ",".join(r.tags), r.target or "-", r.path) for r in records]
        say_table(("name", "type", "shape", "tags", "target", "file"), rows)
    elif tags:
        say(f"No data set carries {tags}.")
    else:
        say("There is no data set yet.")
        next_command("add one", ctx.obj, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name or id.")],
    as_json: AsJson = False,
) -> None:
    """Show one data set: its file, columns, their types and how many values are missing.

    \b
    Example:
      fedplug node dataset show patients
    """  # noqa: D301
    with open_store(ctx) as store:
        record = store.dataset(name)
    if as_json:
        say_json({**_plain(record), "file": _file_state(record)})
        return
    facts = {
        "name": record.name,
        "id": record.dataset_id,
        "type": record.type,
        "file": f"{record.path} ({_file_state(record)})",
        "tags": ", ".join(record.tags),
        "target": record.target or "-",
        "shape": shape_words(record.shape),
        "description": record.description or "-",
        "fingerprint": record.fingerprint or "-",
        "added": record.added,
        **({"options": ", ".join(f"{key}={value}" for key, value in record.options.items())} if record.options else {}),
    }
    for key, value in facts.items():
        say(f"{key:<12} {value}")
    say()
    rows = [
        (column, dtype, record.source(column), record.missing.get(column, 0))
        for column, dtype in zip(record.columns, record.dtypes, strict=True)
    ]
    shown = ("column", "type", "in the file", "missing")
    picked = [0, 1, *([2] if record.mapping else []), *([3] if record.missing else [])]
    say_table([shown[i] for i in picked], [[row[i] for i in picked] for row in rows])


@app.command()
def edit(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name or id.")],
    new_name: Annotated[str | None, typer.Option("--name", help="What it is called from now on.")] = None,
    tags: Annotated[str | None, typer.Option(help="Its tags from now on, separated by commas.")] = None,
    description: Annotated[str | None, typer.Option(help="Its description from now on.")] = None,
    target: Annotated[str | None, typer.Option(help='Its target from now on; "" for none.')] = None,
    columns: Annotated[str | None, typer.Option(help="Columns that plans may see; * for all.")] = None,
    mapped: _Map = None,
    map_file: _MapFile = None,
    accept_changes: Annotated[bool, typer.Option("--accept-changes", help="Take the files as they are now.")] = False,
) -> None:
    """Change what is said of a data set, or accept that its files have changed.

    \b
    Examples:
      fedplug node dataset edit patients --tags breast,2025
      fedplug node dataset edit patients --accept-changes
    """  # noqa: D301
    from fedplug.cli.node.dataset_file import pairs, read_mapping
    from fedplug.core.errors import UsageError
    from fedplug.node.datasets.editing import edited
    from fedplug.node.datasets.registry import missing_notes, tag_notes

    mapping = {**read_mapping(map_file), **pairs(mapped, "--map")} if mapped or map_file else None
    said = (new_name, tags, description, target, columns, mapping)
    if all(each is None for each in said) and not accept_changes:
        raise UsageError("Say what to change.", cure=f"E.g. fedplug node dataset edit {name} --tags breast,2025")
    with open_store(ctx) as store:
        old = store.dataset(name)
        record, notes = edited(
            old, _policy(store), name=new_name, tags=None if tags is None else words(tags), description=description,
            target=target, columns=None if columns is None else words(columns), mapping=mapping,
            accept_changes=accept_changes,
        )  # fmt: skip
        notes = (*notes, *tag_notes(record, [r for r in store.datasets() if r.dataset_id != old.dataset_id]))
        with store.transaction():
            store.replace_dataset(old, record)
            _note(store, "dataset-edited", record, former_id=old.dataset_id)
    say(f"Data set {record.name!r} is changed: {shape_words(record.shape)}, tags {', '.join(record.tags)}.")
    if record.dataset_id != old.dataset_id:
        say("It has a new id, so researchers must search again (Experiment.set_tags).")
    for note in (*notes, *missing_notes(record)):
        say(f"Note: {note}")


@app.command()
def check(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name or id; all by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read the files of data sets again: are they where they may be, whole, and those that were added?

    The exit code is 1 if something is wrong.

    \b
    Example:
      fedplug node dataset check patients
    """  # noqa: D301
    from fedplug.node.datasets.editing import problems_of

    with open_store(ctx) as store:
        policy = _policy(store)
        records = [store.dataset(name)] if name else store.datasets()
    found = {record.name: problems_of(record, policy) for record in records}
    if as_json:
        say_json(found)
    else:
        if not found:
            say("There is no data set yet.")
        for each, problems in found.items():
            say(f"{each}: {'good' if not problems else 'not fit for training'}")
            for problem in problems:
                say(f"  - {problem}")
        bad = next((each for each, problems in found.items() if problems), None)
        if bad:
            next_command("accept a change", ctx.obj, "dataset", "edit", bad, "--accept-changes")
    if any(found.values()):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def remove(ctx: typer.Context, name: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """Offer a data set no longer. The file itself is not touched.

    \b
    Example:
      fedplug node dataset remove patients
    """  # noqa: D301
    with open_store(ctx) as store, store.transaction():
        record = store.remove_dataset(name)
        _note(store, "dataset-removed", record)
    say(f"Data set {record.name!r} is not offered any more. Its file stays: {record.path}")
    next_command("see what is left", ctx.obj, "dataset", "list")


def shape_words(shape: Sequence[int]) -> str:
    """E.g. ``1,000 x 12``."""
    return " x ".join(f"{length:,}" for length in shape)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _policy(store: NodeStore) -> Policy:
    from fedplug.node.policy.file import read_policy

    assert store.folder is not None
    return read_policy(store.folder)


def _note(store: NodeStore, event: str, record: DatasetRecord, **more: str) -> None:
    from fedplug.node.audit.log import AuditLog

    AuditLog(store).note(event, actor="owner", dataset=record.name, dataset_id=record.dataset_id, **more)


def _plain(record: DatasetRecord) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def _file_state(record: DatasetRecord) -> str:
    from fedplug.node.datasets.freshness import state_of

    word, text = state_of(record)
    more = "; not trained on before you accept it: dataset edit --accept-changes" if word == "changed" else ""
    return text + more
