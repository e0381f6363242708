"""The global parameters of past rounds: on disk, and read when somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedplug.core.errors import CodecError, StoreError
from fedplug.core.params import Params
from fedplug.core.params_file import read_params, write_params
from fedplug.researcher.folders import set_aside
from fedplug.researcher.progress.text import plural

FOLDER = "history"
"""In the experiment's folder."""


class KeptParams(Mapping[int, dict[str, Params]]):
    """``{round: {"params": Params}}``, from the first round that was kept to the last one. Rounds count from 0.

    Args:
        folder: The experiment's folder; None if it has none yet.
        kept: Round → fingerprint of its parameters, for those that were kept. Files of another way that the experiment
            once took may lie in the folder too.
        last_round: The last complete round; -1 if there is none.
        last: The global parameters after it; None if there are none.
    """

    def __init__(self, folder: Path | None, kept: Mapping[int, str], last_round: int, last: Params | None) -> None:
        self._folder = None if folder is None else folder / FOLDER
        self._kept = kept
        self._last_round = last_round
        self._last = last

    def __getitem__(self, number: int) -> dict[str, Params]:
        if self._last is not None and number == self._last_round:
            return {"params": self._last}
        path, wanted = self._path(number), self._kept[number]
        try:
            params = read_params(path)
            if params.fingerprint() != wanted:
                raise CodecError("they are those of another way that the experiment took")
        except (OSError, CodecError) as error:
            raise StoreError(
                f"The parameters of round {number + 1} cannot be read from {path}: {error}",
                cure=f"If there are files {path.name}.replaced-1 and so on beside it, one of them may hold them.",
            ) from None
        return {"params": params}

    def __iter__(self) -> Iterator[int]:
        return iter(sorted({*self._kept, *(() if self._last is None else (self._last_round,))}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"KeptParams({plural(len(self), 'round')}{': ' if len(self) else ''}{', '.join(map(str, self))})"

    def keep(self) -> str:
        """Write the parameters of the last round, and return their fingerprint.

        Raises:
            StoreError: They cannot be written.
        """
        assert self._last is not None
        path, fingerprint = self._path(self._last_round), self._last.fingerprint()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            set_aside(path)
            write_params(self._last, path)
        except OSError as error:
            raise StoreError(
                f"The parameters of round {self._last_round + 1} cannot be kept as {path}: {error.strerror or error}.",
                cure="Free some disk space, or set_retain_full_history(False). The round counts all the same.",
            ) from error
        return fingerprint

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"params_{number + 1:04d}.safetensors"
