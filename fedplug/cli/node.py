"""``fedplug node``: set a node up, register its data sets, start it, look at it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedplug.cli.output import ListingGroup, say, say_json, say_table, words
from fedplug.node.commands import DEFAULT_FOLDER, node_command

if TYPE_CHECKING:
    from fedplug.node.datasets.base import DatasetRecord
    from fedplug.node.status import NodeStatus
    from fedplug.node.store import NodeStore

app = typer.Typer(
    cls=ListingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Set up and run a node: the program that trains on data which never leave it.\n\n"
    "\b\nIn short:\n"
    "  fedplug node init --name hospital-a\n"
    "  fedplug node dataset add patients.csv --tags breast,2024 --target diagnosis\n"
    "  fedplug node start --researcher zmq://127.0.0.1:7400",
)
dataset_app = typer.Typer(
    cls=ListingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Register data under tags, by which researchers find them.",
)
app.add_typer(dataset_app, name="dataset")

_Folder = Annotated[
    Path,
    typer.Option(
        "--folder", "-C", envvar="FEDPLUG_NODE", show_default="./fedplug-node", help="The node's folder.",
        file_okay=True,
    ),
]  # fmt: skip
_Plaintext = Annotated[
    bool, typer.Option("--insecure-plaintext", help="Allow unencrypted traffic beyond this machine.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


@app.callback()
def _node(ctx: typer.Context, folder: _Folder = DEFAULT_FOLDER) -> None:
    ctx.obj = folder


@app.command()
def init(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Folder to make; by default that of --folder.")] = None,
    name: Annotated[str, typer.Option(help="What people call this node; by default the folder's name.")] = "",
    node_id: Annotated[str, typer.Option("--id", help="Its id; by default made from the name.")] = "",
    researcher: Annotated[
        str,
        typer.Option(help="Address of the researcher that 'start' connects to.", show_default="zmq://127.0.0.1:7400"),
    ] = "",
    insecure_plaintext: _Plaintext = False,
) -> None:
    """Make a node: a folder for its identity and its list of data sets.

    \b
    Example:
      fedplug node init /srv/fedplug --name hospital-a --researcher zmq://127.0.0.1:7400
    """  # noqa: D301
    from fedplug.node.store import DEFAULT_URL, NodeStore

    place = folder or ctx.obj
    if researcher:
        from fedplug.transports.registry import check_address

        check_address(researcher, insecure_plaintext=insecure_plaintext)
    with NodeStore.create(place, name=name, node_id=node_id, researcher=researcher or DEFAULT_URL) as store:
        who = store.identity
        say(f"Node {who.name!r} is made in {store.folder}. Its id is {who.node_id}.")
    if insecure_plaintext:
        say("Its traffic is not encrypted: 'start' needs --insecure-plaintext as well.")
    _next("add data", place, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


@dataset_app.command("add")
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
    with _open(ctx) as store:
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
    _next("start the node", ctx.obj, "start")


@dataset_app.command("list")
def list_(
    ctx: typer.Context,
    tags: Annotated[str, typer.Option(help="Only those that carry all these words, separated by commas.")] = "",
    as_json: _Json = False,
) -> None:
    """List the data sets of this node.

    \b
    Example:
      fedplug node dataset list --tags breast
    """  # noqa: D301
    with _open(ctx) as store:
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
        _next("add one", ctx.obj, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD", "--target", "COLUMN")


@dataset_app.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name or id.")],
    as_json: _Json = False,
) -> None:
    """Show one data set: its file, columns and their types.

    \b
    Example:
      fedplug node dataset show patients
    """  # noqa: D301
    with _open(ctx) as store:
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


@dataset_app.command()
def remove(ctx: typer.Context, name: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """Offer a data set no longer. The file itself is not touched.

    \b
    Example:
      fedplug node dataset remove patients
    """  # noqa: D301
    with _open(ctx) as store:
        record = store.remove_dataset(name)
    say(f"Data set {record.name!r} is not offered any more. Its file stays: {record.path}")
    _next("see what is left", ctx.obj, "dataset", "list")


@app.command()
def start(
    ctx: typer.Context,
    researcher: Annotated[
        str, typer.Option(help="Address of the researcher; by default the one that 'init' was given.")
    ] = "",
    insecure_plaintext: _Plaintext = False,
    memory_limit: Annotated[
        int, typer.Option(min=0, help="Most address space of the training process, in MiB; 0 for no limit.")
    ] = 0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Connect to the researcher and train, until Ctrl-C or SIGTERM.

    The node connects outward only, and tries again every 2 seconds until the researcher is there.

    \b
    Example:
      fedplug node start --researcher zmq://127.0.0.1:7400
    """  # noqa: D301
    import logging
    import signal

    from fedplug.core.errors import UnknownNameError
    from fedplug.core.transport import TransportOptions
    from fedplug.node.node import Node

    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if log_level.lower() not in levels:
        raise UnknownNameError("log level", log_level, levels)
    logging.basicConfig(
        level=levels[log_level.lower()], format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    node = Node(
        ctx.obj,
        researcher or None,
        options=TransportOptions(insecure_plaintext=insecure_plaintext),
        memory_limit=memory_limit * 2**20 or None,
    )
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: node.request_stop()) for number in numbers]
    if not node.store.datasets():
        command = node_command(ctx.obj, "dataset", "add", "FILE.csv", "--tags", "WORD,WORD")
        logging.getLogger("fedplug.node").warning("This node has no data set yet. Add one with: %s", command)
    try:
        node.run_forever()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    logging.getLogger("fedplug.node").info("Node stopped.")


