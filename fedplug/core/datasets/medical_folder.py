"""Medical volumes in a folder per subject, for training plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedplug.core.datasets.base import PlanDataset, Transform
from fedplug.core.errors import DatasetError, UsageError
from fedplug.core.params import Array


class MedicalFolderDataset(PlanDataset):
    """The subjects of a data set of type ``medical`` that have everything that is asked for here.

    Volumes have the shape and the values that they have in their files, float32; those of targets that hold whole
    numbers, such as masks, stay whole numbers (int64). A modality that is named alone is one array; several are a dict.

    Args:
        data_modalities: One or several modalities.
        target_modalities: Those to predict, e.g. a mask.
        demographics: Columns of the table, which become a float32 vector beside the volumes, under the key
            ``"demographics"`` of the data.
        target: The column of the table to predict, instead of target modalities.
        transform: Applied to the data: a function, or where it is a dict, one for each of some keys.
        target_transform: Likewise for the target. A column of text needs one, such as ``{"no": 0, "yes": 1}.get``.

    Raises:
        UsageError: There is no modality, or both kinds of targets.

    Example:
        >>> dataset = MedicalFolderDataset(["T1", "T2"], target="diagnosis", demographics=["age"])
    """

    needs = "medical"

    def __init__(
        self,
        data_modalities: str | Sequence[str],
        target_modalities: str | Sequence[str] | None = None,
        *,
        demographics: str | Sequence[str] = (),
        target: str = "",
        transform: Transform = None,
        target_transform: Transform = None,
    ) -> None:
        super().__init__(transform, target_transform)
        self.data_modalities = _names(data_modalities)
        self.target_modalities = _names(target_modalities or ())
        self.demographics = _names(demographics)
        self.target = target
        self._single = isinstance(data_modalities, str) and not self.demographics
        self._single_target = isinstance(target_modalities, str)
        self._subjects: Array = np.empty(0, np.int64)
        if not self.data_modalities:
            raise UsageError("MedicalFolderDataset needs a modality.", cure='E.g. MedicalFolderDataset("T1").')
        if self.target_modalities and target:
            raise UsageError(
                "MedicalFolderDataset can predict modalities or a column of the table, but not both.",
                cure="Give either target_modalities or target.",
            )

    def connect(self) -> None:
        """Find the subjects that have everything.

        Raises:
            DatasetError: There is no such modality or column, a column is text, or no subject has everything.
        """
        columns = [*self.demographics, *([self.target] if self.target else ())]
        wanted = list(dict.fromkeys([*self.data_modalities, *self.target_modalities, *columns]))
        self._subjects = self.node.having(wanted)
        if not len(self._subjects):
            raise DatasetError(
                f"No subject of data set {self.node.name!r} has all of: {', '.join(wanted)}.",
                cure="Ask for less, or for what its owner has.",
            )
        first = int(self._subjects[0])
        for name, value in self.node.read(first, columns).items():
            changed = name == self.target and name not in self.demographics and self.target_transform is not None
            if not changed and np.asarray(value).dtype.kind not in "biuf":
                raise DatasetError(
                    f"Column {name!r} of data set {self.node.name!r} is text.",
                    cure='Give a target_transform for it, e.g. {"no": 0, "yes": 1}.get; or leave it out.',
                )

    def __len__(self) -> int:
        self.node  # noqa: B018 - says that there is none yet
        return len(self._subjects)

    def sample(self, index: int) -> tuple[Any, Any]:
        """As `PlanDataset.sample`."""
        found = self.node.read(int(self._subjects[index]), self._wanted())
        data: Any = {name: np.asarray(found[name], np.float32) for name in self.data_modalities}
        if self.demographics:
            data["demographics"] = np.array([found[name] for name in self.demographics], np.float32)
        if self.target:
            target: Any = found[self.target]
        else:
            target = {name: _as_target(found[name]) for name in self.target_modalities} or None
        if self._single_target:
            target = target[self.target_modalities[0]]
        return data[self.data_modalities[0]] if self._single else data, target

    def targets(self) -> Array | None:
        """The column to predict, if one is: it is read without any volume."""
        if not self.target:
            return None
        return np.array([self.node.read(int(i), [self.target])[self.target] for i in self._subjects])

    def _wanted(self) -> list[str]:
        column = [self.target] if self.target else []
        return list(dict.fromkeys([*self.data_modalities, *self.target_modalities, *self.demographics, *column]))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _as_target(values: Array) -> Array:
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float32)
