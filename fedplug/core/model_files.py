"""Models as files: one small table of formats, atomic writing, and a comparison that lists all that differs.

A format turns a framework's object (a dict of arrays here, a ``state_dict`` for PyTorch, an estimator later) into
a file and back. Reading a file never runs code unless its user has said that it is trusted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedplug.core.errors import CodecError, ParamsError, UsageError
from fedplug.core.params import Array
from fedplug.core.whole_file import whole_file

_LISTED = 8  # names of each kind that an error shows

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by name."""


@dataclass(frozen=True)
class ModelFormat:
    """One way to keep a model in a file.

    Attributes:
        save: Writes the object into an open file.
        load: Reads it from a path, without running anything that stands in the file.
        load_trusted: The same for a file that the user trusts; None: as ``load``.
    """

    save: Callable[[Any, BinaryIO], object]
    load: Callable[[Path], Any]
    load_trusted: Callable[[Path], Any] | None = None


def write_model(model: Any, path: str | Path, formats: Mapping[str, ModelFormat]) -> Path:
    """Write a model in the format that the suffix of ``path`` names; the file is there as a whole or not at all.

    Raises:
        UsageError: The suffix is none of ``formats``, or the folder is not there.
    """
    target = Path(path).expanduser()
    form = _format_of(target, formats, "export a model to")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", cure="Make it first, or give another path.")
    with whole_file(target) as draft, draft.open("xb") as file:
        form.save(model, file)
    return target


def read_model(path: str | Path, formats: Mapping[str, ModelFormat], *, trusted: bool = False) -> Any:
    """Read a model in the format that the suffix of ``path`` names.

    Raises:
        UsageError: There is no such file, its suffix is none of ``formats``, or it must be trusted and is not.
        CodecError: It is damaged, or something else than its suffix says.
    """
    source = Path(path).expanduser()
    form = _format_of(source, formats, "import a model from")
    if not source.is_file():
        raise UsageError(f"There is no file {source}.", cure="Check the path; export_model writes such a file.")
    return (form.load_trusted or form.load)(source) if trusted else form.load(source)


def require_layout(path: str | Path, own: Layout, found: Layout) -> None:
    """Check that a file holds exactly the model's arrays.

    Args:
        path: The file, for the error.
        own: What the model has.
        found: What the file has.

    Raises:
        ParamsError: It does not; missing, unexpected and differing names are listed.
    """
    missing = [name for name in own if name not in found]
    unexpected = [name for name in found if name not in own]
    differing = [
        f"{name} ({_told(found[name])} in the file, {_told(own[name])} in the model)"
        for name in own
        if name in found and found[name] != own[name]
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("different", differing)]
    lines = [f"  - {kind}: {_some(names)}" for kind, names in parts if names]
    if lines:
        raise ParamsError(
            f"The model in {path} is not this plan's model:\n" + "\n".join(lines),
            cure="Import a file of the same model, or change init_model or model_args to make the model of the file.",
        )


def require_finite(path: str | Path, bad: list[str]) -> None:
    """Refuse a file with values that are NaN or infinite.

    Raises:
        ParamsError: ``bad`` names an array.
    """
    if bad:
        raise ParamsError(
            f"The model in {path} has values that are not finite (NaN or infinite), in: {_some(bad)}.",
            cure="Import a model from before its training diverged.",
        )


def damaged(path: Path, error: BaseException) -> CodecError:
    """The error for a file that cannot be read as what its suffix says."""
    said = next(iter(str(error).splitlines()), "")
    # That some key was not found says nothing to anybody who has not written the reader.
    reason = "" if isinstance(error, LookupError) else f" ({type(error).__name__}{said and ': '}{said})"
    return CodecError(
        f"{path} is damaged, or no {path.suffix} file{reason}.",
        cure="Check where it comes from, and its suffix.",
    )


# dicts of arrays -------------------------------------------------------------------------------------------


def _save_npz(arrays: Mapping[str, Array], file: BinaryIO) -> None:
    # numpy.savez takes names as keywords, and so cannot take every name
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        # numpy.load leaves a file that it has opened open when it fails
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, MemoryError) as error:
        raise damaged(path, error) from error


def _save_safetensors(arrays: Mapping[str, Array], file: BinaryIO) -> None:
    from safetensors.numpy import save

    file.write(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def _load_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _save_joblib(model: Any, file: BinaryIO) -> None:
    _package("joblib").dump(model, file)


def _refuse_joblib(path: Path) -> Any:
    raise UsageError(
        f"{path} is a joblib file, which is a pickle: reading one can run any code that its maker has put in.",
        cure="import_model(path, trusted=True) for a file that you have made yourself; to pass a model on, export it "
        "as .skops or .safetensors, which can be read without trust.",
    )


def _load_joblib(path: Path) -> Any:
    joblib = _package("joblib")
    try:
        return joblib.load(path)
    except Exception as error:
        raise damaged(path, error) from error


def _save_skops(model: Any, file: BinaryIO) -> None:
    file.write(_package("skops.io").dumps(model))


def _load_skops(path: Path) -> Any:
    skops = _package("skops.io")
    try:
        foreign = skops.get_untrusted_types(file=path)
        if not foreign:
            return skops.load(path, trusted=[])
    except Exception as error:
        raise damaged(path, error) from error
    raise UsageError(
        f"{path} holds more than arrays: {_some(sorted(foreign))}.",
        cure="Export the arrays alone, with FedPlug's export_model or as .safetensors.",
    )


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"Files of this kind need the package {package}: {error}.",
            cure=f"pip install {package}; or use .safetensors, which needs nothing more.",
        ) from error


SAFETENSORS = ModelFormat(_save_safetensors, _load_safetensors)
JOBLIB = ModelFormat(_save_joblib, _refuse_joblib, _load_joblib)
SKOPS = ModelFormat(_save_skops, _load_skops)
NPZ = ModelFormat(_save_npz, _load_npz)

ARRAY_FORMATS: Mapping[str, ModelFormat] = {
    ".npz": NPZ, ".safetensors": SAFETENSORS, ".joblib": JOBLIB, ".skops": SKOPS,
}  # fmt: skip
"""Formats of a dict of arrays, by suffix."""


def _format_of(path: Path, formats: Mapping[str, ModelFormat], what: str) -> ModelFormat:
    if path.suffix.lower() not in formats:
        raise UsageError(
            f"This plan cannot {what} {path.name!r}: the suffix says the format, and this one is not known.",
            cure=f"Use one of: {', '.join(formats)}.",
        )
    return formats[path.suffix.lower()]


def _told(layout: tuple[tuple[int, ...], str]) -> str:
    return f"{layout[1]} {list(layout[0])}"


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", and {rest} more" if rest > 0 else "")
