"""Breakpoints on disk: ``EXPERIMENT_FOLDER/breakpoint_0003``, written whole or not at all.

A breakpoint is a folder with

- ``breakpoint.json``: a `Snapshot`,
- ``params.safetensors``: the global parameters, readable by any software,
- ``state_1.safetensors`` and so on: what aggregator, optimizer and strategy keep,
- ``training_plan.py``: the plan's text, for people to read.

What the rounds came to lies beside it (`fedplug.researcher.round_log`).

It is written under a name that nobody looks for, flushed to the disk and then renamed, so that a crash at any point
leaves the last good one. Nothing in it is pickled. One that is there already under the same number, because an
earlier breakpoint was loaded and its experiment took another way, is kept under another name.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fedplug.core.errors import BreakpointError, CodecError, FedplugWarning, StoreError
from fedplug.core.params import Params
from fedplug.core.params_file import read_params, write_params
from fedplug.core.whole_file import sync
from fedplug.researcher.folders import experiments_root, set_aside
from fedplug.researcher.round_log import read_lines
from fedplug.researcher.snapshot import VERSION, Saved, Snapshot

MANIFEST = "breakpoint.json"
PARAMS = "params.safetensors"
PLAN = "training_plan.py"

_NAME = re.compile(r"breakpoint_(\d{4,})")
_MOST_JSON = 256 * 2**20
_MOST_ARRAYS = 10_000


def write_breakpoint(
    folder: Path, snapshot: Snapshot, arrays: Sequence[Params], plan_text: str, *, replace: bool = False
) -> Path:
    """Write a breakpoint into an experiment's folder and return its path.

    Args:
        folder: The experiment's folder.
        snapshot: What it holds.
        arrays: The `Params` that belong to it.
        plan_text: The plan, for people to read.
        replace: Whether one of the same number is an earlier state of this way, which nobody needs any more.

    Raises:
        StoreError: It cannot be written; the breakpoints that are there stay as they are.
    """
    target = folder / f"breakpoint_{snapshot.round_current:04d}"
    draft = folder / f".{target.name}.{os.getpid()}.part"
    try:
        forget_drafts(folder)
        draft.mkdir(parents=True)
        for index, params in enumerate(arrays):
            write_params(params, draft / _array_file(index))
        _write(draft / PLAN, plan_text.encode())
        _write(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(snapshot), indent=1))
        sync(draft)
        if replace:
            _remove(target)
        for other in breakpoints_of(folder, first=snapshot.round_current):
            set_aside(other)  # of another way that the experiment once took
        draft.rename(target)
        sync(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise cannot_save(folder, error) from error
    return target


def cannot_save(folder: Path, error: OSError) -> StoreError:
    """The error for a breakpoint that cannot be written into an experiment's folder."""
    return StoreError(
        f"A breakpoint cannot be saved in {folder}: {error.strerror or error}.",
        cure="Free some disk space, or mend the folder, and call breakpoint(). The rounds count all the same: the "
        "model is in Experiment.params(). The breakpoints before this one are whole.",
    )


def read_breakpoint(path: Path, *, trusted: bool = False, arrays: bool = True) -> Saved:
    """Read one breakpoint.

    Args:
        path: Its folder.
        trusted: Whether to read it even if other users of this machine could have written it.
        arrays: Whether to read the arrays too.

    Raises:
        BreakpointError: It is not there, damaged, of another version, or not to be trusted.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise BreakpointError(f"{path} is not a breakpoint: it has no {MANIFEST}.", cure=_cure_of(path))
    if not trusted:
        _check_owner(path)
    try:
        if manifest.stat().st_size > _MOST_JSON:
            raise CodecError(f"{MANIFEST} is larger than any breakpoint.")
        raw = manifest.read_bytes()
        version = msgspec.json.decode(raw, type=_Version).version
        if version != VERSION:
            raise BreakpointError(
                f"{path} was written by another version of FedPlug (layout {version}, this one reads {VERSION}).",
                cure="Load it with the version that wrote it.",
            )
        snapshot = msgspec.json.decode(raw, type=Snapshot)
        if not 0 <= snapshot.arrays <= _MOST_ARRAYS:
            raise CodecError(f"{MANIFEST} counts {snapshot.arrays} arrays.")
        count = snapshot.arrays if arrays else 0
        params = tuple(read_params(path / _array_file(index)) for index in range(count))
    except (OSError, CodecError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BreakpointError(f"The breakpoint {path} is damaged: {error}", cure=_cure_of(path)) from None
    return Saved(snapshot, params, read_lines(path.parent, snapshot.rounds) if arrays else b"")


def breakpoints_of(folder: Path, first: int = 0) -> list[Path]:
    """The breakpoints of an experiment's folder, from the first round (or that after ``first`` rounds) to the last."""
    found = [(int(match[1]), entry) for entry in _entries(folder) if (match := _NAME.fullmatch(entry.name))]
    return [entry for number, entry in sorted(found) if number >= first]


