"""The laws of types of data sets, on the small one that each type writes by itself (`DatasetType.example`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedplug.core.dataset_type import DatasetRecord, DatasetType, Inspection, StoredDataset
from fedplug.core.errors import FedplugError
from fedplug.testing.registry import Check, CheckResult, LawBrokenError, OnFail, Profile, Subject, law, run_checks

_LABEL = "Data set 'example'"


def check_describes(kind: DatasetType) -> None:
    """What is told of a data set fits together: every column has one type, and its shape begins with its samples."""
    with _example(kind) as (path, found):
        if len(found.columns) != len(found.dtypes) or len(set(found.columns)) != len(found.columns):
            raise LawBrokenError(f"Columns {found.columns} and types {found.dtypes} do not fit each other.")
        if not found.shape or any(length < 0 for length in found.shape):
            raise LawBrokenError(f"The shape must begin with the number of samples, got {found.shape}.")
        strange = sorted(set(found.missing) - set(found.columns))
        if strange or (found.target and found.target not in found.columns):
            raise LawBrokenError(f"{strange or found.target} is none of the columns {found.columns}.")
        if len(_open(kind, path, found)) != found.shape[0]:
            raise LawBrokenError(f"It holds {len(_open(kind, path, found))} samples, but its shape is {found.shape}.")


def check_reads(kind: DatasetType) -> None:
    """Every sample can be read, twice with the same content, and there is none beyond the last."""
    with _example(kind) as (path, found):
        first, second = _open(kind, path, found), _open(kind, path, found)
        for index in range(len(first)):
            once, again = first.read(index), second.read(index)
            if not once or not _same(once, again):
                raise LawBrokenError(f"Sample {index} is {once!r} at first, and {again!r} when it is read again.")
        for beyond in (len(first), -1):
            try:
                first.read(beyond)
            except IndexError:
                continue
            raise LawBrokenError(f"There are {len(first)} samples, but read({beyond}) raises no IndexError.")


def check_uses_plan_names(kind: DatasetType) -> None:
    """Under a mapping of names a data set shows those of plans, with the same content."""
    with _example(kind) as (path, found):
        plain = _open(kind, path, found)
        mapping = {f"plan_{number}": name for number, name in enumerate(found.columns)}
        mapped = _open(kind, path, found, mapping)
        expected = {plan: plain.read(0)[name] for plan, name in mapping.items() if name in plain.read(0)}
        if not _same(mapped.read(0), {**_others(plain.read(0), mapping), **expected}):
            raise LawBrokenError(f"With {mapping} a sample holds {list(mapped.read(0))}, not {list(expected)}.")


def check_loading_plans(kind: DatasetType) -> None:
    """What a loading plan may give another name can be given one, and plans see it; every option says what it is."""
    for option, about in kind.options.items():
        if not getattr(about, "label", ""):
            raise LawBrokenError(f"Option {option!r} must be a DatasetOption with a label, got {about!r}.")
        if not about.renames:
            continue
        with _example(kind) as (path, _):
            names = list(kind.names_here(path, _LABEL, option))
            if not names or len(set(names)) != len(names):
                raise LawBrokenError(f"The names for {option!r} in the example must be different ones, got {names}.")
            for name in names:
                found = kind.inspect(path, _LABEL, None, {option: f"plan_name={name}"})
                if not any("plan_name" in text for text in (*found.columns, *found.dtypes)):
                    raise LawBrokenError(f"With {option}='plan_name={name}' plans see {found.columns}, {found.dtypes}.")


def check_refuses(kind: DatasetType) -> None:
    """What is not there, not of this type or empty is refused by a `FedplugError` that names no path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wrong: list[Path] = [folder / "nothing"]
        if kind.takes != "folder":
            noise = folder / f"noise{(*kind.suffixes, '')[0]}"
            noise.write_bytes(bytes(range(256)) * 8)
            wrong.append(noise)
        if kind.takes != "file":
            wrong.append(folder / "empty")
            wrong[-1].mkdir()
        for path in wrong:
            try:
                kind.inspect(path, _LABEL, None, {})
            except FedplugError as error:
                if name in str(error):
                    raise LawBrokenError(f"The refusal names the path: {error}") from None
            else:
                raise LawBrokenError(f"{path.name!r} is taken for a data set of type {kind.name!r}.")


def check_survives_damage(kind: DatasetType) -> None:
    """A file that is cut short is read as it is, or refused by a `FedplugError` and no other."""
    with _example(kind) as (path, _):
        for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
            whole = file.read_bytes()
            for length in (1, len(whole) // 2, len(whole) - 1):
                file.write_bytes(whole[:length])
                try:
                    dataset = _open(kind, path, kind.inspect(path, _LABEL, None, {}))
                    for index in range(len(dataset)):
                        dataset.read(index)
                except FedplugError:
                    continue
                finally:
                    file.write_bytes(whole)


DATASET_TYPE_CHECKS: tuple[Check, ...] = (
    law(check_describes),
    law(check_reads),
    law(check_uses_plan_names),
    law(check_loading_plans),
    law(check_refuses),
    law(check_survives_damage),
)
"""All laws of types of data sets."""


def check_dataset_type(
    kind: DatasetType | Subject,
    on_fail: OnFail = "raise",
    profile: Profile = "quick",
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Test a type of data sets against every law.

    Args:
        kind: An instance.
        on_fail: ``"raise"`` to stop at the first law that is broken, ``"report"`` to go on.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Id of a law that it breaks and will break → why.

    Returns:
        One result per law.

    Raises:
        LawBrokenError: A law is broken, and ``on_fail`` is ``"raise"``.
    """
    subject = Subject.of(kind).with_options(expected_failures)
    return run_checks(DATASET_TYPE_CHECKS, subject, on_fail=on_fail, profile=profile)


@contextmanager
def _example(kind: DatasetType) -> Iterator[tuple[Path, Inspection]]:
    with tempfile.TemporaryDirectory() as name:
        path = kind.example(Path(name).resolve())
        if not os.path.lexists(path):
            raise LawBrokenError(f"example() returned {path}, where it has written nothing.")
        yield path, kind.inspect(path, _LABEL, None, {})


def _open(kind: DatasetType, path: Path, found: Inspection, mapping: Mapping[str, str] | None = None) -> StoredDataset:
    plans = {source: plan for plan, source in (mapping or {}).items()}
    record = DatasetRecord(
        dataset_id="ds-example",
        name="example",
        type=kind.name,
        path=str(path),
        tags=("example",),
        target=plans.get(found.target, found.target),
        shape=found.shape,
        columns=tuple(plans.get(name, name) for name in found.columns),
        dtypes=found.dtypes,
        mapping=dict(mapping or {}),
        more_paths=tuple(map(str, found.more_paths)),
    )
    dataset = kind.open(record)
    dataset.prepare()
    if dataset.target != record.target:
        raise LawBrokenError(f"Its target is {dataset.target!r}, not {record.target!r}.")
    return dataset


def _others(sample: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """What a sample holds beside its columns."""
    return {name: value for name, value in sample.items() if name not in mapping.values()}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if set(one) != set(other):
        return False
    for name, value in one.items():
        left, right = np.asarray(value), np.asarray(other[name])
        if not np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"):
            return False
    return True