@app.command()
def status(ctx: typer.Context, as_json: _Json = False) -> None:
    """Show whether the node runs, what it trains and what it holds.

    \b
    Example:
      fedplug node status
    """  # noqa: D301
    import msgspec

    from fedplug.node.status import read_status

    with _open(ctx) as store:
        who, records, plans = store.identity, store.datasets(), store.plans()
        now = read_status(store.folder or ctx.obj)
    if as_json:
        say_json(
            {
                "node_id": who.node_id,
                "name": who.name,
                "folder": str(store.folder),
                **msgspec.to_builtins(now),
                "researcher": now.researcher if now.running else who.researcher,
                "datasets": [record.name for record in records],
                "plans": [{"hash": p.hash, "class": p.class_name, "first_seen": p.first_seen} for p in plans],
            }
        )
        return
    say(f"{'node':<12} {who.name} ({who.node_id})")
    say(f"{'folder':<12} {store.folder}")
    say(f"{'state':<12} {_state(now)}")
    say(f"{'researcher':<12} {now.researcher if now.running else who.researcher}")
    say(f"{'data sets':<12} {', '.join(record.name for record in records) or 'none'}")
    say(f"{'plans seen':<12} {', '.join(f'{plan.class_name} ({plan.hash[:8]})' for plan in plans) or 'none'}")
    if now.task:
        done = f"step {now.task.step}" + (f" of {now.task.total_steps}" if now.task.total_steps else "")
        figures = "".join(f", {name} {value:.4g}" for name, value in now.task.metrics.items())
        say(
            f"{'training':<12} round {now.task.round + 1} of experiment {now.task.experiment}: "
            f"{now.task.plan} on {now.task.dataset!r}, {done}{figures}"
        )
    if now.finished or now.failed:
        say(f"{'trainings':<12} {now.finished} finished, {now.failed} failed")
    if now.last:
        say(f"{'last':<12} {now.last}")
    if not now.running:
        _next("start it", ctx.obj, "start")


def _open(ctx: typer.Context) -> NodeStore:
    from fedplug.node.store import NodeStore

    return NodeStore.open(ctx.obj)


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


def _state(now: NodeStatus) -> str:
    if not now.running:
        return "not running"
    since = datetime.fromtimestamp(now.updated).astimezone().strftime("%H:%M:%S")
    reason = f": {now.reason}" if now.reason else ""
    return f"{now.connection}{reason} (process {now.pid}, last sign {since})"


def _next(what: str, folder: Path, *words: str) -> None:
    say(f"To {what}: {node_command(folder, *words)}")