def find_breakpoints(path: str | os.PathLike[str] | None) -> list[Path]:
    """The breakpoints that ``path`` may mean, the best first.

    Args:
        path: A breakpoint's folder, an experiment's folder, or the name of one; None for the experiment
            that was saved last.

    Raises:
        BreakpointError: There is none.
    """
    if path is None:
        root = experiments_root()
        saved = {entry: points for entry in _entries(root) if (points := breakpoints_of(entry))}
        if not saved:
            raise BreakpointError(
                f"There is no breakpoint in {root}.",
                cure="Experiment(save_breakpoints=True) saves one after each round; FEDPLUG_DIR says where.",
            )
        latest = max(saved, key=lambda entry: _saved_at(saved[entry]))
        return saved[latest][::-1]
    given = Path(path).expanduser()
    candidates = [given] if given.exists() or given.is_absolute() else [given, experiments_root() / given]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return [folder]
        if points := breakpoints_of(folder):
            return points[::-1]
    raise BreakpointError(f"There is no breakpoint at {candidates[-1]}.", cure=_cure_of(candidates[-1]))


def read_latest(candidates: Sequence[Path], *, trusted: bool = False) -> tuple[Path, Saved]:
    """The first of ``candidates`` that can be read, with a warning about those before it that cannot.

    Raises:
        BreakpointError: None can; what is wrong with the first is told.
    """
    problems: list[BreakpointError] = []
    for path in candidates:
        try:
            saved = read_breakpoint(path, trusted=trusted)
        except BreakpointError as error:
            problems.append(error)
            continue
        for problem in problems:
            warnings.warn(f"{problem.message} Going on from {path} instead.", FedplugWarning, stacklevel=4)
        return path, saved
    raise problems[0]


def forget_drafts(folder: Path) -> None:
    """Remove what crashes have left half written."""
    for entry in _entries(folder):
        if entry.name.startswith(".breakpoint_") and entry.name.endswith(".part"):
            shutil.rmtree(entry, ignore_errors=True)


class _Version(msgspec.Struct):
    """What every layout has."""

    version: int


def _array_file(index: int) -> str:
    return PARAMS if index == 0 else f"state_{index}.safetensors"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def _saved_at(points: list[Path]) -> int:
    try:
        return (points[-1] / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(target: Path) -> None:
    """Remove a breakpoint so that it is never half there."""
    if target.exists():
        gone = target.with_name(f".{target.name}.{os.getpid()}.old.part")
        target.rename(gone)
        shutil.rmtree(gone)


def _check_owner(path: Path) -> None:
    """A breakpoint holds source code that is executed: refuse one that somebody else could have put there."""
    for each in (path, path / MANIFEST):
        facts = each.stat()
        if facts.st_uid not in (os.getuid(), 0) or facts.st_mode & stat.S_IWOTH:
            raise BreakpointError(
                f"{each} belongs to another user, or others may write to it, and a breakpoint holds a training plan "
                "that is executed.",
                cure="If you trust it: load_breakpoint(path, trusted=True). Otherwise mend owner and modes.",
            )


def _cure_of(path: Path) -> str:
    others = [each.name for each in breakpoints_of(path.parent) if each != path]
    return f"There are also: {', '.join(others)}." if others else "Experiment(save_breakpoints=True) saves breakpoints."
