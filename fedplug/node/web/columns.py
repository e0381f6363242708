"""What a form says of the columns of a data set: which plans may see, under which names, and which is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import UsageError
from fedplug.node.web.forms import Form

MOST_COLUMNS = 500
"""A data set with more columns is used with all of them, or described in a terminal: no form is that long."""


@dataclass(frozen=True)
class Said:
    """What was said, in the names that plans use: arguments of ``inspect_file`` and ``edited``.

    Attributes:
        columns: The columns that plans may see; None: all.
        mapping: Names that plans use → names in the files.
        target: What is to be predicted; empty: nothing.
    """

    columns: list[str] | None
    mapping: dict[str, str]
    target: str


@dataclass(frozen=True)
class ColumnChoice:
    """What the fields of a form say, by the names in the files.

    Attributes:
        chosen: The columns that are ticked.
        called: What plans call each column that the form shows; empty: as the files do.
        target: What is to be predicted; empty: nothing.
    """

    chosen: tuple[str, ...] = ()
    called: Mapping[str, str] = field(default_factory=dict)
    target: str = ""

    @classmethod
    def of(cls, form: Form) -> ColumnChoice:
        """What somebody has filled in."""
        called = dict(zip(form.all("source"), (name.strip() for name in form.all("called")), strict=False))
        return cls(tuple(form.all("column")), called, form.text("target"))

    @classmethod
    def of_record(cls, record: DatasetRecord, found: DatasetRecord) -> ColumnChoice:
        """What is known of a data set.

        Args:
            record: The data set.
            found: What its files hold now.
        """
        plans = {source: plan for plan, source in record.mapping.items()}
        called = {source: plans.get(source, "") for source in found.columns}
        return cls(record.sources, called, record.source(record.target) if record.target else "")

    def sees(self, source: str) -> bool:
        """Whether a column is ticked: also one that was not there when the form was made."""
        return source in self.chosen or (source not in self.called and not (self.chosen and not self.called))

    def name(self, source: str) -> str:
        """What plans call a column."""
        called = self.called.get(source, "")
        return source if called in ("", source.strip()) else called

    def said(self) -> Said:
        """The same in the names that plans use.

        Raises:
            UsageError: No column is ticked, or two would have one name.
        """
        if self.called and not self.chosen:
            raise UsageError("No column is chosen.", cure="Choose the columns that training plans may see.")
        seen = [*self.chosen, *([self.target] if self.target and self.target not in self.chosen else [])]
        names: dict[str, str] = {}
        for source in seen:
            plan = self.name(source)
            if plan in names:
                raise UsageError(
                    f"Columns {names[plan]!r} and {source!r} would both be called {plan!r}.",
                    cure="Give each a name of its own, or choose one of them only.",
                )
            names[plan] = source
        mapping = {plan: source for plan, source in names.items() if plan != source}
        columns = [self.name(source) for source in self.chosen]
        return Said(columns or None, mapping, self.name(self.target) if self.target else "")
