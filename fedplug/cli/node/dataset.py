"""``fedplug node dataset``: register data under tags, look at them, take them back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedplug.cli.node.common import AsJson, next_command, node_group, open_store
from fedplug.cli.output import say, say_json, say_table, words

if TYPE_CHECKING:
    from fedplug.core.dataset_type import DatasetRecord

app = node_group("Register data under tags, by which researchers find them.")


@app.command("add")
def add(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The file: .csv, or .npz written by numpy.savez.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="The file, if it is not given as argument.")] = None,
    tags: Annotated[str, typer.Option(help="Words under which researchers find it, separated by commas.")] = "",
    name: Annotated[str, typer.Option(help="Its name here; by default that of the file.")] = "",
    kind: Annotated[str, typer.Option("--type", help="csv or arrays; by default by the file's ending.")] = "",
    columns: Annotated[str, typer.Option(help="Columns that plans may see, separated by commas; default: all.")] = "",
    target: Annotated[str, typer.Option(help="Column that is to be predicted.")] = "",
    description: Annotated[str, typer.Option(help="What researchers should know about it.")] = "",
) -> None:
    """Check a file and register it under tags.

    The file stays where it is; researchers see its shape and the names of its columns.

    \b
    Examples:
      fedplug node dataset add patients.csv --tags breast,2024 --target diagnosis
      fedplug node dataset add patients.csv --tags breast --columns age,size,diagnosis --target diagnosis
      fedplug node dataset add scans.npz --name scans --tags mri
    """  # noqa: D301
    from fedplug.core.errors import UsageError
    from fedplug.node.datasets.registry import inspect_file, tag_notes

    if (file is None) == (path is None):
        raise UsageError(
            "Name one file." if file is None else "Two files were named.",
            cure="E.g. fedplug node dataset add patients.csv --tags breast,2024",
        )
    with open_store(ctx) as store:
        record, notes = inspect_file(
            file or path or "",
            name=name,
            type=kind,
            tags=words(tags),
            columns=words(columns),
            target=target,
            description=description,
        )
        notes = (*notes, *tag_notes(record, store.datasets()))
        store.add_dataset(record)
    say(f"Data set {record.name!r} is registered: {_shape(record.shape)}, tags {', '.join(record.tags)}.")
    for note in notes:
        say(f"Note: {note}")
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
        rows = [(r.name, r.type, _shape(r.shape), ",".join(r.tags), r.target or "-", r.path) for r in records]
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
    """Show one data set: its file, columns and their types.

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
        "shape": _shape(record.shape),
        "description": record.description or "-",
        "added": record.added,
    }
    for key, value in facts.items():
        say(f"{key:<12} {value}")
    say()
    say_table(("column", "type"), list(zip(record.columns, record.dtypes, strict=True)))


@app.command()
def remove(ctx: typer.Context, name: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """Offer a data set no longer. The file itself is not touched.

    \b
    Example:
      fedplug node dataset remove patients
    """  # noqa: D301
    with open_store(ctx) as store:
        record = store.remove_dataset(name)
    say(f"Data set {record.name!r} is not offered any more. Its file stays: {record.path}")
    next_command("see what is left", ctx.obj, "dataset", "list")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)


def _plain(record: DatasetRecord) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def _file_state(record: DatasetRecord) -> str:
    try:
        found = Path(record.path).stat()
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    same = (found.st_size, found.st_mtime_ns) == (record.size, record.mtime_ns)
    return "unchanged" if same else "changed since it was added; it is read again for the next training"
