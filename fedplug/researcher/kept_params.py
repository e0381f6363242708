"""The global parameters of past rounds: on disk, and read when somebody asks for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedplug.core.errors import CodecError, StoreError
from fedplug.core.params import Params
from fedplug.core.params_file import read_params, write_params
from fedplug.researcher.progress.text import plural

FOLDER = "history"
"""In the experiment's folder."""

_NAME = re.compile(r"params_(\d{4,})\.safetensors")


class KeptParams(Mapping[int, dict[str, Params]]):
    """``{round: {"params": Params}}``, from the first round that was kept to the last one. Rounds count from 0.

    Args:
        folder: The experiment's folder; None if it has none yet.
        last_round: The last complete round; -1 if there is none.
        last: The global parameters after it; None if there are none.
    """

    def __init__(self, folder: Path | None, last_round: int, last: Params | None) -> None:
        self._folder = None if folder is None else folder / FOLDER
        self._last_round = last_round
        self._last = last

    def __getitem__(self, number: int) -> dict[str, Params]:
        if self._last is not None and number == self._last_round:
            return {"params": self._last}
        path = self._path(number)
        if number not in set(self):
            raise KeyError(number)
        try:
            return {"params": read_params(path)}
        except (OSError, CodecError) as error:
            raise StoreError(f"The parameters of round {number + 1} cannot be read from {path}: {error}") from None

    def __iter__(self) -> Iterator[int]:
        found = set() if self._last is None else {self._last_round}
        if self._folder is not None and self._folder.is_dir():
            names = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
            # of an experiment that went another way from an earlier breakpoint, later ones may lie there
            found |= {int(name[1]) - 1 for name in names if name and int(name[1]) - 1 <= self._last_round}
        return iter(sorted(found))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"KeptParams({plural(len(self), 'round')}{': ' if len(self) else ''}{', '.join(map(str, self))})"

    def keep(self) -> None:
        """Write the parameters of the last round.

        Raises:
            StoreError: They cannot be written.
        """
        if self._last is None or self._folder is None:
            return
        path = self._path(self._last_round)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_params(self._last, path)
        except OSError as error:
            raise StoreError(
                f"The parameters of round {self._last_round + 1} cannot be kept as {path}: {error.strerror or error}.",
                cure="Free some disk space, or set_retain_full_history(False). The round counts all the same.",
            ) from error

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"params_{number + 1:04d}.safetensors"
